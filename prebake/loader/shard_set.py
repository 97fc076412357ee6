"""Reading of a shard set. Every record is checked before a sample of it is handed out."""

import functools
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed
from prebake.format.columns import Column
from prebake.format.manifest import Epoch, Plan
from prebake.format.record import normalized
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.storage.cache import Cache
from prebake.storage.files import Location, existing, parse_path
from prebake.storage.remote import Remote

__all__ = ["Record", "ShardSet"]


@dataclass(frozen=True)
class Record:
    """Samples that are stored together.

    Attributes:
        columns: each column as an array (samples, *shape), by name; `record["mask"]` is short for one.
    """

    columns: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.index_N)

    @property
    def images_NHWC(self) -> NDArray[Any]:
        """The images (samples, height, width, channels) in the stored dtype."""
        return self.columns["images"]

    @property
    def index_N(self) -> NDArray[np.uint32]:
        """The source index of each sample."""
        return self.columns["index"]

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """The class of each sample."""
        return self.columns["labels"]


class ShardSet:
    """A baked data set, in a directory or in an object store.

        data = ShardSet("shards/cifar10")
        for images, labels in data.batches("train", epoch=0, batch_size=512): ...

    The constructor reads only the manifest. Indexes are read when they are needed.

    Args:
        path: the directory, or its URL.
        cache: keeps copies of remote shards; default `Cache.default()`.

    Attributes:
        location: the directory, or a `Remote`.
        plan: the content of the manifest: source, augmentation, columns, seed, epochs.
        cache: None for a directory on this machine.

    Raises:
        DataError: no shard set there, or its manifest is damaged.
        MachineError: a URL gives no answer, or denies access.
    """

    def __init__(self, path: str | Location, cache: Cache | None = None) -> None:
        self.location = parse_path(path)
        self.cache = (cache or Cache.default()) if isinstance(self.location, Remote) else None
        self.plan = Plan.read(self.location)

    def __repr__(self) -> str:
        splits = [split for split in ("train", "val", "test") if split in self.splits]
        samples = ", ".join(f"{split} {self.samples(split)}" for split in splits)
        dtype, shape = self.columns["images"]
        images = f"{dtype} images of shape {shape}"
        return f"ShardSet({str(self.location)!r}: {self.name}, {samples}, {images}, {self.epochs} epochs)"

    @property
    def path(self) -> Path:
        """The directory; raises UsageError if the set is remote."""
        if isinstance(self.location, Remote):
            raise UsageError(f"{self.location}: expected a directory on this machine; copy the set to one")
        return self.location

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.plan.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; label i is classes[i]."""
        return self.plan.source.classes

    @property
    def epochs(self) -> int:
        """Number of planned training epochs."""
        return self.plan.epochs

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, and test and val if they exist."""
        return tuple(self.plan.splits)

    @property
    def columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The dtype and the shape of one sample of each column, by name; of the images, in training epoch 0."""
        return {column.name: (column.dtype, column.shape) for column in self.plan.columns}

    def samples(self, split: str, epoch: int = 0) -> int:
        """Return the number of samples in one epoch of a split."""
        return self._content(split, epoch).samples

    def image_shape(self, split: str, epoch: int = 0) -> tuple[int, int, int]:
        """Return height, width and channels of the images in one epoch of a split."""
        return self._content(split, epoch).image_shape

    def missing(self, split: str | None = None, epoch: int | None = None) -> list[str]:
        """List the planned shards that do not exist yet, by file name."""
        planned = self.plan.shards(split, epoch)
        there = existing(self.location, [shard.index for shard in planned])
        return [shard.tar for shard in planned if shard.index not in there]

    def open_shards(self, split: str, epoch: int = 0, *, numbers: Sequence[int] | None = None) -> Iterator[ShardReader]:
        """Yield the shards of an epoch, each opened when it is asked for; the caller closes them.

        Args:
            split: train, val or test.
            epoch: which epoch's views.
            numbers: of the shards, in order; default all, in the order of baking.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet, damaged, or of another plan.
        """
        self._content(split, epoch)
        missing = self.missing(split, epoch)
        if missing:
            raise DataError(
                f"{self.location}: {split} epoch {epoch} is not baked yet ({listed(missing)} missing). "
                f"{self.plan.remedy(self.location)}"
            )
        shards = self.plan.shards(split, epoch)
        for shard in shards if numbers is None else [shards[number] for number in numbers]:
            yield ShardReader(self.location, shard, self.plan, self.cache)

    def batches(
        self,
        split: str,
        epoch: int = 0,
        *,
        batch_size: int,
        drop_last: bool = False,
        columns: Sequence[str] = ("images", "labels"),
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield one epoch as batches, in the order of baking (which is shuffled for train).

        Args:
            split: train, val or test.
            epoch: which epoch's views.
            batch_size: samples per batch, at least 1.
            drop_last: omit the last batch if it is short.
            columns: names of the columns that a batch consists of.

        Yields:
            An array (N, *shape) for each column, new ones for each batch; by default images_NHWC in the
            stored dtype and labels_N (int64). The workers of a torch DataLoader share the batches: together they
            yield each batch once, and the DataLoader returns them in order.

        Raises:
            UsageError: no such split, epoch or column, or a batch size under 1.
            DataError: not baked yet, damaged, or of another plan.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {batch_size}")
        shapes = {column.name: column for column in self.plan.columns_of(self._content(split, epoch))}
        for name in columns:
            if name not in shapes:
                raise UsageError(f"{self.location}: no column named {name!r}; there are {', '.join(shapes)}")
        return _of_worker(self._batches(split, epoch, batch_size, drop_last, [shapes[name] for name in columns]))

    def _batches(
        self, split: str, epoch: int, batch_size: int, drop_last: bool, columns: Sequence[Column]
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        left = self.samples(split, epoch)
        batch: list[NDArray[Any]] = []
        size = filled = 0
        for record in self._records(split, epoch):
            start, samples = 0, len(record)
            while start < samples:
                if filled == size:
                    # Memory is allocated once there is a record to fill it: a damaged manifest may promise too much.
                    size, filled = min(batch_size, left), 0
                    batch = [np.empty((size, *column.shape), column.dtype) for column in columns]
                count = min(size - filled, samples - start)
                for array, column in zip(batch, columns, strict=True):
                    array[filled : filled + count] = record[column.name][start : start + count]
                start, filled = start + count, filled + count
                if filled == size:
                    left -= filled
                    if filled == batch_size or not drop_last:
                        yield tuple(batch)

    def records(self, split: str, epoch: int = 0) -> Iterator[Record]:
        """Yield one epoch record by record, in the order of baking.

        The next record overwrites the arrays: copy what you keep. The workers of a torch DataLoader share the
        records. Raises as `batches`.
        """
        yield from self._records(split, epoch, *_worker())

    def _records(self, split: str, epoch: int, worker: int = 0, workers: int = 1) -> Iterator[Record]:
        """Yield every `workers`-th record from record `worker` on."""
        buffer, counter = RecordBuffer(), itertools.count()
        for shard in self.open_shards(split, epoch):
            with shard:
                pixels = bytearray(shard.layouts[0].pixels_bytes)
                for number, layout in enumerate(shard.layouts):
                    if next(counter) % workers != worker:
                        continue
                    shard.read(number, [memoryview(pixels)[: layout.pixels_bytes]], buffer)
                    yield Record({"images": layout.columns[0].view(pixels, 0, layout.samples), **buffer.columns})

    def source_indices(
        self, split: str, epoch: int, start: int, stop: int, order: Sequence[tuple[int, Sequence[int]]]
    ) -> NDArray[np.uint32]:
        """Return the source indices of the samples from `start` to before `stop` of an epoch.

        Args:
            split: train, val or test.
            epoch: which epoch's views.
            start: first sample.
            stop: one more than the last sample.
            order: numbers of the shards and of their records, in the order in which samples are counted.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet, damaged, or of another plan.
        """
        found, buffer, first = [], RecordBuffer(), 0
        for shard, (_, records) in zip(
            self.open_shards(split, epoch, numbers=[n for n, _ in order]), order, strict=True
        ):
            with shard:
                for record in records:
                    layout = shard.layouts[record]
                    if first < stop and first + layout.samples > start:
                        shard.read(record, [memoryview(bytearray(layout.pixels_bytes))], buffer)
                        found.append(buffer.index_N[max(0, start - first) : stop - first].copy())
                    first += layout.samples
        return np.concatenate(found)

    def normalize(self, images_NHWC: NDArray[Any]) -> NDArray[np.float32]:
        """Return normalized float32 images: (pixel / 255 - mean) / std of uint8 ones, the values of float ones.

        Args:
            images_NHWC: as `batches` yields them.

        Raises:
            UsageError: another dtype than the stored one.
        """
        if images_NHWC.dtype != self.plan.dtype:
            raise UsageError(f"normalize: expected {self.plan.dtype} as stored, found {images_NHWC.dtype}")
        if images_NHWC.dtype != np.uint8:
            return images_NHWC.astype(np.float32)
        channels = range(len(self._tables))
        return np.stack([self._tables[c][images_NHWC[..., c]] for c in channels], axis=-1)

    @functools.cached_property
    def _tables(self) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            tables = normalized(self.plan.source.mean, self.plan.source.std).astype(np.float32)
        if not np.isfinite(tables).all():
            raise DataError(f"{self.location}: its mean and std give pixels that are not finite")
        return tables

    def webdataset(self, split: str, epoch: int = 0) -> Any:  # webdataset ships no types
        """Return a webdataset pipeline over one epoch; it yields (images_NHWC, labels_N) for each record.

        The workers of a torch DataLoader share the records. `ShardSet` reads and checks them. webdataset itself would
        unpickle any member of an archive, and run some paths as commands.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet; while iterating, damaged.
        """
        import webdataset

        for shard in self.open_shards(split, epoch):
            shard.close()
        source = webdataset.FluidWrapper(functools.partial(self._copied_records, split, epoch))
        return source.compose(webdataset.single_node_only)  # `records` splits by worker

    def _copied_records(self, split: str, epoch: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        for record in self.records(split, epoch):
            yield record.images_NHWC.copy(), record.labels_N.copy()

    def _content(self, split: str, epoch: int) -> Epoch:
        if split not in self.plan.splits:
            raise UsageError(f"{self.location}: no split named {split!r}; there are {', '.join(self.splits)}")
        epochs = self.plan.splits[split]
        if not 0 <= epoch < len(epochs):
            raise UsageError(f"{self.location}: {split} has epochs 0 to {len(epochs) - 1}, found {epoch}")
        return epochs[epoch]


def _of_worker(batches: Iterator[tuple[NDArray[Any], ...]]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield the batches of this worker, which may be a fork of the process that called this function."""
    worker, workers = _worker()
    yield from itertools.islice(batches, worker, None, workers)


def _worker() -> tuple[int, int]:
    """Return the number of this worker of a torch DataLoader, and how many there are; (0, 1) outside of one."""
    data = sys.modules.get("torch.utils.data")  # not imported here: reading needs no torch
    worker = data.get_worker_info() if data else None
    return (worker.id, worker.num_workers) if worker else (0, 1)
