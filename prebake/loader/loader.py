"""`Loader`: the batches of a shard set, epoch by epoch, on the device."""

import functools
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, get_worker_info

from prebake.errors import DataError, UsageError, quote
from prebake.loader.data_wait import DataWaitMeter
from prebake.loader.device_feed import Converter, feed
from prebake.loader.shard_set import ShardSet
from prebake.loader.soft_labels import SoftLabels
from prebake.loader.stream import Stream, column_type
from prebake.storage.cache import Cache
from prebake.storage.files import Location

__all__ = ["Batch", "Loader"]

Batch: TypeAlias = Any  # a tuple of tensors, or a dict of tensors where `columns` is a mapping


class Loader(IterableDataset[Batch]):
    """Batches of a shard set on the device, read ahead in the background.

        loader = Loader("shards/cifar10", "train", batch_size=512, device="cuda")
        for epoch in range(25):
            for images, labels in loader: ...

    Each loop over the loader plays the next epoch; a held-out split has one epoch, which every loop plays. `images`
    has shape (N, C, H, W), is normalized, and lies in channels_last memory. `labels` has shape (N,) and dtype int64.
    A record's checksum is verified before a sample of it is handed out.

    Reading continues across the end of an epoch, so the next one begins without a gap. A loop that is left early ends
    the reading; the next loop plays the next epoch. `close`, or a `with` block, ends it too. A `with` block also
    begins it, before the first batch is asked for.

    The loader needs no `torch.utils.data.DataLoader`, and refuses to be read in the workers of one. Where a framework
    makes a DataLoader of it, that needs `batch_size=None` and `num_workers=0`: it would collect whole batches again.

    Args:
        data: a shard set, or its directory or URL.
        split: train, val or test.
        batch_size: samples per batch. Of `world_size` processes each gets so many.
        device: where batches go.
        dtype: dtype of the images.
        drop_last: leave out an epoch's last batch where it is short. Several processes need this where the samples
            that are left are too few for all of them.
        shuffle_seed: seed of an own order of shards and records, see `prebake.loader.order`. None keeps the baked
            order, which is shuffled, and differs from epoch to epoch.
        rank: number of this process; by default that of `torch.distributed`, or 0.
        world_size: number of processes, each of which reads its part of every batch; by default likewise.
        columns: names of the columns to hand out, in order: "images", "labels", "index" (the number of the sample
            within its split of the source, int64), or a column of the shard set. A mapping hands out dicts, and maps
            their keys to such names.
        soft_labels: name of soft labels of the train split, which come last in each batch: float32 (N, classes).
        epochs: how many epochs will be played; nothing is read ahead beyond them. None for as many as there are.
        replay: play more epochs than there are: epoch e plays the views of epoch e mod (number of baked epochs).
        reuse_buffers: hand out views of the loader's own memory, which the next batch overwrites. This saves a copy.
        follow: wait for epochs that another process is still baking.
        cache: where remote shards are kept; None for the default place.
        data_wait: records how long each step waited for its batch.

    Attributes:
        data: the `ShardSet`, which has the names of the classes and the number of epochs.

    Raises:
        UsageError: an argument out of range, no such split or column.
        DataError: no shard set there. While iterating, shards that are missing or damaged.
        MachineError: not enough memory, or a URL that does not answer.
    """

    def __init__(
        self,
        data: ShardSet | str | Location,
        split: str = "train",
        *,
        batch_size: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        drop_last: bool = False,
        shuffle_seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        columns: Sequence[str] | Mapping[str, str] = ("images", "labels"),
        soft_labels: str | None = None,
        epochs: int | None = None,
        replay: bool = False,
        reuse_buffers: bool = False,
        follow: bool = False,
        cache: Cache | None = None,
        data_wait: DataWaitMeter | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {batch_size}")
        if (rank is None) != (world_size is None):
            raise UsageError("rank and world_size: expected both or none")
        self.data = data if isinstance(data, ShardSet) else ShardSet(data, cache)
        self.split, self.batch_size, self.drop_last = split, batch_size, drop_last
        self.device, self.dtype, self.shuffle_seed = torch.device(device), dtype, shuffle_seed
        self._names = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
        self._keys = list(columns) if isinstance(columns, Mapping) else None
        self._soft_labels: SoftLabels | None = None
        self._rank, self._world_size = rank, world_size
        self._replay, self._epochs, self._follow = replay, epochs, follow
        self._reuse_buffers, self._data_wait = reuse_buffers, data_wait
        self._next = _Position(0, 0)  # where the next loop begins
        self._last = _Position(0, 0)  # after the last batch that was handed out
        self._loop: object = None  # names the loop that may go on
        self._reader: _Reader | None = None
        self._check()
        if soft_labels is not None:
            if split != "train":
                raise UsageError(f"soft_labels: expected the split train, found {split!r}")
            self._soft_labels = SoftLabels(self.data, soft_labels, min(epochs or self.data.epochs, self.data.epochs))
            self._names.append("soft_labels")
            if self._keys is not None:
                self._keys.append("soft_labels")

    def _check(self) -> None:
        self.data.samples(self.split)  # raises where there is no such split
        for name in self._names:
            if name != "images":
                column_type(self.data, name)
        if self.split == "train" and not self._replay and (self._epochs or 0) > self.data.epochs:
            raise self._too_few_epochs(self._epochs or 0)

    def _too_few_epochs(self, wanted: int) -> UsageError:
        return UsageError(
            f"{self.data.location}: holds {self.data.epochs} epochs, and {wanted} are asked for. "
            f"{self.data.plan.more_epochs(self.data.location, wanted)}. Or pass replay=True, which plays the views of "
            f"epoch e mod {self.data.epochs} in epoch e"
        )

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self._rank if self._rank is not None else distributed.get_rank() if _is_distributed() else 0

    @property
    def world_size(self) -> int:
        """Number of processes that share the batches."""
        if self._world_size is not None:
            return self._world_size
        return distributed.get_world_size() if _is_distributed() else 1

    @property
    def epoch(self) -> int:
        """Epoch of the last batch that was handed out; before the first one, the epoch to come."""
        return self._last.epoch

    def set_epoch(self, epoch: int) -> None:
        """Let the next loop play this epoch.

        It begins with the first sample, except where `load_state_dict` has loaded a position in the same epoch.
        """
        if epoch < 0:
            raise UsageError(f"epoch: expected at least 0, found {epoch}")
        if self.split == "train":
            self._next = self._last = self._next if epoch == self._next.epoch else _Position(epoch, 0)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._count(_Position(self.epoch, 0))

    def __repr__(self) -> str:
        dtype, processes = str(self.dtype).removeprefix("torch."), self.world_size
        shared = f", rank {self.rank} of {processes}" if processes > 1 else ""
        return (
            f"Loader({str(self.data.location)!r}, {self.split!r}, batch_size={self.batch_size}, "
            f"device={str(self.device)!r}, dtype={dtype}: {len(self)} batches of {', '.join(self._names)}; "
            f"epoch {self.epoch} of {self._limit if self._limit < math.inf else 'any number'}{shared})"
        )

    def __iter__(self) -> Iterator[Batch]:
        """Play the next epoch. It is counted as played from its first batch on."""
        if get_worker_info() is not None:
            raise UsageError(
                "a Loader reads ahead in a thread of its own and can't be read in DataLoader workers: loop over it "
                "directly, or pass num_workers=0 and batch_size=None to the DataLoader, since a Loader yields whole "
                "batches. ShardSet.batches shares its batches among workers"
            )
        epoch, start = self._next
        if epoch >= self._limit:
            if self._epochs is not None:
                raise UsageError(f"{self!r} has played the {self._epochs} epochs that epochs= names")
            raise self._too_few_epochs(epoch + 1)
        count, samples = self._count(self._next), self._samples(epoch)
        reader = self._open(self._next)
        loop = self._loop = object()
        self._last = self._next
        self._next = self._after(epoch)
        reader.position = None
        done = 0
        try:
            while done < count:
                if self._loop is not loop:
                    raise UsageError("this loop over the Loader can't go on: the Loader was closed, or begun anew")
                batch = next(reader.batches)
                done += 1
                self._last = _Position(epoch, min(samples, start + done * self.batch_size * self.world_size))
                if done == count and _goes_on(self.data, self.split, epoch, self._limit):
                    reader.position = _Position(epoch + 1, 0)  # many loops never ask for more than the last batch
                yield self._handed_out(batch)
        finally:
            if self._loop is loop and reader.position is None:
                self._close_reader()

    def _handed_out(self, tensors: tuple[Tensor, ...]) -> Batch:
        """Return the columns in the order asked for, as tensors that the caller may keep."""
        if not self._reuse_buffers:
            stored = getattr(torch, self.data.plan.dtype)
            images = tensors[0] if stored != self.dtype else tensors[0].clone()  # the conversion made a copy
            tensors = (images, *(tensor.clone() for tensor in tensors[1:]))
        names = ("images", *self._columns, "soft_labels")
        ordered = tuple(tensors[names.index(name)] for name in self._names)
        return ordered if self._keys is None else dict(zip(self._keys, ordered, strict=True))

    @functools.cached_property
    def _columns(self) -> tuple[str, ...]:
        """Names of the columns to read, but for the images, which are always read."""
        return tuple(dict.fromkeys(name for name in self._names if name not in ("images", "soft_labels")))

    @property
    def _limit(self) -> float:
        """Number of epochs that can be played."""
        if self.split != "train":
            return 1
        if self._epochs is not None:
            return self._epochs
        return math.inf if self._replay else self.data.epochs

    def _samples(self, epoch: int) -> int:
        return self.data.samples(self.split, _view(self.data, self.split, epoch))

    def _count(self, position: "_Position") -> int:
        """Return the number of batches from a position to the end of its epoch, for this process."""
        left = self._samples(position.epoch) - position.sample
        whole, rest = divmod(left, self.batch_size * self.world_size)
        if self.drop_last or not rest:
            return whole
        if self.split == "train" and rest < self.world_size:
            raise UsageError(
                f"the last batch of an epoch has {rest} samples, too few for {self.world_size} processes: some would "
                "take fewer steps, and the others would wait for them for ever. Pass drop_last=True"
            )
        first, last = (rest * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return whole + (first < last)

    def _open(self, position: "_Position") -> "_Reader":
        """Return a reader whose next batch begins at the position."""
        reader = self._reader
        if reader is not None:
            if reader.process != os.getpid():
                raise UsageError(
                    f"process {reader.process} reads this Loader, and process {os.getpid()} can't; "
                    "make a Loader in the process that reads it"
                )
            if reader.position == position and not reader.stream.failed:
                return reader
            self._close_reader()
        self._reader = self._new_reader(position)
        return self._reader

    def _new_reader(self, position: "_Position") -> "_Reader":
        pin = self.device.type == "cuda"
        stream = Stream(
            self.data,
            self.split,
            _views(self.data, self.split, position.epoch, self._limit),
            self.batch_size,
            start=position.sample,
            drop_last=self.drop_last,
            pin=pin,
            follow=self._follow,
            shuffle_seed=self.shuffle_seed,
            first_epoch=position.epoch,
            rank=self.rank,
            world_size=self.world_size,
            columns=self._columns,
            soft_labels=self._soft_labels,
        )
        stream.__enter__()
        convert = Converter(self.data.plan, self.device, self.dtype)
        batches = feed(stream, convert, self.device, self._data_wait)
        return _Reader(stream, batches, position, os.getpid(), weakref.finalize(self, stream.close))

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        """End the reading. The next loop begins it again, with the next epoch."""
        self._loop = None
        self._close_reader()

    def __enter__(self) -> "Loader":
        if self._next.epoch < self._limit:
            self._open(self._next)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle all but the reading: a copy begins where the next loop would have begun."""
        return {**self.__dict__, "_loop": None, "_reader": None}

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch that was handed out, as plain values.

        It counts samples of all processes together. So it can be loaded with another batch size or world size.
        """
        epoch, sample = self._forward(self._last)
        return {
            "identity": self.data.plan.identity,
            "split": self.split,
            "shuffle_seed": self.shuffle_seed,
            "epoch": epoch,
            "sample": sample,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next loop begin at the position of a `state_dict`.

        Raises:
            DataError: it is of another shard set, split or order, or is no such state.
        """
        found = self.state_dict()
        if set(state_dict) != set(found):
            raise DataError(f"expected a Loader's state with {', '.join(found)}, found {quote(state_dict)}")
        for name in ("identity", "split", "shuffle_seed"):
            if state_dict[name] != found[name]:
                other = "shard set (other data, augmentation, seed or dtype)" if name == "identity" else name
                raise DataError(
                    f"{self.data.location}: this state is of a Loader with another {other}: "
                    f"{found[name]!r} expected, {quote(state_dict[name])} found"
                )
        position = _Position(int(state_dict["epoch"]), int(state_dict["sample"]))
        samples = self._samples(position.epoch)
        if position.epoch < 0 or not 0 <= position.sample <= samples:
            raise DataError(f"expected a position in an epoch of {samples} samples, found {quote(state_dict)}")
        self.close()
        self._next = self._last = self._forward(position)

    def _forward(self, position: "_Position") -> "_Position":
        """Return the position; at the end of an epoch, the begin of the next one."""
        left = self._samples(position.epoch) - position.sample
        if left and not (self.drop_last and left < self.batch_size * self.world_size):
            return position
        return self._after(position.epoch)

    def _after(self, epoch: int) -> "_Position":
        return _Position(epoch + 1 if self.split == "train" else 0, 0)


class _Position(NamedTuple):
    epoch: int
    sample: int  # of all processes together


@dataclass
class _Reader:
    """A running stream and its batches on the device; `position` is that of the next batch, None within a loop."""

    stream: Stream
    batches: Iterator[tuple[Tensor, ...]]
    position: _Position | None
    process: int
    close: Callable[[], object]


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


# The reading thread holds what it iterates over. So these are functions, which do not keep the Loader alive.
def _view(data: ShardSet, split: str, epoch: int) -> int:
    """Return the epoch of the shard set that is played in an epoch of the training."""
    return epoch % data.epochs if split == "train" else 0


def _goes_on(data: ShardSet, split: str, epoch: int, limit: float) -> bool:
    """Tell whether reading goes on after an epoch. Images of another size need a new ring."""
    shape, following = (data.image_shape(split, _view(data, split, e)) for e in (epoch, epoch + 1))
    return epoch + 1 < limit and shape == following


def _views(data: ShardSet, split: str, epoch: int, limit: float) -> Iterator[int]:
    """Yield the epochs of the shard set that one stream reads, from an epoch of the training on."""
    yield _view(data, split, epoch)
    while _goes_on(data, split, epoch, limit):
        epoch += 1
        yield _view(data, split, epoch)
