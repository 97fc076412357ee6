"""Auditing: records derived anew from the source images and the plan, and held against the stored bytes.

A checksum proves that bytes are those which were written. This proves that what was written is what the plan says.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prebake.cli.options import add_source_options, decoding, given_source
from prebake.errors import DataError, UsageError, listed
from prebake.format.manifest import MAX_SEED, Shard
from prebake.format.record import Layout
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import order
from prebake.precompute.progress import Progress
from prebake.precompute.provenance import Provenance, find_provenance, match_provenance
from prebake.precompute.recompute import compare
from prebake.precompute.sources.known import SourceData, checked_images
from prebake.precompute.workers import each_in_threads, stop_if

__all__ = ["Audit", "audit", "main"]

SAMPLE = 100


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        records: derived anew and compared.
        planned: records of the whole set.
        differing: words on each shard that differs, by the name of its archive.
        missing: archives that are not there yet.
    """

    records: int
    planned: int
    differing: dict[str, str]
    missing: list[str]


def audit(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    out: str | Path,
    test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    classes: Iterable[str] | None = None,
    sample: int | None = SAMPLE,
    seed: int | None = None,
) -> None:
    """Derive records of the shard set `out` anew from a user's own arrays, and compare them byte for byte.

    Args:
        images, labels, test: the arrays that `bake` was given.
        out: the directory of the set. All else that was given to `bake` stands in its manifest.
        classes: names of the classes; by default those of the manifest are believed.
        sample: how many records, drawn at random; None for all.
        seed: which ones are drawn, 0 to 2^63 - 1; None: others each time, so that nobody knows beforehand which.

    Raises:
        UsageError: an argument outside its range, or arrays that don't fit each other.
        DataError: the arrays are not those which were baked, stored bytes differ, or shards are missing.
    """
    seed = _seed(sample, seed)
    data = ShardSet(out)
    splits = {"train": checked_images(images, labels, "images")}
    if test is not None:
        splits["test"] = checked_images(*test, "test images")
    names = tuple(classes) if classes is not None else data.classes
    provenance = match_provenance(data.location, data.plan, SourceData(data.name, names, splits))
    found = _audit(data, provenance, sample, seed)
    remedy = "remove the indexes (.json) of those that differ, and call prebake.bake() with the same arrays"
    _refuse(data, found, f"Bake them anew: {remedy}")


def main(arguments: Sequence[str]) -> None:
    """Audit the set of a known data set, and print what was found."""
    chosen = parser().parse_args(arguments)
    sample = None if chosen.all else chosen.sample
    seed = _seed(sample, chosen.seed)
    data = ShardSet(chosen.directory)
    found = _audit(data, find_provenance(data, chosen.dataset, chosen.data_dir, decoding(chosen, None)), sample, seed)
    if chosen.json:
        about = {"directory": str(data.path), "records": found.records, "records_planned": found.planned}
        drawn = {} if sample is None else {"seed": seed}
        print(json.dumps({**about, **drawn, "differing": found.differing, "missing": found.missing}, indent=1))  # noqa: T201 - the command's result
    else:
        for words in (*(f"missing  {name}" for name in found.missing), *found.differing.values()):
            print(words)  # noqa: T201 - likewise
    again = shlex.join([str(data.path), *found.differing, *given_source(chosen)])
    _refuse(data, found, f"Bake them anew: python -m precompute repair {again}")
    if not chosen.json:
        which = "" if found.records == found.planned else f" (drawn by --seed {seed})"
        counts = f"{found.records:,} of {found.planned:,} records"
        print(f"{data.path}: {counts} derived anew, byte for byte as stored{which}")  # noqa: T201 - likewise


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m precompute audit",
        description="Derive records anew from the source images and the plan, and hold them against the stored bytes.",
    )
    add = options.add_argument
    add("directory", type=Path, metavar="DIR", help="a shard set, such as shards/cifar10")
    add("--dataset", metavar="NAME", help="where the pictures are, as folder:PATH; by default what the manifest names")
    add_source_options(options)
    many = options.add_mutually_exclusive_group()
    many.add_argument("--sample", type=int, default=SAMPLE, help=f"how many records to draw; default {SAMPLE}")
    many.add_argument("--all", action="store_true", help="all records")
    add("--seed", type=int, help="draw the same records again; default others each time")
    add("--json", action="store_true", help="print JSON")
    return options


def _seed(sample: int | None, seed: int | None) -> int:
    """Return the seed to draw so many records with: the given one, or a fresh one."""
    if sample is not None and sample < 1:
        raise UsageError(f"--sample: expected at least 1, found {sample}")
    if seed is None:
        return secrets.randbelow(2**31)
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    return seed


def _refuse(data: ShardSet, found: Audit, remedy: str) -> None:
    troubles = []
    if found.differing:
        count = len(found.differing)
        troubles.append(f"{count} shards differ from what was planned ({listed([*found.differing.values()], 1)})")
    if found.missing:
        troubles.append(f"{len(found.missing)} shards are missing ({listed(found.missing)})")
    if troubles:
        raise DataError(f"{data.path}: {'; '.join(troubles)}. {remedy}")


def _audit(data: ShardSet, provenance: Provenance, sample: int | None, seed: int) -> Audit:
    """Derive a sample of the records that are there, or all of them, shard by shard, and compare."""
    missing = data.missing()
    planned = data.plan.shards()
    present = [shard for shard in planned if shard.tar not in set(missing)]
    chosen = _drawn(present, sample, seed)
    differing: dict[str, str] = {}
    bar = Progress(data.name, "audit", present) if sample is None else contextlib.nullcontext()
    with bar as progress:

        def look(shard: Shard, stopped: threading.Event) -> None:
            def done(layout: Layout) -> None:
                stop_if(stopped)
                if progress:
                    progress.add(layout.samples)

            words = compare(data, shard, chosen[shard], provenance, done)
            if words:
                differing[shard.tar] = words
            if progress:
                progress.finish(shard)

        # torch's generator, from which a transform draws, is one for all threads.
        workers = 1 if provenance.augmentation.transform != "none" else os.cpu_count() or 1
        each_in_threads(look, list(chosen), workers)
    records = sum(len(numbers) for numbers in chosen.values())
    return Audit(records, sum(len(shard.layouts) for shard in planned), dict(sorted(differing.items())), missing)


def _drawn(shards: Sequence[Shard], sample: int | None, seed: int) -> dict[Shard, list[int]]:
    """Draw records of these shards without repetition, all alike; return their numbers in each shard, ascending."""
    counts = [len(shard.layouts) for shard in shards]
    bounds = np.cumsum(counts)
    numbers: dict[Shard, list[int]] = {}
    for record in np.sort(order(seed, 0, sum(counts))[:sample]).tolist():
        at = int(np.searchsorted(bounds, record, "right"))
        shard = shards[at]
        numbers.setdefault(shard, []).append(record - int(bounds[at]) + counts[at])
    return numbers
