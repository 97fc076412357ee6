"""Reading a shard set: every record is checked before a sample of it is handed out."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.errors import DataError, UsageError, listed
from shards.files import open_regular
from shards.index import Extent, Index
from shards.plan import Epoch, Plan, Shard
from shards.record import BLOCK_BYTES, Layout, normalized

__all__ = ["OpenShard", "ShardSet"]


class OpenShard:
    """One whole shard, open for reading: its index, and its records by number."""

    def __init__(self, directory: Path, shard: Shard, plan: Plan) -> None:
        self.path = directory / shard.tar
        self._remedy = plan.remedy(directory)
        try:
            self.index = Index.read(directory, shard, plan.identity)
        except DataError as error:
            raise DataError(f"{error}. {self._remedy}") from None
        self.layouts = shard.layouts
        self._classes = len(plan.source.classes)
        if not self.path.exists():
            raise DataError(f"{self.path}: missing, though its index is there. {self._remedy}")
        self.descriptor = open_regular(self.path)
        try:
            self._check_end()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _check_end(self) -> None:
        """Check the size, so that no memory is taken for what is not there, and the zeros behind the last record."""
        expected, found = self.index.size_bytes, os.fstat(self.descriptor).st_size
        if found != expected:
            raise DataError(
                f"{self.path}: {expected} bytes expected, {found} found: cut off, or not this shard. {self._remedy}"
            )
        zeros = bytes(2 * BLOCK_BYTES)
        if os.pread(self.descriptor, len(zeros), expected - len(zeros)) != zeros:
            raise DataError(f"{self.path}: bytes after the last record are not zero. {self._remedy}")

    def read(self, number: int, pixels: Sequence[memoryview], scratch: "Scratch") -> None:
        """Read and check a record: pixels to `pixels` in turn, all other bytes to `frame`.

        Args:
            number: of the record in this shard.
            pixels: writable byte views that together take exactly the record's pixels.
            scratch: takes the rest; its `labels` and `index` are this record's afterwards.

        Raises:
            DataError: the file ends too early, a byte differs, or a label is of no class.
        """
        extent, layout = self.index.extents[number], self.layouts[number]
        head, tail = scratch.views(layout)
        buffers = [head, *pixels, tail]
        read = os.preadv(self.descriptor, buffers, extent.offset)
        if read != extent.size_bytes:
            self._read_rest(buffers, extent, read)
        digest = xxhash.xxh3_64(head)
        for view in pixels:
            digest.update(view)
        digest.update(tail)
        if digest.intdigest() != extent.xxh3:
            raise DataError(
                f"{self.path}, record {extent.key}: bytes differ from the index (xxh3 {extent.xxh3:016x} expected, "
                f"{digest.hexdigest()} found). {self._remedy}"
            )
        if scratch.unsigned_labels.max() >= self._classes:  # a negative one is a huge one
            raise DataError(
                f"{self.path}, record {extent.key}: expected labels from 0 to {self._classes - 1}, found "
                f"{scratch.labels.min()} to {scratch.labels.max()}; whoever wrote this set made a mistake"
            )

    def _read_rest(self, buffers: Sequence[memoryview], extent: Extent, read: int) -> None:
        """Go on where a read came back short, as network file systems may; at the end of the file, say so."""
        offset = extent.offset
        for view in buffers:
            done = min(read, len(view))
            read -= done
            while done < len(view):
                count = os.preadv(self.descriptor, [view[done:]], offset + done)
                if count == 0:
                    raise DataError(
                        f"{self.path}, record {extent.key}: the file ended while it was read. {self._remedy}"
                    )
                done += count
            offset += len(view)


class Scratch:
    """Takes what surrounds a record's pixels: headers before, source indices and labels behind."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._layout: Layout | None = None

    def views(self, layout: Layout) -> tuple[memoryview, memoryview]:
        """Return byte views for the head and the tail of a record of that layout."""
        if layout is not self._layout:
            self._layout = layout
            self._head = bytearray(layout.pixels_offset)
            start = layout.pixels_offset + layout.pixels_bytes
            self._tail = bytearray(layout.size_bytes - start)
            self._views = memoryview(self._head), memoryview(self._tail)
            self.index: NDArray[np.uint32] = np.frombuffer(
                self._tail, "<u4", layout.samples, layout.index_offset - start
            )
            self.labels: NDArray[np.int64] = np.frombuffer(
                self._tail, "<i8", layout.samples, layout.labels_offset - start
            )
            self.unsigned_labels: NDArray[np.uint64] = self.labels.view("<u8")
        return self._views


class ShardSet:
    """A baked data set on disk.

        data = ShardSet("shards/cifar10")
        for images, labels in data.batches("train", epoch=0, batch_size=512): ...

    Only the manifest is read when it is opened; indexes load when needed.

    Attributes:
        path: the directory.
        plan: what was planned: source, augmentation, encoding, seed, epochs.

    Raises:
        DataError: no shard set there, or its manifest is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan = Plan.read(self.path)

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
        """Names of the splits: train, test where there is one, val where it was cut."""
        return tuple(self.plan.splits)

    def samples(self, split: str, epoch: int = 0) -> int:
        """Return the number of samples in one epoch of a split."""
        return self._content(split, epoch).samples

    def image_shape(self, split: str, epoch: int = 0) -> tuple[int, int, int]:
        """Return height, width and channels of the images in one epoch of a split."""
        return self._content(split, epoch).image_shape

    def missing(self, split: str | None = None, epoch: int | None = None) -> list[str]:
        """List planned shards that are not whole yet, by file name."""
        directory = str(self.path)
        # Not by `Path`, which takes longer than the question; a plan may have thousands of shards.
        return [
            shard.tar
            for shard in self.plan.shards(split, epoch)
            if not os.path.isfile(f"{directory}/{shard.index}")  # noqa: PTH113
        ]

    def open_shards(self, split: str, epoch: int = 0, *, numbers: Sequence[int] | None = None) -> Iterator[OpenShard]:
        """Open an epoch's shards one after the other; the caller closes them.

        Args:
            split: train, val or test.
            epoch: which epoch's variants.
            numbers: which of its shards, in turn; default all, as they were baked.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet, damaged, or of another plan.
        """
        self._content(split, epoch)
        missing = self.missing(split, epoch)
        if missing:
            raise DataError(
                f"{self.path}: {split} epoch {epoch} is not baked yet ({listed(missing)} missing). "
                f"{self.plan.remedy(self.path)}"
            )
        shards = self.plan.shards(split, epoch)
        for shard in shards if numbers is None else [shards[number] for number in numbers]:
            yield OpenShard(self.path, shard, self.plan)

    def batches(
        self, split: str, epoch: int = 0, *, batch_size: int, drop_last: bool = False
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yield one epoch as batches, in the order it was baked in (which is shuffled for train).

        Args:
            split: train, val or test.
            epoch: which epoch's variants.
            batch_size: samples a batch; any number from 1.
            drop_last: leave out the last batch where it is short.

        Yields:
            images_NHWC in the stored dtype and labels_N (int64), fresh arrays each time.

        Raises:
            UsageError: no such split or epoch, or a batch size under 1.
            DataError: not baked yet, damaged, or of another plan.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {batch_size}")
        self._content(split, epoch)  # so that it is refused here, and not at the first batch
        return self._batches(split, epoch, batch_size, drop_last)

    def _batches(
        self, split: str, epoch: int, batch_size: int, drop_last: bool
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        content = self._content(split, epoch)
        left = content.samples
        images, labels, filled = self._empty(content.image_shape, 0)
        for record_images, record_labels, _ in self.records(split, epoch):
            start = 0
            while start < len(record_labels):
                # Not before there is something to fill it with: a manifest may promise much.
                if filled == len(labels):
                    images, labels, filled = self._empty(content.image_shape, min(batch_size, left))
                count = min(len(labels) - filled, len(record_labels) - start)
                images[filled : filled + count] = record_images[start : start + count]
                labels[filled : filled + count] = record_labels[start : start + count]
                start, filled = start + count, filled + count
                if filled == len(labels):
                    if filled == batch_size or not drop_last:
                        yield images, labels
                    left -= filled

    def _empty(self, shape: tuple[int, int, int], samples: int) -> tuple[NDArray[Any], NDArray[np.int64], int]:
        return np.empty((samples, *shape), self.plan.encoding), np.empty(samples, np.int64), 0

    def records(
        self, split: str, epoch: int = 0
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.uint32]]]:
        """Yield one epoch record by record: images_NHWC, labels_N, and index_N (the source indices).

        The arrays are overwritten by the next record: copy what is to stay. Raises as `batches`.
        """
        scratch = Scratch()
        for shard in self.open_shards(split, epoch):
            with shard:
                buffer = bytearray(shard.layouts[0].pixels_bytes)
                for number, layout in enumerate(shard.layouts):
                    pixels = memoryview(buffer)[: layout.pixels_bytes]
                    shard.read(number, [pixels], scratch)
                    images = np.frombuffer(pixels, self.plan.encoding).reshape(layout.samples, *layout.image_shape)
                    yield images, scratch.labels, scratch.index

    def source_indices(
        self, split: str, epoch: int, start: int, stop: int, order: Sequence[tuple[int, Sequence[int]]]
    ) -> NDArray[np.uint32]:
        """Return the source indices of the samples from `start` to before `stop` of an epoch.

        Args:
            split: train, val or test.
            epoch: which epoch's variants.
            start: first sample.
            stop: last sample, and one.
            order: numbers of the shards and of their records, in the turn in which samples are counted.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet, damaged, or of another plan.
        """
        found, scratch, first = [], Scratch(), 0
        for shard, (_, records) in zip(
            self.open_shards(split, epoch, numbers=[n for n, _ in order]), order, strict=True
        ):
            with shard:
                for record in records:
                    layout = shard.layouts[record]
                    if first < stop and first + layout.samples > start:
                        shard.read(record, [memoryview(bytearray(layout.pixels_bytes))], scratch)
                        found.append(scratch.index[max(0, start - first) : stop - first].copy())
                    first += layout.samples
        return np.concatenate(found)

    def normalize(self, images_NHWC: NDArray[Any]) -> NDArray[np.float32]:
        """Return normalized float32 images, whatever the encoding: (pixel / 255 - mean) / deviation.

        Args:
            images_NHWC: as `batches` yields them.

        Raises:
            UsageError: another dtype than the stored one.
        """
        if images_NHWC.dtype != self.plan.encoding:
            raise UsageError(f"normalize: expected {self.plan.encoding} as stored, found {images_NHWC.dtype}")
        if images_NHWC.dtype != np.uint8:
            return images_NHWC.astype(np.float32)
        channels = range(len(self._tables))
        return np.stack([self._tables[c][images_NHWC[..., c]] for c in channels], axis=-1)

    @functools.cached_property
    def _tables(self) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            tables = normalized(self.plan.source.mean, self.plan.source.deviation).astype(np.float32)
        if not np.isfinite(tables).all():
            raise DataError(f"{self.path}: its mean and deviation leave no finite pixels")
        return tables

    def webdataset(self, split: str, epoch: int = 0) -> Any:  # webdataset ships no types
        """Return a webdataset pipeline over one epoch; it yields (images_NHWC, labels_N) a record.

        The records are read and checked here: of an archive that it reads itself, webdataset would unpickle
        whatever members it finds, and of a path that is no plain one it might make a command.

        Raises:
            UsageError: no such split or epoch.
            DataError: not baked yet; while iterating, damaged.
        """
        import webdataset

        for shard in self.open_shards(split, epoch):
            shard.close()
        source = webdataset.FluidWrapper(functools.partial(self._copied_records, split, epoch))
        return source.compose(webdataset.single_node_only, webdataset.split_by_worker)

    def _copied_records(self, split: str, epoch: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        for images, labels, _ in self.records(split, epoch):
            yield images.copy(), labels.copy()

    def _content(self, split: str, epoch: int) -> Epoch:
        if split not in self.plan.splits:
            raise UsageError(f"{self.path}: no split named {split!r}; there are {', '.join(self.splits)}")
        epochs = self.plan.splits[split]
        if not 0 <= epoch < len(epochs):
            raise UsageError(f"{self.path}: {split} has epochs 0 to {len(epochs) - 1}, found {epoch}")
        return epochs[epoch]
