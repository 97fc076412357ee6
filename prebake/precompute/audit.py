"""Auditing: records derived anew from the source images and the plan, and held against the stored bytes.

A checksum proves that bytes are those which were written. This proves that what was written is what the plan says.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed
from prebake.format.manifest import MAX_SEED, Shard
from prebake.format.record import Layout
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import order
from prebake.precompute.progress import Progress
from prebake.precompute.provenance import Provenance, match_provenance
from prebake.precompute.recompute import compare
from prebake.precompute.sources.known import SourceData, checked_images
from prebake.precompute.workers import each_in_threads, stop_if

__all__ = ["SAMPLE", "Audit", "audit", "audit_records", "choose_seed", "refuse_differences"]

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
    seed = choose_seed(sample, seed)
    data = ShardSet(out)
    splits = {"train": checked_images(images, labels, "images")}
    if test is not None:
        splits["test"] = checked_images(*test, "test images")
    names = tuple(classes) if classes is not None else data.classes
    provenance = match_provenance(data.location, data.plan, SourceData(data.name, names, splits))
    found = audit_records(data, provenance, sample, seed)
    remedy = "remove the indexes (.json) of those that differ, and call prebake.bake() with the same arrays"
    refuse_differences(data, found, f"Bake them anew: {remedy}")


def choose_seed(sample: int | None, seed: int | None) -> int:
    """Return the seed to draw so many records with: the given one, or a fresh one."""
    if sample is not None and sample < 1:
        raise UsageError(f"--sample: expected at least 1, found {sample}")
    if seed is None:
        return secrets.randbelow(2**31)
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    return seed


def refuse_differences(data: ShardSet, found: Audit, remedy: str) -> None:
    troubles = []
    if found.differing:
        count = len(found.differing)
        troubles.append(f"{count} shards differ from what was planned ({listed([*found.differing.values()], 1)})")
    if found.missing:
        troubles.append(f"{len(found.missing)} shards are missing ({listed(found.missing)})")
    if troubles:
        raise DataError(f"{data.path}: {'; '.join(troubles)}. {remedy}")


def audit_records(data: ShardSet, provenance: Provenance, sample: int | None, seed: int) -> Audit:
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
