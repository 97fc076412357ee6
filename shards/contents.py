"""What a shard set holds, in figures."""

import hashlib
from typing import Any

from shards.errors import DataError
from shards.index import Index
from shards.plan import SPLITS
from shards.reader import ShardSet

__all__ = ["describe", "digest"]


def describe(data: ShardSet) -> dict[str, Any]:
    """Return source, augmentation, epochs, samples, bytes, and what is missing, as plain JSON values."""
    plan = data.plan
    planned = plan.shards()
    missing = set(data.missing())
    return {
        "directory": str(data.place),
        "source": plan.source.to_json(),
        "augmentation": dict(plan.augmentation),
        "encoding": plan.encoding,
        "seed": plan.seed,
        "identity": plan.identity,
        "image_shape": list(data.image_shape("train")),
        "epochs": plan.epochs,
        "epochs_whole": plan.epochs
        - len({shard.epoch for shard in planned if shard.split == "train" and shard.tar in missing}),
        "samples": {split: data.samples(split) for split in SPLITS if split in data.splits},
        "shards": len(planned),
        "bytes": sum(shard.size_bytes for shard in planned if shard.tar not in missing),
        "bytes_planned": sum(shard.size_bytes for shard in planned),
        "missing": sorted(missing),
    }


def digest(data: ShardSet) -> str:
    """Return one SHA-256 for the whole set: over the manifest and all indexes, which hold every archive's xxh3-128.

    Raises:
        DataError: a planned shard is missing, or an index is damaged.
    """
    missing = data.missing()
    if missing:
        raise DataError(f"{data.place}: no digest of an unfinished set; {len(missing)} shards are missing")
    whole = hashlib.sha256(data.plan.to_bytes())
    for shard in data.plan.shards():
        whole.update(Index.read(data.place, shard, data.plan.identity).to_bytes())
    return whole.hexdigest()
