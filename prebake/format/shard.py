"""Shards: the division of an epoch into files, and the layout of each file."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prebake.errors import DataError, quote
from prebake.format.columns import Column
from prebake.format.document import Fields
from prebake.format.record import BLOCK_BYTES, Layout, samples_per_record

__all__ = ["MAX_EPOCHS", "SPLITS", "Epoch", "Shard", "divide", "divided", "splits_from_json", "splits_to_json"]

SPLITS = ("test", "val", "train")  # the order of baking: the images for evaluation are ready before epoch 0
SHARD_BYTES = 256 * 1024 * 1024
MAX_EPOCHS = 2**13  # limits the work that a manifest from a stranger can cause


@dataclass(frozen=True)
class Epoch:
    """One epoch of one split: number of samples, and their image shape (height, width, channels)."""

    samples: int
    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Shard:
    """One planned shard: consecutive records of an epoch.

    Attributes:
        split: train, val or test.
        epoch: its epoch.
        number: its number in the epoch.
        first_record: number of its first record, counted from the start of the epoch.
        first_sample: number of its first sample, counted likewise.
        samples: number of samples.
        record_samples: samples per record; the last record of an epoch may have fewer.
        columns: the arrays of each record, in file order.
    """

    split: str
    epoch: int
    number: int
    first_record: int
    first_sample: int
    samples: int
    record_samples: int
    columns: tuple[Column, ...]

    @property
    def stem(self) -> str:
        """File name without its ending."""
        epoch = f"-e{self.epoch:03d}" if self.split == "train" else ""
        return f"{self.split}{epoch}-{self.number:03d}"

    @property
    def tar(self) -> str:
        """Name of the archive."""
        return f"{self.stem}.tar"

    @property
    def index(self) -> str:
        """Name of the index; the file exists only if the archive is complete."""
        return f"{self.stem}.json"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images; raises StopIteration if there are none."""
        height, width, channels = next(column.shape for column in self.columns if column.name == "images")
        return height, width, channels

    @property
    def record_count(self) -> int:
        """Number of records."""
        return -(-self.samples // self.record_samples)

    @functools.cached_property
    def layouts(self) -> list[Layout]:
        """Layout of each record, in file order."""
        return [layout for count, layout in self._kinds for _ in range(count)]

    @property
    def _kinds(self) -> list[tuple[int, Layout]]:
        """Number of records of each layout; only the last record of an epoch differs."""
        full, rest = divmod(self.samples, self.record_samples)
        kinds = ((full, self.record_samples), (1 if rest else 0, rest))
        return [(count, _layout(samples, self.columns)) for count, samples in kinds if count]

    def records(self) -> Iterator[tuple[str, Layout]]:
        """Yield key and layout of each record, in file order."""
        prefix = f"e{self.epoch:03d}" if self.split == "train" else self.split
        for number, layout in enumerate(self.layouts, self.first_record):
            yield f"{prefix}-r{number:05d}", layout

    @functools.cached_property
    def size_bytes(self) -> int:
        """Size of the archive: its records, then the two zero blocks that end a USTAR archive."""
        return sum(count * layout.size_bytes for count, layout in self._kinds) + 2 * BLOCK_BYTES


@functools.lru_cache(maxsize=64)
def _layout(samples: int, columns: tuple[Column, ...]) -> Layout:
    return Layout(samples, columns)


def divided(samples: int, columns: tuple[Column, ...]) -> tuple[int, int, int]:
    """Return samples per record, records per epoch, and shards per epoch."""
    return _divided(samples, columns, SHARD_BYTES)


@functools.lru_cache(maxsize=MAX_EPOCHS)  # all epochs of a set may differ, and shards are listed often
def _divided(samples: int, columns: tuple[Column, ...], shard_bytes: int) -> tuple[int, int, int]:
    record_samples = samples_per_record(columns)
    records = -(-samples // record_samples)
    size_bytes = _layout(record_samples, columns).size_bytes
    return record_samples, records, -(-records // max(1, shard_bytes // size_bytes))


def divide(split: str, epoch: int, samples: int, columns: tuple[Column, ...]) -> list[Shard]:
    """Cut an epoch into shards of nearly equal numbers of records, of at most 256 MiB or one record."""
    record_samples, records, count = divided(samples, columns)
    bounds = [number * records // count for number in range(count + 1)]
    shards = []
    for number in range(count):
        first = bounds[number] * record_samples
        last = min(bounds[number + 1] * record_samples, samples)
        shards.append(Shard(split, epoch, number, bounds[number], first, last - first, record_samples, columns))
    return shards


def splits_to_json(splits: Mapping[str, tuple[Epoch, ...]]) -> dict[str, list[list[int]]]:
    """Return the epochs of each split as a manifest holds them."""
    return {split: [[epoch.samples, *epoch.image_shape] for epoch in epochs] for split, epochs in splits.items()}


def splits_from_json(fields: Fields) -> dict[str, tuple[Epoch, ...]]:
    """Take the epochs of each split from a manifest; raises DataError."""
    content = fields.fields("splits")
    splits = {split: tuple(_epoch(item, content.where) for item in content.items(split)) for split in content.content}
    if set(splits) - set(SPLITS) or not splits.get("train"):
        raise DataError(f"{content.where}: expected train, and perhaps test and val, found {quote(sorted(splits))}")
    if any(len(splits.get(split, "1")) != 1 for split in ("test", "val")):
        raise DataError(f"{content.where}: expected one epoch of test and of val")
    return splits


def _epoch(item: object, where: str) -> Epoch:
    if not (isinstance(item, list) and len(item) == 4 and all(type(n) is int and 0 < n < 2**32 for n in item)):
        raise DataError(f"{where}: expected [samples, height, width, channels], found {quote(item)}")
    return Epoch(item[0], (item[1], item[2], item[3]))
