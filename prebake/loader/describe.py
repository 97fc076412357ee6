"""Facts about a shard set, and its digest."""

import hashlib
from pathlib import Path
from typing import Any

from prebake.errors import DataError
from prebake.format.columns import columns_to_json
from prebake.format.index import Index
from prebake.format.manifest import NAME, SPLITS
from prebake.format.soft_labels import DIRECTORY
from prebake.loader.shard_set import ShardSet

__all__ = ["describe", "digest", "soft_label_sets"]


def describe(data: ShardSet) -> dict[str, Any]:
    """Return source, augmentation, columns, epochs, samples, bytes and missing shards, as plain JSON values."""
    plan = data.plan
    planned = plan.shards()
    missing = set(data.missing())
    return {
        "directory": str(data.location),
        "source": plan.source.to_json(),
        "augmentation": dict(plan.augmentation),
        "dtype": plan.dtype,
        "columns": columns_to_json(plan.columns),
        "normalized": plan.normalized,
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
        "soft_labels": soft_label_sets(data),
    }


def soft_label_sets(data: ShardSet) -> list[str]:
    """List the names of the soft-label sets in a shard set; those of a remote set are not listed."""
    directory = data.location / DIRECTORY
    if not isinstance(directory, Path) or not directory.is_dir():
        return []
    return sorted(path.name for path in directory.iterdir() if path.is_dir() and NAME.fullmatch(path.name))


def digest(data: ShardSet) -> str:
    """Return one SHA-256 for the set, of the manifest and all indexes, which hold the xxh3-128 of every archive.

    Raises:
        DataError: a planned shard is missing, or an index is damaged.
    """
    missing = data.missing()
    if missing:
        raise DataError(f"{data.location}: an incomplete set has no digest; {len(missing)} shards are missing")
    whole = hashlib.sha256(data.plan.to_bytes())
    for shard in data.plan.shards():
        whole.update(Index.read(data.location, shard, data.plan.identity).to_bytes())
    return whole.hexdigest()
