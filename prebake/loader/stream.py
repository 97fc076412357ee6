"""Read records into batches, in a background thread."""

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from prebake.errors import UsageError
from prebake.loader.follow import wait_for_epoch
from prebake.loader.order import reading_order
from prebake.loader.prefetcher import Prefetcher
from prebake.loader.ring_buffer import RingSlot, allocate_ring
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.loader.shard_set import ShardSet
from prebake.loader.soft_labels import SoftLabelReader, SoftLabels
from prebake.signals import check_signals

__all__ = ["Piece", "Stream", "column_type", "pieces_of"]

# A consumer that finds no batch sleeps this long before it looks again. A blocking wait is slower: to wake a thread
# costs the reader as much as half a record, and a thread that wakes by itself competes for the interpreter lock.
POLL_SECONDS = 500e-6
# So many remote shards are fetched before they are read.
SHARDS_AHEAD = 2


class Piece(NamedTuple):
    """Consecutive samples of a record, `first` to before `last` as the epoch counts them.

    `batch` tells which samples make up the batch that they go to. It is None where this process does not want them.
    """

    first: int
    last: int
    batch: range | None


class _ShardTask(NamedTuple):
    """An open shard and the records to read from it, in order.

    `position` is the number of the first record's first sample in the epoch. Samples `start` to before `stop` of the
    epoch are handed out.
    """

    shard: ShardReader
    records: Sequence[int]
    position: int
    start: int
    stop: int
    soft_labels: SoftLabelReader | None = None

    def close(self) -> None:
        """Close the files."""
        self.shard.close()
        if self.soft_labels:
            self.soft_labels.close()


class Stream:
    """Batches of consecutive epochs, read ahead in a background thread.

    Pixels are read from the file straight into the batch that they belong to. A batch is handed out after every record
    that touches it has passed its checksum. `Loader` is built on this class.

        with Stream(data, "train", epochs=[0, 1, 2], batch_size=512, drop_last=True) as stream:
            for images, labels in stream: ...

    Yields images_NHWC in the stored dtype, then the other columns. All are views of the ring, and are overwritten after
    the next batch is asked for. A second loop over the same stream continues where the first one ended.

    Args:
        data: the shard set.
        split: train, val or test.
        epochs: the epochs of the shard set to play, in order. All must have images of one size.
        batch_size: samples per batch and process.
        start: number of samples of the first epoch to leave out.
        drop_last: leave out an epoch's last batch where it is short.
        pin: use page-locked staging memory, from which CUDA copies asynchronously.
        follow: wait for epochs that another process is still baking.
        shuffle_seed: seed of the order of shards and records, see `prebake.loader.order`; None for the baked order.
        first_epoch: training epoch of the first of `epochs`. The shuffled order depends on it.
        rank: number of this process.
        world_size: number of processes that share the batches, see `pieces_of`. Records without a sample for this
            process are not read.
        columns: names of the columns after the images.
        soft_labels: soft labels to read in step; they come last, in float32.

    Raises:
        UsageError: no such split, epoch, column, start or rank, a batch size under 1, or batches asked for outside of
            `with` or in another process.
        MachineError: not enough memory.
        DataError: while iterating, where shards are missing or damaged.

    Attributes:
        failed: whether the reading has ended with an error.
    """

    def __init__(
        self,
        data: ShardSet,
        split: str,
        epochs: Iterable[int],
        batch_size: int,
        *,
        start: int = 0,
        drop_last: bool = False,
        pin: bool = False,
        follow: bool = False,
        shuffle_seed: int | None = None,
        first_epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] = ("labels",),
        soft_labels: SoftLabels | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {batch_size}")
        if not 0 <= rank < world_size:
            raise UsageError(f"rank: expected 0 to {world_size - 1}, found {rank}")
        epochs = iter(epochs)
        first = next(epochs)
        if not 0 <= start <= data.samples(split, first):
            raise UsageError(f"start: expected 0 to {data.samples(split, first)}, found {start}")
        self._data, self._split, self._epochs = data, split, itertools.chain([first], epochs)
        self._start, self._drop_last, self._follow = start, drop_last, follow
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._shuffle_seed, self._first_epoch = shuffle_seed, first_epoch
        shape, dtype = data.image_shape(split, first), data.plan.dtype
        types = {name: column_type(data, name) for name in columns}
        if soft_labels:
            types["soft_labels"] = torch.float32, (len(data.classes),)
        self._soft_labels = soft_labels
        ring = allocate_ring(shape, dtype, batch_size, types, pin=pin)
        self._free: queue.SimpleQueue[RingSlot | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[RingSlot | BaseException | None] = queue.SimpleQueue()
        for slot in ring:
            self._free.put(slot)
        self._sample_bytes = len(ring[0].pixels) // batch_size
        self._slot = ring[0]  # the one that is being filled
        self._unwanted = memoryview(b"")  # takes the pixels that other processes hand out
        self._buffer = RecordBuffer()
        self.failed = False
        self._process = os.getpid()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prebake-reader", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the reading thread."""
        if os.getpid() != self._process:
            return  # a forked child has no such thread
        self._stopped.set()
        self._free.put(None)  # wakes the thread where it waits for a slot
        # The garbage collector may call this in the thread itself.
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._ready.put(None)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self._thread.ident is None:
            # Without the block, nothing would end the thread of an abandoned stream.
            raise UsageError("a Stream reads inside its `with` block: with Stream(...) as stream: for ... in stream")
        while True:
            item = self._next()
            if item is None or isinstance(item, BaseException):
                self._ready.put(item)  # the next call gets it again
                if item is None:
                    return
                raise item
            try:
                yield item.batch()
            finally:
                self._free.put(item)

    def _next(self) -> RingSlot | BaseException | None:
        if os.getpid() != self._process:
            raise UsageError(
                f"process {self._process} opened this Stream, and process {os.getpid()} can't read it; "
                "open it in the process that reads it"
            )
        while True:
            try:
                return self._ready.get_nowait()
            except queue.Empty:
                check_signals()
                time.sleep(POLL_SECONDS)

    def _read(self) -> None:
        """Read all epochs. This is the background thread."""
        tasks = self._tasks()
        try:
            if self._data.cache is None:
                for task in tasks:
                    self._read_shard(task)
            else:
                with Prefetcher(tasks, SHARDS_AHEAD, _ShardTask.close) as ahead:
                    for task in iter(lambda: ahead.next(self._stopped), None):
                        self._read_shard(task)
            self._stop_if_closed()
            self._ready.put(None)
        except _StoppedError:
            return
        except BaseException as error:
            self.failed = True
            self._ready.put(error)

    def _tasks(self) -> Iterator[_ShardTask]:
        """Open the shards of all epochs, one after the other. The receiver closes them."""
        for number, epoch in enumerate(self._epochs):
            if self._follow:
                wait_for_epoch(self._data, self._split, epoch, self._stopped)
                self._stop_if_closed()
            start, stop = 0 if number else self._start, self._data.samples(self._split, epoch)
            if self._drop_last:
                stop -= (stop - start) % (self._world_size * self._batch_size)
            shards = self._data.plan.shards(self._split, epoch)
            position, wanted = 0, []
            for shard, records in reading_order(
                self._data, self._split, epoch, self._shuffle_seed, self._first_epoch + number
            ):
                if start < position + shards[shard].samples and position < stop:
                    wanted.append((shard, records, position))
                position += shards[shard].samples
            opened = self._data.open_shards(self._split, epoch, numbers=[shard for shard, _, _ in wanted])
            for reader, (shard, records, position) in zip(opened, wanted, strict=True):
                soft_labels = self._soft_labels.open(shards[shard]) if self._soft_labels else None
                yield _ShardTask(reader, records, position, start, stop, soft_labels)

    def _read_shard(self, task: _ShardTask) -> None:
        position = task.position
        with contextlib.closing(task):
            shard = task.shard
            for record in task.records:
                end = position + shard.layouts[record].samples
                pieces = pieces_of(position, end, task.start, task.stop, self._batch_size, self._rank, self._world_size)
                if any(piece.batch for piece in pieces):
                    self._read_record(task, record, pieces)
                position = end

    def _read_record(self, task: _ShardTask, record: int, pieces: Sequence[Piece]) -> None:
        """Read and check one record, and hand over the batches that it completes."""
        position = pieces[0].first
        pixels: list[memoryview] = []
        targets: list[tuple[RingSlot, int, slice]] = []  # slot, first row in the slot, samples of the record
        for first, last, batch in pieces:
            if batch is None:
                pixels.append(self._unwanted_pixels(first - position, last - position))
                continue
            if first == batch.start:
                self._slot = self._take(len(batch))
            row, end = first - batch.start, last - batch.start
            pixels.append(self._slot.pixels[row * self._sample_bytes : end * self._sample_bytes])
            targets.append((self._slot, row, slice(first - position, last - position)))
        task.shard.read(record, pixels, self._buffer)
        columns = self._buffer.columns
        if task.soft_labels:
            columns = {**columns, "soft_labels": task.soft_labels.read(record)}
        for slot, row, samples in targets:
            end = row + samples.stop - samples.start
            for name, array in slot.arrays.items():
                array[row:end] = columns[name][samples]
            if end == slot.size:
                self._ready.put(slot)

    def _unwanted_pixels(self, first: int, last: int) -> memoryview:
        """Return memory for samples of a record that nobody gets here. Their bytes are read for the checksum."""
        size = last * self._sample_bytes
        if len(self._unwanted) < size:
            self._unwanted = memoryview(bytearray(size))
        return self._unwanted[first * self._sample_bytes : size]

    def _take(self, size: int) -> RingSlot:
        """Wait for a free slot, and set its number of samples."""
        slot = self._free.get()
        if slot is None or self._stopped.is_set():  # close() puts None
            raise _StoppedError
        slot.size = size
        return slot

    def _stop_if_closed(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The stream was closed."""


def pieces_of(first: int, last: int, start: int, stop: int, batch_size: int, rank: int, world_size: int) -> list[Piece]:
    """Cut the samples of a record where batches begin and end.

    The processes together read batches of world_size * batch_size samples, the first of which begins at `start`. Each
    process gets an equal part, in the order of ranks. The parts of a short last batch differ by one sample at most.

    Args:
        first: number of the record's first sample in the epoch.
        last: number of its last sample, plus one.
        start: first sample of the epoch that is handed out.
        stop: last sample of the epoch that is handed out, plus one.
        batch_size: samples per batch and process.
        rank: number of this process.
        world_size: number of processes.
    """
    pieces = []
    while first < last:
        batch = None
        if first < start:
            end = start
        elif first >= stop:
            end = last
        else:
            whole = first - (first - start) % (world_size * batch_size)  # where the batch of all processes begins
            size = min(world_size * batch_size, stop - whole)
            own = range(whole + size * rank // world_size, whole + size * (rank + 1) // world_size)
            if first in own:
                end, batch = own.stop, own
            else:
                end = own.start if first < own.start else whole + size
        end = min(end, last)
        pieces.append(Piece(first, end, batch))
        first = end
    return pieces


def column_type(data: ShardSet, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the dtype in which a column is handed out, and its shape per sample.

    Raises:
        UsageError: no such column.
    """
    if name not in data.columns:
        raise UsageError(f"{data.location}: no column named {name!r}; there are {', '.join(data.columns)}")
    dtype, shape = data.columns[name]
    # torch indexes with int64 only.
    return torch.int64 if name == "index" else getattr(torch, dtype), shape
