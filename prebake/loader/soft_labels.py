"""Reading of soft labels in step with the records of a shard set."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed
from prebake.format.manifest import NAME, Shard
from prebake.format.soft_labels import DIRECTORY, SoftLabelPlan
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.loader.shard_set import ShardSet
from prebake.storage.files import existing

__all__ = ["SoftLabelReader", "SoftLabels"]


class SoftLabels:
    """The soft labels of a shard set.

    Record n of a shard of `data` and record n of the reader have the same samples in the same order:

        soft_labels = SoftLabels(data, "teacher")
        for shard in data.plan.shards("train", epoch):
            with soft_labels.open(shard) as reader:
                soft_labels_NK = reader.read(0)

    Args:
        data: the shard set.
        name: the directory in `soft-labels/` of the set.
        epochs: number of epochs that will be read, from epoch 0 on; default all of `data`.

    Attributes:
        location: the directory of the soft labels.
        plan: its plan: teachers, epochs.

    Raises:
        UsageError: not a possible name.
        DataError: no soft labels of that name, damaged, of another shard set, of other classes, of fewer epochs,
            or incomplete.
    """

    def __init__(self, data: ShardSet, name: str, epochs: int | None = None) -> None:
        if not NAME.fullmatch(name):
            raise UsageError(f"soft labels: expected a name like {NAME.pattern}, found {name!r}")
        self.location = data.location / DIRECTORY / name
        self.plan = SoftLabelPlan.read(self.location, data.plan)
        self._cache = data.cache
        epochs = data.epochs if epochs is None else epochs
        if epochs > self.plan.epochs:
            raise DataError(
                f"{self.location}: expected soft labels of {epochs} epochs, found {self.plan.epochs}; "
                f"use at most {self.plan.epochs} epochs, or write soft labels of the others"
            )
        missing = self.missing(epochs)
        if missing:
            raise DataError(f"{self.location}: {listed(missing)} missing. {self.plan.remedy(self.location)}")

    def missing(self, epochs: int) -> list[str]:
        """List the planned shards of the first epochs that do not exist yet, by file name."""
        planned = [shard for shard in self.plan.shards() if shard.epoch < epochs]
        there = existing(self.location, [shard.index for shard in planned])
        return [shard.tar for shard in planned if shard.index not in there]

    def open(self, shard: Shard) -> "SoftLabelReader":
        """Open the soft labels of a training shard of the set.

        Raises:
            DataError: missing, damaged, or of another plan.
        """
        own = next(own for own in self.plan.shards(shard.epoch) if own.number == shard.number)
        return SoftLabelReader(ShardReader(self.location, own, self.plan, self._cache))


class SoftLabelReader:
    """One open shard of soft labels; a context manager that closes the file."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader, self._buffer = reader, RecordBuffer()

    def __enter__(self) -> "SoftLabelReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def read(self, number: int) -> NDArray[np.float16]:
        """Read and check a record; return (samples, classes), valid until the next read.

        Raises:
            DataError: the file ends too early, a byte differs, or a value is outside 0 to 1.
        """
        self._reader.read(number, [], self._buffer)
        soft_labels_NK: NDArray[Any] = self._buffer.columns["soft_labels"]
        return soft_labels_NK
