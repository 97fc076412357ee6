"""The plan: what is in a shard set, which shards hold it, and the manifest that says so."""

import functools
import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prebake.errors import DataError, UsageError, shown
from prebake.format.document import MAX_BYTES, read_document, serialize
from prebake.format.record import ENCODINGS
from prebake.format.shard import MAX_EPOCHS, Epoch, Shard, divide, divided
from prebake.format.source import Source
from prebake.storage.files import Location
from prebake.storage.remote import Remote

__all__ = [
    "MANIFEST",
    "MAX_EPOCHS",
    "MAX_SEED",
    "MAX_SHARDS",
    "NAME",
    "SPLITS",
    "Epoch",
    "Plan",
    "Shard",
    "Source",
    "differences",
]

MANIFEST = "manifest.json"
FORMAT = "prebake"
VERSION = 1
MAX_SEED = 2**63 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes a part of file names
MAX_VALUES = 2**30  # an image; in float32 that is half of what a tar member may hold
# What a manifest may ask of whoever opens it; a set of ours that has more is refused before it is baked.
MAX_SHARDS = 2**15
MAX_CLASSES = 2**16
MAX_CHANNELS = 2**12
SPLITS = ("test", "val", "train")  # the order of baking: what is evaluated stands ready before epoch 0


@dataclass(frozen=True)
class Plan:
    """All that a shard set will hold; `manifest.json` is its written form.

    Attributes:
        augmentation: name and parameters, plain JSON values; only `precompute` understands them.
        encoding: dtype of the stored pixels: float16, uint8 or float32.
        splits: the epochs of each split; `test` and `val` have one, un-augmented.
    """

    source: Source
    augmentation: Mapping[str, Any]
    dtype: str
    seed: int
    splits: Mapping[str, tuple[Epoch, ...]]

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 (32 hex digits of it) of everything but the number of epochs."""
        text = json.dumps(self._fixed(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    @property
    def epochs(self) -> int:
        """Number of planned training epochs."""
        return len(self.splits["train"])

    def remedy(self, directory: Location) -> str:
        """Return what to do where shards in that directory are missing or damaged, for the end of a message."""
        if isinstance(directory, Remote):
            return (
                "Write it again: the command that baked it, with the same --out, writes what is missing there "
                "(where an archive is damaged, remove its .json there first)"
            )
        return (
            f"Rebuild it: python -m precompute repair {shlex.quote(str(directory))} "
            "(of pictures of your own, with --dataset and --image-size as they were baked; of arrays, "
            "prebake.bake() with the same ones)"
        )

    def with_epochs(self, epochs: int) -> "Plan":
        """Return this plan with its first epochs only, or with the last one's shape repeated."""
        train = self.splits["train"]
        train = train[:epochs] + (train[-1],) * (epochs - len(train))
        return replace(self, splits={**self.splits, "train": train})

    def shards(self, split: str | None = None, epoch: int | None = None) -> list[Shard]:
        """List the planned shards in the order of baking, of one split or epoch where named."""
        return [
            shard
            for name in SPLITS
            if name in self.splits and split in (None, name)
            for number, content in enumerate(self.splits[name])
            if epoch in (None, number)
            for shard in divide(name, number, content, self.dtype)
        ]

    def to_bytes(self) -> bytes:
        """Return the manifest's bytes.

        Raises:
            UsageError: the plan is larger than readers take.
        """
        epochs = {split: [[e.samples, *e.image_shape] for e in epochs] for split, epochs in self.splits.items()}
        data = serialize({**self._fixed(), "splits": epochs, "identity": self.identity})
        excess = self._excess()
        if excess or len(data) > MAX_BYTES:
            raise UsageError(excess or f"{MANIFEST}: expected at most {MAX_BYTES} bytes, found {len(data)}")
        return data

    def _excess(self) -> str | None:
        """Say what there is too much of for a reader's time and memory, whoever wrote it."""
        counts = [
            ("classes", MAX_CLASSES, len(self.source.classes)),
            ("channels", MAX_CHANNELS, len(self.source.mean)),
            ("epochs", MAX_EPOCHS, self.epochs),
        ]
        if self.epochs <= MAX_EPOCHS:  # else to count them takes too long as well
            epochs = [epoch for split in self.splits.values() for epoch in split]
            counts.append(("shards", MAX_SHARDS, sum(divided(epoch, self.dtype)[2] for epoch in epochs)))
        return next(
            (f"expected at most {most} {name}, found {found}" for name, most, found in counts if found > most), None
        )

    @classmethod
    def read(cls, directory: Location) -> "Plan":
        """Read and check a manifest.

        Raises:
            DataError: no shard set there, damaged, of another version, or contradicting itself.
        """
        path = directory / MANIFEST
        if not path.exists():
            raise DataError(
                f"{directory}: no {MANIFEST} here, so this is no shard set. "
                "Bake one: python -m precompute --epochs 25, or name another directory"
            )
        try:
            fields = read_document(path)
        except DataError as error:
            raise DataError(
                f"{error}. Put a copy of it back, or bake the set again: the same command with --overwrite"
            ) from None
        if fields.text("format") != FORMAT or fields.integer("version") != VERSION:
            raise DataError(
                f"{path}: expected format {FORMAT} version {VERSION}, found {shown(fields.text('format'))[1:-1]} "
                f"version {shown(fields.integer('version'))}; "
                "use the release that wrote it, or bake again with --overwrite"
            )
        splits = fields.fields("splits")
        plan = cls(
            source=Source.from_fields(fields.fields("source")),
            augmentation=fields.fields("augmentation").content,
            dtype=fields.text("dtype"),
            seed=fields.integer("seed"),
            splits={split: tuple(_epoch(item, path) for item in splits.items(split)) for split in splits.content},
        )
        _check(plan, fields.text("identity"), path)
        if plan.to_bytes() != serialize(fields.content):
            raise DataError(f"{path}: contradicts itself, or holds fields that version {VERSION} does not have")
        return plan

    def _fixed(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source.to_json(),
            "augmentation": dict(self.augmentation),
            "dtype": self.dtype,
            "seed": self.seed,
            "image_shape": list(self.splits["train"][0].image_shape),
        }


def differences(there: Plan, asked: Plan) -> list[str]:
    """Name what tells two plans apart, the number of epochs left out; empty where nothing does."""
    return _unequal("", there._fixed(), asked._fixed())


def _unequal(prefix: str, there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*there, *asked}):
        a, b = there.get(key), asked.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _unequal(f"{prefix}{shown(key)[1:-1]}.", a, b)
        elif a != b:
            found.append(f"{prefix}{shown(key)[1:-1]} is {shown(a)} there, {shown(b)} asked for")
    return found


def _epoch(item: object, path: Location) -> Epoch:
    if not (isinstance(item, list) and len(item) == 4 and all(type(n) is int and 0 < n < 2**32 for n in item)):
        raise DataError(f"{path}: splits: expected [samples, height, width, channels], found {shown(item)}")
    if math.prod(item[1:]) > MAX_VALUES:
        raise DataError(f"{path}: splits: expected images of at most {MAX_VALUES} values, found {item!r}")
    return Epoch(item[0], (item[1], item[2], item[3]))


def _check(plan: Plan, identity: str, path: Location) -> None:
    if not NAME.fullmatch(plan.source.name):
        raise DataError(f"{path}: name: expected {NAME.pattern}, found {shown(plan.source.name)}")
    if plan.dtype not in ENCODINGS:
        raise DataError(f"{path}: encoding: expected one of {', '.join(ENCODINGS)}, found {shown(plan.dtype)}")
    unknown = set(plan.splits) - set(SPLITS)
    if unknown or not plan.splits.get("train"):
        raise DataError(f"{path}: splits: expected train and perhaps {SPLITS[:2]}, found {shown(sorted(plan.splits))}")
    if any(len(plan.splits.get(split, "1")) != 1 for split in ("test", "val")):
        raise DataError(f"{path}: splits: test and val have one epoch each")
    excess = plan._excess()
    if excess:
        raise DataError(f"{path}: {excess}")
    if not plan.source.classes:
        raise DataError(f"{path}: classes: expected at least one")
    channels = {epoch.image_shape[2] for epochs in plan.splits.values() for epoch in epochs}
    if channels != {len(plan.source.mean)} or len(plan.source.mean) != len(plan.source.std):
        raise DataError(f"{path}: mean and deviation don't fit {shown(sorted(channels))} channels")
    if not all(std > 0 for std in plan.source.std):
        raise DataError(f"{path}: deviation: expected numbers over 0, found {shown(plan.source.std)}")
    if plan.identity != identity:
        raise DataError(f"{path}: identity {shown(identity)[1:-1]} does not fit its own content ({plan.identity})")
