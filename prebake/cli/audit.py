"""`prebake audit DIR`: recompute records from the source images and compare them with the stored bytes."""

import argparse
import json
import shlex

from prebake.cli.options import (
    add_source_options,
    add_transform_options,
    decoding,
    given_source,
    transforms_of,
    user_path,
)
from prebake.cli.parser import CommandParser
from prebake.loader.shard_set import ShardSet
from prebake.precompute.audit import SAMPLE, audit_records, choose_seed, refuse_differences
from prebake.precompute.provenance import find_provenance

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake audit",
        description="Recompute records from the source images and the plan, and compare them with the stored bytes.",
    )
    add = options.add_argument
    add("directory", type=user_path, metavar="DIR", help="a shard set, such as shards/cifar10")
    add(
        "--dataset",
        metavar="NAME",
        help="source of the images, such as folder:PATH; default the one named in the manifest",
    )
    add_source_options(options)
    add_transform_options(options)
    many = options.add_mutually_exclusive_group()
    many.add_argument(
        "--sample", type=int, default=SAMPLE, help=f"number of records to check, chosen at random; default {SAMPLE}"
    )
    many.add_argument("--all", action="store_true", help="check all records")
    add("--seed", type=int, help="seed of the choice of records; default random")
    add("--json", action="store_true", help="print the result as JSON")
    return options


def main() -> None:
    """Audit the set of a known data set, and print what was found."""
    chosen = parser().parse_args()
    sample = None if chosen.all else chosen.sample
    seed = choose_seed(sample, chosen.seed)
    data = ShardSet(chosen.directory)
    how = decoding(chosen, None)
    provenance = find_provenance(data, chosen.dataset, chosen.data_dir, how, *transforms_of(chosen))
    found = audit_records(data, provenance, sample, seed)
    if chosen.json:
        about = {"directory": str(data.path), "records": found.records, "records_planned": found.planned}
        drawn = {} if sample is None else {"seed": seed}
        print(json.dumps({**about, **drawn, "differing": found.differing, "missing": found.missing}, indent=1))
    else:
        for words in (*(f"missing  {name}" for name in found.missing), *found.differing.values()):
            print(words)
    again = shlex.join([str(data.path), *found.differing, *given_source(chosen)])
    refuse_differences(data, found, f"Bake them anew: prebake repair {again}")
    if not chosen.json:
        which = "" if found.records == found.planned else f" (drawn by --seed {seed})"
        counts = f"{found.records:,} of {found.planned:,} records"
        print(f"{data.path}: {counts} derived anew, byte for byte as stored{which}")
