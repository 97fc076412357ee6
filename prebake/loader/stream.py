"""Stream: records -> batches, through a ring of staging memory that a background thread fills."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from prebake.errors import MachineError, UsageError
from prebake.loader.follow import wait_for_epoch
from prebake.loader.order import reading_order
from prebake.loader.prefetcher import Prefetcher
from prebake.loader.ring_buffer import RingSlot, ring_slots
from prebake.loader.shard_reader import RecordBuffer, ShardReader
from prebake.loader.shard_set import ShardSet
from prebake.signals import check_signals

__all__ = ["Stream"]

# To wake the consumer costs the reader as much as to read half a record, and so does a consumer that wakes by itself
# while the reader is at work, since one of them then waits for the interpreter lock. So one that finds nothing sleeps
# for a while, and finds several batches then. A consumer that is slower than the reader never does.
POLL_SECONDS = 500e-6
# Of shards that come from elsewhere, so many are there before they are read.
SHARDS_AHEAD = 2


class _Turn(NamedTuple):
    """A shard to be read: these of its records, but for the first samples, with `left` samples to come in its epoch."""

    shard: ShardReader
    records: Sequence[int]
    skipped: int
    left: int


# Where some of a record's samples go: a slot, or none where nobody wants them; where in its labels; and in its pixels.
_Piece: TypeAlias = tuple[RingSlot | None, slice, memoryview]


class Stream:
    """Batches of consecutive epochs, prefetched across their borders, in the order they were baked in or one's own.

    Shards that lie elsewhere are fetched into the cache ahead of their turn.

    Pixels are read from the file straight into the batch they belong to; a batch is handed out when
    every record that touches it has passed its checksum.

        with Stream(data, "train", epochs=[0, 1, 2], batch_size=512, drop_last=True) as stream:
            for images, labels in stream: ...

    Yields images_NHWC (stored dtype) and labels_N (int64): views of the ring, overwritten after the
    next one is asked for. It is read once: iterating again goes on where the last loop ended.

    Args:
        data: the shard set.
        split: train, val or test.
        epochs: which epochs' views, in turn.
        batch_size: samples a batch.
        start: samples of the first epoch that are left out; their records are not read.
        drop_last: leave out an epoch's last batch where it is short.
        pin: page-locked staging memory, from which CUDA copies without waiting.
        follow: wait for epochs that another process is still baking.
        shuffle_seed: of an order of shards and records, see `prebake.loader.order`; None for the baked order.
        first_epoch: number in the training of the first of `epochs`, on which that order depends.
        part: number and count of the equal slices that each batch is cut into, of which this stream yields one; records
            that it does not touch are not read. Of a short batch, slices further back are shorter, and where nothing
            is left for one, it is not yielded.

    Raises:
        UsageError: no such split, epoch or start, epochs whose images differ in size, a batch size under 1, one that
            can't be cut so, or batches asked for outside of `with`.
        MachineError: no memory for so many such images.
        DataError: while iterating, where shards are missing or damaged.
    """

    def __init__(
        self,
        data: ShardSet,
        split: str,
        epochs: Sequence[int],
        batch_size: int,
        *,
        start: int = 0,
        drop_last: bool = False,
        pin: bool = False,
        follow: bool = False,
        shuffle_seed: int | None = None,
        first_epoch: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        number, count = part
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {batch_size}")
        if batch_size % count or not 0 <= number < count:
            raise UsageError(
                f"part: expected one of slices that {batch_size} can be cut into, found {number} of {count}"
            )
        shapes = {data.image_shape(split, epoch) for epoch in epochs}
        if len(shapes) != 1:
            raise UsageError(f"{data.location}: expected epochs of one image size, found {sorted(shapes)}")
        if not 0 <= start <= data.samples(split, epochs[0]):
            raise UsageError(f"start: expected 0 to {data.samples(split, epochs[0])}, found {start}")
        self._data, self._split, self._epochs, self._start = data, split, list(epochs), start
        self._batch_size, self._drop_last, self._follow = batch_size, drop_last, follow
        self._order_seed, self._first_epoch = shuffle_seed, first_epoch
        self._stopped = threading.Event()
        self._free: queue.SimpleQueue[RingSlot] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[RingSlot | BaseException | None] = queue.SimpleQueue()
        shape = shapes.pop()
        size = batch_size // count
        self._slice = range(number * size, number * size + size)  # of each batch
        self._at = 0  # samples of the batch that have passed, in whatever slice
        slots = ring_slots(shape, data.plan.dtype, size)
        try:
            images = torch.empty((slots, size, *shape), dtype=getattr(torch, data.plan.dtype), pin_memory=pin)
            labels = torch.empty((slots, size), dtype=torch.int64, pin_memory=pin)
        except RuntimeError as error:
            raise MachineError(f"{data.location}: no memory for {slots} batches of {size} ({error})") from None
        self._sample_bytes = images[0, 0].nbytes
        for slot in map(RingSlot, images, labels):
            self._free.put(slot)
        self._scratch = RecordBuffer()
        self._slot: RingSlot | None = None  # the one that is being filled
        self._waste = memoryview(b"")  # takes pixels that nobody wants
        self._thread = threading.Thread(target=self._fill, name="prebake-reader", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the reading thread and free the ring."""
        self._stopped.set()
        while self._thread.is_alive():
            # It may stand waiting for a slot; any will do, since it looks at `_stopped` first.
            self._free.put(None)  # type: ignore[arg-type] # a wake-up, not a slot
            self._thread.join(0.05)
        self._ready.put(None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._thread.ident is None:
            # Else nobody would end the thread of a stream that is dropped half way.
            raise UsageError("a Stream reads inside its `with` block: with Stream(...) as stream: for ... in stream")
        while True:
            item = self._next()
            if item is None or isinstance(item, BaseException):
                self._ready.put(item)  # whoever asks again hears it again
                if item is None:
                    return
                raise item
            try:
                yield item.batch()
            finally:
                self._free.put(item)

    def _next(self) -> RingSlot | BaseException | None:
        while True:
            try:
                return self._ready.get_nowait()
            except queue.Empty:
                check_signals()
                time.sleep(POLL_SECONDS)

    def _fill(self) -> None:
        turns = self._turns()
        try:
            if self._data.cache is None:
                for turn in turns:
                    self._fill_from(turn)
            else:
                with Prefetcher(turns, SHARDS_AHEAD, lambda turn: turn.shard.close()) as ahead:
                    for turn in iter(lambda: ahead.next(self._stopped), None):
                        self._fill_from(turn)
            self._stop_if_closed()
            self._ready.put(None)
        except _StoppedError:
            return
        except BaseException as error:
            self._ready.put(error)

    def _turns(self) -> Iterator[_Turn]:
        """Open all shards in turn; whoever takes one closes it."""
        for number, epoch in enumerate(self._epochs):
            if self._follow:
                wait_for_epoch(self._data, self._split, epoch, self._stopped)
                self._stop_if_closed()
            start = 0 if number else self._start
            left = self._data.samples(self._split, epoch) - start
            order = reading_order(self._data, self._split, epoch, self._order_seed, self._first_epoch + number)
            skipped, shards = start, self._data.plan.shards(self._split, epoch)
            while order and skipped >= shards[order[0][0]].samples:
                skipped -= shards[order.pop(0)[0]].samples
            opened = self._data.open_shards(self._split, epoch, numbers=[shard for shard, _ in order])
            for shard, (turn, records) in zip(opened, order, strict=True):
                yield _Turn(shard, records, skipped, left)
                left -= shards[turn].samples - skipped
                skipped = 0

    def _fill_from(self, turn: _Turn) -> None:
        skipped, left = turn.skipped, turn.left
        with turn.shard as shard:
            for record in turn.records:
                samples = shard.layouts[record].samples
                if skipped >= samples:
                    skipped -= samples
                    continue
                # A record is read and checked whole, or not at all.
                pieces = [self._wasted(0, skipped)] if skipped else []
                pieces += self._assign(skipped, samples, left)
                left -= samples - skipped
                skipped = 0
                if any(slot for slot, _, _ in pieces):
                    shard.read(record, [pixels for _, _, pixels in pieces], self._scratch)
                    self._hand_over(pieces, self._scratch)

    def _assign(self, first: int, samples: int, left: int) -> list[_Piece]:
        """Find room for a record's samples from `first` on, the next of `left` in this epoch."""
        pieces = []
        while first < samples:
            border = next(at for at in (self._slice.start, self._slice.stop, self._batch_size) if at > self._at)
            count = min(border - self._at, samples - first)
            pieces.append(self._mine(count, left) if self._at in self._slice else self._wasted(first, count))
            first, left = first + count, left - count
            self._at = (self._at + count) % self._batch_size if left else 0
        return pieces

    def _mine(self, count: int, left: int) -> _Piece:
        """Find room for so many samples of this stream's slice of a batch."""
        slot = self._slot
        if slot is None or slot.filled == slot.size:
            slot = self._slot = self._take()
            slot.filled, slot.size = 0, min(len(self._slice), left)
            slot.dropped = self._drop_last and self._at + left < self._batch_size
        start = slot.filled
        slot.filled += count
        return (
            slot,
            slice(start, slot.filled),
            slot.pixels[start * self._sample_bytes : slot.filled * self._sample_bytes],
        )

    def _wasted(self, first: int, count: int) -> _Piece:
        """Find room for so many samples that nobody wants, from `first` on in a record whose bytes are all hashed."""
        end = (first + count) * self._sample_bytes
        if len(self._waste) < end:
            # Views of what was there before stay as they are.
            self._waste = memoryview(bytearray(end))
        return None, slice(0, count), self._waste[first * self._sample_bytes : end]

    def _hand_over(self, pieces: list[_Piece], scratch: RecordBuffer) -> None:
        """Give the slots that are full to the consumer."""
        done = 0
        for slot, place, _ in pieces:
            count = place.stop - place.start
            if slot is not None:
                slot.labels[place] = scratch.labels[done : done + count]
                if place.stop == slot.size:
                    (self._free if slot.dropped else self._ready).put(slot)
            done += count

    def _take(self) -> RingSlot:
        slot = self._free.get()
        self._stop_if_closed()
        return slot

    def _stop_if_closed(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The consumer has gone."""
