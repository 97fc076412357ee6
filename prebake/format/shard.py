"""Shards: what an epoch is divided into, and where everything lies in each."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from prebake.format.record import BLOCK_BYTES, Layout, samples_per_record

__all__ = ["MAX_EPOCHS", "Epoch", "Shard", "divide", "divided"]

SHARD_BYTES = 256 * 1024 * 1024
MAX_EPOCHS = 2**13  # what a manifest may ask of whoever opens it


@dataclass(frozen=True)
class Epoch:
    """One epoch of one split: how many samples, of which shape (height, width, channels)."""

    samples: int
    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Shard:
    """One planned shard: a run of consecutive records of an epoch.

    `first_record` counts from the epoch's start, `first_sample` likewise.
    """

    split: str
    epoch: int
    number: int
    first_record: int
    first_sample: int
    samples: int
    record_samples: int
    image_shape: tuple[int, int, int]
    dtype: str

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
        """Name of the index; it exists exactly when the archive is whole."""
        return f"{self.stem}.json"

    @property
    def record_count(self) -> int:
        """Number of records."""
        return -(-self.samples // self.record_samples)

    @functools.cached_property
    def layouts(self) -> list[Layout]:
        """Layout of each record, in file order; only the last one of an epoch may differ."""
        return [layout for count, layout in self._kinds for _ in range(count)]

    @property
    def _kinds(self) -> list[tuple[int, Layout]]:
        """How many records of which layout; there are at most two kinds."""
        full, rest = divmod(self.samples, self.record_samples)
        kinds = ((full, self.record_samples), (1 if rest else 0, rest))
        return [(count, _layout(samples, self.image_shape, self.dtype)) for count, samples in kinds if count]

    def records(self) -> Iterator[tuple[str, Layout]]:
        """Yield key and layout of each record, in file order."""
        prefix = f"e{self.epoch:03d}" if self.split == "train" else self.split
        for number, layout in enumerate(self.layouts, self.first_record):
            yield f"{prefix}-r{number:05d}", layout

    @functools.cached_property
    def size_bytes(self) -> int:
        """Size of the archive: its records, then two zero blocks, as USTAR ends."""
        return sum(count * layout.size_bytes for count, layout in self._kinds) + 2 * BLOCK_BYTES


@functools.lru_cache(maxsize=64)
def _layout(samples: int, image_shape: tuple[int, int, int], dtype: str) -> Layout:
    return Layout(samples, image_shape, dtype)


@functools.lru_cache(maxsize=MAX_EPOCHS)  # a stranger's epochs may all differ, and shards are listed often
def divided(content: Epoch, dtype: str) -> tuple[int, int, int]:
    """Return samples a record, records an epoch, and shards an epoch."""
    record_samples = samples_per_record(content.image_shape, dtype)
    records = -(-content.samples // record_samples)
    extent = _layout(record_samples, content.image_shape, dtype).size_bytes
    return record_samples, records, -(-records // max(1, SHARD_BYTES // extent))


def divide(split: str, epoch: int, content: Epoch, dtype: str) -> list[Shard]:
    """Cut an epoch into shards of nearly equal numbers of records, none over 256 MiB where records allow."""
    record_samples, records, count = divided(content, dtype)
    bounds = [number * records // count for number in range(count + 1)]
    shards = []
    for number in range(count):
        first = bounds[number] * record_samples
        last = min(bounds[number + 1] * record_samples, content.samples)
        shards.append(
            Shard(split, epoch, number, bounds[number], first, last - first, record_samples, content.image_shape, dtype)
        )
    return shards
