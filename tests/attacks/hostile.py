"""Making hostile sets: documents that lie under checksums of their own."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import prebake
from prebake.format.document import serialize
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet

TAR, INDEX = "train-e000-000.tar", "train-e000-000.json"
Change = Callable[[dict[str, Any]], object]


def bake(out: Path, seed: int = 0) -> Path:
    """Bake two epochs of 150 images of 3x3: two records a shard, of 128 and 22 samples."""
    rng = np.random.default_rng(1)
    prebake.bake(
        rng.integers(0, 256, (150, 3, 3, 1), dtype=np.uint8),
        rng.integers(0, 4, 150),
        augment=prebake.Augmentation("standard", pad=1, pad_mode="zero", flip="random", cutout=1),
        epochs=2,
        dtype="uint8",
        seed=seed,
        out=out,
    )
    return out


def read(directory: Path, epoch: int = 0) -> list[bytes]:
    """Read an epoch to its end; return the batches' bytes."""
    batches = ShardSet(directory).batches("train", epoch, batch_size=40)
    return [images.tobytes() + labels.tobytes() for images, labels in batches]


def troubles(directory: Path) -> list[str]:
    """Verify a set; return what is wrong with its shards."""
    data = ShardSet(directory)
    found = (damage(directory, shard, data.plan) for shard in data.plan.shards())
    return [trouble for trouble in found if trouble]


def reseal(path: Path, change: Change) -> None:
    """Change a document and give it a checksum that is right again."""
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)
    path.write_bytes(serialize(content))


def reseal_manifest(directory: Path, change: Change) -> None:
    """Change a manifest, and give it the identity and the checksum that are right again."""

    def with_identity(content: dict[str, Any]) -> None:
        change(content)
        fixed = {key: value for key, value in content.items() if key not in ("splits", "identity")}
        text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
        content["identity"] = hashlib.sha256(text.encode()).hexdigest()[:32]

    reseal(directory / "manifest.json", with_identity)


def first(content: dict[str, Any]) -> dict[str, Any]:
    """Return an index's first record."""
    record: dict[str, Any] = content["records"][0]
    return record


def reseal_raw(path: Path, content: dict[str, Any]) -> None:
    """Write a document with a checksum, and in a manifest an identity, that are right for it, where it has any."""
    content.pop("checksum", None)
    if path.name == "manifest.json":
        fixed = {key: value for key, value in content.items() if key not in ("splits", "identity")}
        text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
        content["identity"] = hashlib.sha256(text.encode()).hexdigest()[:32]
    path.write_bytes(serialize(content))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place in a JSON value as its container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]
