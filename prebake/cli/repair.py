"""`prebake repair DIR`: bake the missing and damaged shards of a set."""

import argparse

from prebake.cli.options import (
    add_memory_option,
    add_source_options,
    add_transform_options,
    decoding,
    memory_of,
    transforms_of,
    user_path,
)
from prebake.cli.parser import CommandParser
from prebake.errors import UsageError, listed
from prebake.loader.shard_set import ShardSet
from prebake.precompute.bake import bake_source
from prebake.precompute.provenance import find_provenance
from prebake.storage.lock import locked

__all__ = ["main"]


def main() -> None:
    """Bake the missing and damaged shards of a set, and the shards that are named."""
    chosen = parser().parse_args()
    if chosen.workers is not None and chosen.workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {chosen.workers}")
    data = ShardSet(chosen.directory)
    planned = {shard.tar: shard for shard in data.plan.shards()}
    unknown = [name for name in chosen.shards if name not in planned]
    if unknown:
        raise UsageError(
            f"{data.path}: no shard named {listed(unknown)} is planned; they are named like train-e000-000.tar"
        )
    memory = memory_of(chosen)
    provenance = find_provenance(
        data, chosen.dataset, chosen.data_dir, decoding(chosen, data.path), *transforms_of(chosen)
    )
    if chosen.shards:
        with locked(data.path):
            for name in chosen.shards:
                (data.path / planned[name].index).unlink(missing_ok=True)  # a shard without an index does not count
    bake_source(provenance.source, data.plan, provenance.augmentation, data.path, memory=memory, workers=chosen.workers)
    print(f"{data.path}: all {len(planned)} shards are whole")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake repair",
        description="Bake missing and damaged shards again, and leave the other shards unchanged.",
    )
    add = options.add_argument
    add("directory", type=user_path, metavar="DIR", help="a shard set, such as shards/cifar10")
    add("shards", nargs="*", metavar="SHARD", help="archives to bake again even if their checksums are correct")
    add(
        "--dataset",
        metavar="NAME",
        help="source of the images, such as folder:PATH; default the one named in the manifest",
    )
    add_source_options(options)
    add("--workers", type=int, help="number of threads, or of processes for a transform; default one per core")
    add_memory_option(options)
    add_transform_options(options)
    return options
