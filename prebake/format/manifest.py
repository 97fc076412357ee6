"""The manifest: the plan of a shard set, as it is written to `manifest.json`."""

import functools
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prebake.errors import DataError, UsageError, listed, quote
from prebake.format.columns import Column, check_columns, columns_from_json, columns_to_json, standard_columns
from prebake.format.command import bake_again, bake_more
from prebake.format.document import MAX_BYTES, Fields, read_document, serialize
from prebake.format.shard import (
    MAX_EPOCHS,
    SPLITS,
    Epoch,
    Shard,
    divide,
    divided,
    splits_from_json,
    splits_to_json,
)
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
    "check_version",
    "check_written",
    "differences",
]

MANIFEST = "manifest.json"
FORMAT = "prebake"
VERSION = 2
MAX_SEED = 2**63 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes a part of file names
# Limits on the time and memory that a manifest from a stranger can take. Writers keep them, too.
MAX_SHARDS = 2**15
MAX_CLASSES = 2**16
MAX_CHANNELS = 2**12
MAX_COLUMNS = 64
BY_PIPELINE = "by the pipeline"


@dataclass(frozen=True)
class Plan:
    """The content of a shard set; `manifest.json` is its written form.

    Attributes:
        source: the data set.
        augmentation: name and parameters, plain JSON values; only `precompute` interprets them.
        dtype: of the images: float16, uint8 or float32.
        seed: of all draws, 0 to 2^63 - 1.
        splits: the epochs of each split; `test` and `val` have one, without augmentation.
        user_columns: the columns behind `images`, `index` and `labels`.
        by_pipeline: float images are stored as the augmentation pipeline returned them.
    """

    source: Source
    augmentation: Mapping[str, Any]
    dtype: str
    seed: int
    splits: Mapping[str, tuple[Epoch, ...]]
    user_columns: tuple[Column, ...] = ()
    by_pipeline: bool = False

    @functools.cached_property
    def identity(self) -> str:
        """The first 32 hex digits of the SHA-256 of everything but the number of epochs."""
        text = json.dumps(self._fixed(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    @property
    def epochs(self) -> int:
        """Number of planned training epochs."""
        return len(self.splits["train"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.source.classes)

    @property
    def normalized(self) -> bool | str:
        """True: float images are normalized with the source's mean and std; False: pixels; or `by the pipeline`."""
        if self.dtype == "uint8":
            return False
        return BY_PIPELINE if self.by_pipeline else True

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of training epoch 0."""
        return self.columns_of(self.splits["train"][0])

    def columns_of(self, epoch: Epoch) -> tuple[Column, ...]:
        """Return the columns of an epoch's records, in file order."""
        return standard_columns(epoch.image_shape, self.dtype) + self.user_columns

    def remedy(self, directory: Location) -> str:
        """Return the advice for missing or damaged shards in `directory`, for the end of a message."""
        if isinstance(directory, Remote):
            return (
                "Write it again: the command that baked it, with the same --out, writes what is missing there "
                "(where an archive is damaged, remove its .json there first)"
            )
        return (
            f"Rebuild it: prebake repair {shlex.quote(str(directory))} "
            "(for a data set of your own, with the --dataset and --image-size of the bake; "
            "for arrays, call prebake.bake() with them again)"
        )

    def more_epochs(self, directory: Location, epochs: int) -> str:
        """Return the advice to bake more epochs into `directory`, for the end of a message."""
        return bake_more(
            directory,
            name=self.source.name,
            augmentation=self.augmentation,
            dtype=self.dtype,
            seed=self.seed,
            samples={split: epochs_of[0].samples for split, epochs_of in self.splits.items()},
            epochs=epochs,
        )

    def with_epochs(self, epochs: int) -> "Plan":
        """Return this plan with `epochs` training epochs; new ones have the shape of the last one."""
        train = self.splits["train"]
        train = train[:epochs] + (train[-1],) * (epochs - len(train))
        return replace(self, splits={**self.splits, "train": train})

    def shards(self, split: str | None = None, epoch: int | None = None) -> list[Shard]:
        """List the planned shards in the order of baking, optionally of one split or epoch."""
        if split is None and epoch is None:
            return list(self._all_shards)
        return self._divided([name for name in SPLITS if split in (None, name)], epoch)

    @functools.cached_property
    def _all_shards(self) -> list[Shard]:
        return self._divided(SPLITS, None)

    def _divided(self, splits: Sequence[str], epoch: int | None) -> list[Shard]:
        return [
            shard
            for split in splits
            for number, content in enumerate(self.splits.get(split, ()))
            if epoch in (None, number)
            for shard in divide(split, number, content.samples, self.columns_of(content))
        ]

    def to_bytes(self) -> bytes:
        """Return the manifest's bytes.

        Raises:
            UsageError: the plan is larger than readers accept.
        """
        data = serialize({**self._fixed(), "splits": splits_to_json(self.splits), "identity": self.identity})
        excess = self._excess()
        if excess or len(data) > MAX_BYTES:
            raise UsageError(excess or f"{MANIFEST}: expected at most {MAX_BYTES} bytes, found {len(data)}")
        return data

    def _excess(self) -> str | None:
        """Return a message about the first limit that the plan exceeds, or None."""
        counts = [
            ("classes", MAX_CLASSES, self.classes),
            ("channels", MAX_CHANNELS, len(self.source.mean)),
            ("columns", MAX_COLUMNS, len(self.columns)),
            ("epochs", MAX_EPOCHS, self.epochs),
        ]
        if self.epochs <= MAX_EPOCHS:  # otherwise counting takes too long as well
            epochs = [epoch for split in self.splits.values() for epoch in split]
            counts.append(
                ("shards", MAX_SHARDS, sum(divided(epoch.samples, self.columns_of(epoch))[2] for epoch in epochs))
            )
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
            inside = sorted(directory.glob(f"*/{MANIFEST}")) if not isinstance(directory, Remote) else []
            if inside:
                sets = listed([str(path.parent) for path in inside])
                raise DataError(f"{directory}: no shard set, but a directory of shard sets ({sets}). Name one of them")
            raise DataError(
                f"{directory}: no {MANIFEST} here, so this is no shard set. "
                "Bake one: prebake precompute --epochs 25, or name another directory"
            )
        try:
            fields = read_document(path)
        except DataError as error:
            raise DataError(
                f"{error}. Restore it from a copy, or bake the set again: the same command with --overwrite"
            ) from None
        check_version(fields, directory)
        if "parent" in fields.content:
            raise DataError(f"{directory}: holds soft labels; name the shard set that they belong to, two levels up")
        columns = columns_from_json(fields)
        plan = cls(
            source=Source.from_fields(fields.fields("source")),
            augmentation=fields.fields("augmentation").content,
            dtype=columns[0].dtype if columns else "",
            seed=fields.integer("seed"),
            splits=splits_from_json(fields),
            user_columns=columns[3:],
            by_pipeline=fields.content.get("normalized") == BY_PIPELINE,
        )
        _check(plan, columns, path)
        check_written(plan, fields, path)
        return plan

    def _fixed(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source.to_json(),
            "augmentation": dict(self.augmentation),
            "columns": columns_to_json(self.columns),
            "normalized": self.normalized,
            "seed": self.seed,
        }


def differences(there: Plan, asked: Plan) -> list[str]:
    """Describe each difference of two plans but for the number of epochs; empty if they are of one set."""
    return _unequal("", _by_name(there), _by_name(asked))


def _by_name(plan: Plan) -> dict[str, Any]:
    return {
        "source": plan.source.to_json(),
        "augmentation": plan.augmentation,
        "dtype": plan.dtype,
        "image_shape": list(plan.columns[0].shape),
        "columns": {column.name: str(column) for column in plan.user_columns},
        "normalized by the pipeline": plan.by_pipeline,
        "seed": plan.seed,
    }


def _unequal(prefix: str, there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*there, *asked}):
        a, b = there.get(key), asked.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _unequal(f"{prefix}{quote(key)[1:-1]}.", a, b)
        elif a != b:
            found.append(f"{prefix}{quote(key)[1:-1]} is {quote(a)} there, {quote(b)} asked for")
    return found


def check_version(fields: Fields, directory: Location) -> None:
    """Raise DataError unless a manifest is of this version; of version 1, name the command that bakes it again."""
    name, version = fields.text("format"), fields.integer("version")
    if (name, version) == (FORMAT, VERSION):
        return
    advice = "Use the release that wrote it, or bake it again with --overwrite"
    if (name, version) == (FORMAT, 1):
        advice = bake_again(fields.content, directory)
    raise DataError(
        f"{fields.where}: expected format {FORMAT} version {VERSION}, found {quote(name)[1:-1]} version {version}. "
        f"{advice}"
    )


def check_written(plan: Plan, fields: Fields, path: Location) -> None:
    """Raise DataError unless a plan that was read from a manifest gives the same manifest again."""
    identity = fields.text("identity")
    if plan.identity != identity:
        raise DataError(f"{path}: identity {quote(identity)[1:-1]} does not fit its own content ({plan.identity})")
    if plan.to_bytes() != serialize(fields.content):
        raise DataError(f"{path}: contradicts itself, or has fields that version {VERSION} does not have")


def _check(plan: Plan, columns: Sequence[Column], path: Location) -> None:
    if columns[:3] != standard_columns(plan.splits["train"][0].image_shape, plan.dtype):
        raise DataError(f"{path}: columns: expected images, index and labels first, found {quote([*columns[:3]])}")
    if not NAME.fullmatch(plan.source.name):
        raise DataError(f"{path}: name: expected {NAME.pattern}, found {quote(plan.source.name)}")
    if not plan.source.classes:
        raise DataError(f"{path}: classes: expected at least one")
    epochs = [epoch for epochs in plan.splits.values() for epoch in epochs]
    for shape in {epoch.image_shape for epoch in epochs}:
        check_columns(standard_columns(shape, plan.dtype)[:1], str(path))
    excess = plan._excess()
    if excess:
        raise DataError(f"{path}: {excess}")
    channels = {epoch.image_shape[2] for epoch in epochs}
    # A pipeline may return another number of channels than the source has.
    fits = plan.by_pipeline or channels == {len(plan.source.mean)}
    if not fits or len(channels) > 1 or len(plan.source.mean) != len(plan.source.std):
        raise DataError(f"{path}: mean and std don't fit {quote(sorted(channels))} channels")
    if not all(std > 0 for std in plan.source.std):
        raise DataError(f"{path}: std: expected numbers over 0, found {quote(plan.source.std)}")
