"""Soft-label sets: a teacher's outputs for the views of a shard set, stored in step with its records.

`SET/soft-labels/NAME/` has its own manifest. It has an archive for each training archive of the set, with the same
name, records, keys and order of samples, and with one column (FORMAT.md, "Soft labels").
"""

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, quote
from prebake.format.columns import Column, columns_to_json
from prebake.format.document import Fields, read_document, serialize
from prebake.format.manifest import FORMAT, MANIFEST, MAX_EPOCHS, VERSION, Plan, check_version
from prebake.format.shard import Shard
from prebake.format.writer import create_shard, empty_records
from prebake.storage.files import Location

__all__ = ["DIRECTORY", "SoftLabelPlan", "Teacher", "write_soft_labels"]

DIRECTORY = "soft-labels"  # of a shard set
COLUMN = "soft_labels"


@dataclass(frozen=True)
class Teacher:
    """A model whose outputs are stored: SHA-256 of its weights file (64 hex digits), and its recipe."""

    sha256: str
    recipe: str


@dataclass(frozen=True)
class SoftLabelPlan:
    """The content of a soft-label set.

    Attributes:
        parent: the plan of the shard set that it belongs to.
        teachers: the models.
        averaged: number of outputs that are averaged for each view, over teachers and mirrored images.
        precision: of the teachers' computation, such as `float32` or `bfloat16`.
        epochs: number of epochs, from epoch 0 on, at most the parent's.
    """

    parent: Plan
    teachers: tuple[Teacher, ...]
    averaged: int
    precision: str
    epochs: int

    @functools.cached_property
    def identity(self) -> str:
        """The first 32 hex digits of the SHA-256 of everything but the number of epochs."""
        text = json.dumps(self._fixed(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.parent.classes

    @property
    def columns(self) -> tuple[Column, ...]:
        """The only column: `soft_labels`, float16 (classes,)."""
        return (Column(COLUMN, "float16", (self.classes,)),)

    def remedy(self, directory: Location) -> str:
        """Return the advice for missing or damaged shards in `directory`, for the end of a message."""
        return f"Remove {directory}, and write the soft labels again"

    def shards(self, epoch: int | None = None) -> list[Shard]:
        """List the planned shards in the order of the parent's, optionally of one epoch."""
        return [
            replace(shard, columns=self.columns)
            for shard in self.parent.shards("train", epoch)
            if shard.epoch < self.epochs
        ]

    def to_bytes(self) -> bytes:
        """Return the manifest's bytes."""
        return serialize({**self._fixed(), "epochs": self.epochs, "identity": self.identity})

    @classmethod
    def read(cls, directory: Location, parent: Plan) -> "SoftLabelPlan":
        """Read and check the manifest of a soft-label set of this parent.

        Raises:
            DataError: no soft labels there, damaged, of another parent, or of other classes.
        """
        path = directory / MANIFEST
        if not path.exists():
            raise DataError(f"{directory}: no {MANIFEST} here, so there are no soft labels")
        fields = read_document(path)
        check_version(fields, directory)
        if fields.text("parent") != parent.identity:
            raise DataError(
                f"{path}: expected soft labels of the shard set {parent.identity}, found some of "
                f"{quote(fields.text('parent'))[1:-1]}: the set was baked again since. Write the soft labels again"
            )
        teachers = [Fields(item, f"{path}: teachers[{i}]") for i, item in enumerate(fields.items("teachers"))]
        plan = cls(
            parent=parent,
            teachers=tuple(Teacher(teacher.text("sha256"), teacher.text("recipe")) for teacher in teachers),
            averaged=fields.integer("averaged", 1),
            precision=fields.text("precision"),
            epochs=fields.integer("epochs", 1),
        )
        columns = fields.items("columns")
        if columns != columns_to_json(plan.columns):
            raise DataError(f"{path}: columns: expected {columns_to_json(plan.columns)}, found {quote(columns)}")
        if plan.epochs > MAX_EPOCHS or plan.to_bytes() != serialize(fields.content):
            raise DataError(f"{path}: contradicts itself, or has fields that version {VERSION} does not have")
        return plan

    def _fixed(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "parent": self.parent.identity,
            "columns": columns_to_json(self.columns),
            "teachers": [{"sha256": teacher.sha256, "recipe": teacher.recipe} for teacher in self.teachers],
            "averaged": self.averaged,
            "precision": self.precision,
        }


def write_soft_labels(
    directory: Path, plan: SoftLabelPlan, shard: Shard, soft_labels_NK: NDArray[np.floating], token: str = ""
) -> None:
    """Write one shard of a soft-label set. Its manifest must be there: the bytes of `plan.to_bytes()`.

    Args:
        directory: the soft-label set.
        plan: its plan.
        shard: one of `plan.shards()`.
        soft_labels_NK: (samples of the shard, classes), in the order of the parent's shard: probabilities from 0 to 1.
        token: a part of the temporary names; each concurrent writer of the shard needs its own.

    Raises:
        UsageError: another shape, or values outside 0 to 1.
        OSError: no space, no permission.
    """
    expected = (shard.samples, plan.classes)
    if soft_labels_NK.shape != expected:
        raise UsageError(f"soft labels of {shard.tar}: expected the shape {expected}, found {soft_labels_NK.shape}")
    if not (soft_labels_NK.min() >= 0 and soft_labels_NK.max() <= 1):  # NaN is refused as well
        raise UsageError(f"soft labels of {shard.tar}: expected probabilities from 0 to 1")
    with create_shard(directory, shard, plan.identity, token) as archive:
        for first, frame in empty_records(shard):
            start = first - shard.first_sample
            frame.columns[COLUMN][:] = soft_labels_NK[start : start + frame.layout.samples]
            archive.write(frame)
