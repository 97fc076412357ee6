"""Audit a shard set: recompute records from the source images and the plan, and compare them with the stored bytes.

A checksum proves that bytes are as they were written. An audit proves that the right bytes were written.
"""

import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prebake.cores import usable_cores
from prebake.errors import DataError, UsageError, listed
from prebake.format.manifest import MAX_SEED, Shard
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Pipeline, Transform, order
from prebake.precompute.progress import Progress
from prebake.precompute.provenance import Provenance, match_provenance
from prebake.precompute.recompute import compare
from prebake.precompute.sources.arrays import source_from
from prebake.precompute.sources.registry import Decoding
from prebake.precompute.workers import imap_threads

__all__ = ["SAMPLE", "Audit", "audit", "audit_records", "choose_seed", "refuse_differences"]

SAMPLE = 100
STATEFUL = (
    "Either the bytes changed, or the transform keeps state or draws from other generators than random, numpy.random "
    "and torch: then correct it and bake with --overwrite (overwrite=True)"
)


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        records: number of records that were compared.
        planned: number of records of the whole set.
        differing: description of the difference in each shard that differs, by the name of its archive.
        missing: archives that do not exist.
    """

    records: int
    planned: int
    differing: dict[str, str]
    missing: list[str]


def audit(
    data: Any,
    labels: Any = None,
    *,
    out: str | Path,
    test: Any = None,
    classes: Iterable[str] | None = None,
    image_size: int | None = None,
    transform: Transform | None = None,
    test_transform: Transform | None = None,
    sample: int | None = SAMPLE,
    seed: int | None = None,
) -> Audit:
    """Recompute records of the shard set `out` from its source, and compare every byte.

    Args:
        data: what was passed to `bake`.
        labels: likewise.
        out: the directory of the set. Its manifest holds the other arguments of `bake`.
        test: as for `bake`.
        classes: names of the classes; by default those of the manifest.
        image_size: as for `bake`.
        transform: as for `bake`.
        test_transform: as for `bake`.
        sample: number of records, drawn at random; None: all.
        seed: of this draw, 0 to 2^63 - 1; None: a random one, which nobody can know beforehand.

    Returns:
        The number of records that were compared; nothing differs, and nothing is missing.

    Raises:
        UsageError: an argument outside its range, or arrays that do not fit each other.
        DataError: other arrays were baked, stored bytes differ, or shards are missing.
    """
    seed = choose_seed(sample, seed)
    shards = ShardSet(out)
    how = Decoding(image_size=image_size)
    source = source_from(data, labels, test=test, classes=classes, name=shards.name, how=how)
    if classes is None:
        source = replace(source, classes=shards.classes)
    provenance = match_provenance(
        shards.location,
        shards.plan,
        source,
        None if transform is None else Pipeline.of(transform),
        None if test_transform is None else Pipeline.of(test_transform, "test_transform"),
    )
    found = audit_records(shards, provenance, sample, seed)
    remedy = "remove the indexes (.json) of those that differ, and call prebake.bake() with the same arrays"
    refuse_differences(shards, found, f"Bake them anew: {remedy}")
    return found


def choose_seed(sample: int | None, seed: int | None) -> int:
    """Return the given seed, or a random one; raises UsageError."""
    if sample is not None and sample < 1:
        raise UsageError(f"--sample: expected at least 1, found {sample}")
    if seed is None:
        return secrets.randbelow(2**31)
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    return seed


def refuse_differences(data: ShardSet, found: Audit, remedy: str) -> None:
    """Raise DataError if records differ or shards are missing; `remedy` ends the message."""
    troubles = []
    if found.differing:
        count = len(found.differing)
        words = "1 shard differs" if count == 1 else f"{count} shards differ"
        troubles.append(f"{words} from what was planned ({listed([*found.differing.values()], 1)})")
        if "transform" in data.plan.augmentation or "test_transform" in data.plan.augmentation:
            remedy = f"{STATEFUL}. {remedy}"
    if found.missing:
        words = "1 shard is" if len(found.missing) == 1 else f"{len(found.missing)} shards are"
        troubles.append(f"{words} missing ({listed(found.missing)})")
    if troubles:
        raise DataError(f"{data.path}: {'; '.join(troubles)}. {remedy}")


def audit_records(data: ShardSet, provenance: Provenance, sample: int | None, seed: int) -> Audit:
    """Recompute and compare the records of all shards that exist, or a sample of them."""
    missing = data.missing()
    planned = data.plan.shards()
    chosen = _drawn([shard for shard in planned if shard.tar not in set(missing)], sample, seed)

    def audit_shard(shard: Shard, stopped: threading.Event) -> tuple[Shard, str | None]:
        return shard, compare(data, shard, chosen[shard], provenance, stopped)

    # A transform draws from the global generators of this process.
    workers = 1 if provenance.augmentation.transform is not None else usable_cores()
    differing: dict[str, str] = {}
    with Progress(data.name, "audit", [*chosen] if sample is None else []) as progress:
        for shard, difference in imap_threads(audit_shard, list(chosen), workers):
            if difference:
                differing[shard.tar] = difference
            if sample is None:
                progress.update(shard)
    records = sum(len(numbers) for numbers in chosen.values())
    return Audit(records, sum(len(shard.layouts) for shard in planned), dict(sorted(differing.items())), missing)


def _drawn(shards: Sequence[Shard], sample: int | None, seed: int) -> dict[Shard, list[int]]:
    """Draw records of these shards without repetition; return their numbers in each shard, ascending."""
    counts = [len(shard.layouts) for shard in shards]
    bounds = np.cumsum(counts)
    numbers: dict[Shard, list[int]] = {}
    for record in np.sort(order(seed, 0, sum(counts))[:sample]).tolist():
        at = int(np.searchsorted(bounds, record, "right"))
        shard = shards[at]
        numbers.setdefault(shard, []).append(record - int(bounds[at]) + counts[at])
    return numbers
