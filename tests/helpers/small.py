"""A small set of arrays, and what the tests of baking ask of its files."""

from pathlib import Path
from typing import Any

import numpy as np

import prebake
from prebake.format.manifest import Plan
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.precompute.images import SourceData, hold_out
from prebake.precompute.plan import make_plan
from prebake.precompute.sources.arrays import source_from
from prebake.precompute.task import Task, bake_task

AUGMENTATION = Augmentation("standard", pad=2, pad_mode="reflect", flip="random", cutout=2)
RNG = np.random.default_rng(4)
IMAGES, LABELS = RNG.integers(0, 256, (300, 6, 7, 3), dtype=np.uint8), RNG.integers(0, 5, 300)
TEST = RNG.integers(0, 256, (40, 6, 7, 3), dtype=np.uint8), RNG.integers(0, 5, 40)
OPTIONS: dict[str, Any] = {
    "images": IMAGES,
    "labels": LABELS,
    "test": TEST,
    "augment": AUGMENTATION,
    "val_fraction": 0.1,
    "epochs": 3,
    "classes": "abcde",
}


def bake(out: Path, **changes: Any) -> ShardSet:
    chosen = {**OPTIONS, "out": out, **changes}
    prebake.bake(chosen.pop("images"), chosen.pop("labels"), **chosen)
    return ShardSet(out)


def bake_share(out: Path, task: str, **changes: Any) -> list[str]:
    """Bake one task's share of what `bake` bakes; return the archives that are missing yet."""
    source, plan = source_and_plan(**changes)
    augmentation = {**OPTIONS, **changes}["augment"]
    return bake_task(source, plan, augmentation, out, Task.parse(task), workers=changes.get("workers"))


def source_and_plan(**changes: Any) -> tuple[SourceData, Plan]:
    """Return what `bake` plans."""
    chosen: dict[str, Any] = {"seed": 0, "dtype": "float16", **OPTIONS, **changes}
    data = source_from(chosen["images"], chosen["labels"], test=chosen["test"], classes=chosen["classes"])
    source = hold_out(data, chosen["val_fraction"])
    return source, make_plan(source, chosen["augment"], chosen["epochs"], chosen["dtype"], chosen["seed"])


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of every file but the lock, which lies outside the promise."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "bake.lock"}


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return what changes when a file is written, of archives and indexes."""
    found = {path.name: path.stat() for path in directory.iterdir() if "-" in path.name}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 255
    path.write_bytes(data)
