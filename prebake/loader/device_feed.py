"""Feed: batches -> the device, converted and normalized there."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from prebake.format.manifest import Plan
from prebake.loader.data_wait import DataWaitMeter

__all__ = ["Converter", "feed"]

# Batches that lie on the device at once: one that a step works on, and those that are copied meanwhile.
RING = 3


class Converter:
    """Turns stored pixels into what the net takes: normalized, NCHW in channels_last memory.

    Shards are NHWC, which is channels_last already: only the view changes.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._table: tuple[Tensor, Tensor] | None = None
        if plan.dtype == "uint8":
            mean = torch.tensor(plan.source.mean, dtype=torch.float64)
            std = torch.tensor(plan.source.std, dtype=torch.float64)
            scale = (1 / (255 * std)).to(device, torch.float32)
            self._table = scale, (-mean / std).to(device, torch.float32)

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """(N, H, W, C) as stored -> (N, C, H, W) normalized, on the same device."""
        if self._table is not None:
            scale, shift = self._table
            images_NHWC = torch.addcmul(shift, images_NHWC.to(torch.float32), scale)
        return images_NHWC.to(self._dtype).permute(0, 3, 1, 2)


def feed(
    batches: Iterable[tuple[Tensor, Tensor]],
    convert: Converter,
    device: torch.device,
    waits: DataWaitMeter | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images NCHW, labels) on the device; the tensors are valid until the next ones are asked for.

    On CUDA the copy runs on a stream of its own. Steps are asynchronous: while the device still works on
    the last one, this batch is copied, and its step waits on the device, not here.

    Args:
        batches: of a `Stream`, pinned where the device is CUDA.
        convert: for the same device.
        device: where to.
        waits: takes down how long each batch was waited for, conversion not included.
    """
    there = _through_ring(batches, device) if device.type == "cuda" else _moved(batches, device)
    for images_NHWC, labels_N in waits.of(there) if waits else there:
        yield convert(images_NHWC), labels_N


def _moved(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for images_NHWC, labels_N in batches:
        yield images_NHWC.to(device), labels_N.to(device)


class _Slot:
    """Memory for one batch on the device, as stored, and the events that its two users wait for.

    The copy into it waits for `used`, whoever reads it for `copied`.
    """

    def __init__(self, images_NHWC: Tensor, labels_N: Tensor, main: torch.cuda.Stream) -> None:
        self.images_NHWC = torch.empty_like(images_NHWC, device=main.device)
        self.labels_N = torch.empty_like(labels_N, device=main.device)
        self.copied = torch.cuda.Event(blocking=True)  # the host sleeps on it, so that the reader gets the core
        self.used = torch.cuda.Event()
        # The main stream may still work on what this memory held before.
        self.used.record(main)


def _through_ring(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Copy batches to the device, each while the steps before it are still at work.

    Three orders hold. A step reads its slot after the copy: the main stream waits for `copied`. A slot is copied
    to after the step that read it last: the side stream waits for `used`. Staging memory goes back to
    whoever fills it after the copy: the host waits for `copied`. That wait costs the device nothing: it ends, at
    the latest, when the step that used this slot before has ended, and the steps after that are enqueued already.
    """
    side = torch.cuda.Stream(device)
    ring: list[_Slot | None] = [None] * RING
    for number, (images_NHWC, labels_N) in enumerate(batches):
        main = torch.cuda.current_stream(device)
        slot, count = ring[number % RING], len(labels_N)
        if slot is None or len(slot.labels_N) < count:
            slot = ring[number % RING] = _Slot(images_NHWC, labels_N, main)
        side.wait_event(slot.used)
        with torch.cuda.stream(side):
            slot.images_NHWC[:count].copy_(images_NHWC, non_blocking=True)
            slot.labels_N[:count].copy_(labels_N, non_blocking=True)
            slot.copied.record(side)
        main.wait_event(slot.copied)
        try:
            yield slot.images_NHWC[:count], slot.labels_N[:count]
        finally:
            slot.used.record(main)
            slot.copied.synchronize()
