"""What a shard set holds, in figures."""

import hashlib
from typing import Any

from shards.errors import DataError, UsageError
from shards.lock import locked
from shards.plan import MANIFEST, SPLITS
from shards.reader import ShardSet
from shards.writer import write_whole

__all__ = ["describe", "digest", "drop_epochs", "epoch_range"]


def describe(data: ShardSet) -> dict[str, Any]:
    """Return source, augmentation, epochs, samples, bytes, and what is missing, as plain JSON values."""
    plan = data.plan
    planned = plan.shards()
    missing = set(data.missing())
    return {
        "directory": str(data.path),
        "source": plan.source.to_json(),
        "augmentation": dict(plan.augmentation),
        "encoding": plan.encoding,
        "seed": plan.seed,
        "identity": plan.identity,
        "image_shape": list(data.image_shape("train")),
        "epochs": plan.epochs,
        "epochs_whole": sum(not data.missing("train", epoch) for epoch in range(plan.epochs)),
        "samples": {split: data.samples(split) for split in SPLITS if split in data.splits},
        "shards": len(planned),
        "bytes": sum(shard.size_bytes for shard in planned if shard.tar not in missing),
        "bytes_planned": sum(shard.size_bytes for shard in planned),
        "missing": sorted(missing),
    }


def digest(data: ShardSet) -> str:
    """Return one SHA-256 for the whole set: over the manifest and all indexes, which hold every archive's xxh3-128.

    Raises:
        DataError: a planned shard is missing.
    """
    missing = data.missing()
    if missing:
        raise DataError(f"{data.path}: no digest of an unfinished set; {len(missing)} shards are missing")
    whole = hashlib.sha256((data.path / MANIFEST).read_bytes())
    for shard in data.plan.shards():
        whole.update((data.path / shard.index).read_bytes())
    return whole.hexdigest()


def epoch_range(text: str, epochs: int) -> range:
    """Read `3`, `0-7` or `20-` as a range of a set's epochs.

    Raises:
        UsageError: not of that form, or outside 0 to epochs - 1.
    """
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() or not last):
        start = int(first)
        stop = start if not dash else int(last) if last else epochs - 1
        if start <= stop < epochs:
            return range(start, stop + 1)
    raise UsageError(f"--epochs: expected one of 0 to {epochs - 1}, or a range like 0-7 or 20-, found {text!r}")


def drop_epochs(data: ShardSet, first: int) -> int:
    """Remove the epochs from `first` to the last, from the plan and the disk; return the bytes freed.

    Raises:
        UsageError: no epoch would be left.
        DataError: another process is baking there.
    """
    if first < 1:
        raise UsageError("--epochs: at least epoch 0 stays; to remove all, remove the directory")
    with locked(data.path):
        write_whole(data.path / MANIFEST, data.plan.with_epochs(first).to_bytes())
        freed = 0
        for epoch in range(first, data.epochs):
            for shard in data.plan.shards("train", epoch):
                # The index first: without it, the archive counts for nothing.
                for path in (data.path / shard.index, data.path / shard.tar):
                    freed += path.stat().st_size if path.exists() else 0
                    path.unlink(missing_ok=True)
    return freed
