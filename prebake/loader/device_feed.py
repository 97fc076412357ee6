"""Bring batches to the device, and normalize them there."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from prebake.format.manifest import Plan
from prebake.loader.data_wait import DataWaitMeter

__all__ = ["Converter", "feed"]

# Batches that lie on the device at once: one that a step works on, and those that are copied meanwhile.
RING = 3


class Converter:
    """Turns stored pixels into normalized images of a given dtype.

    Stored pixels are NHWC, which is NCHW in channels_last memory. So only the view changes.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._scale_and_shift: tuple[Tensor, Tensor] | None = None
        if plan.dtype == "uint8":
            mean = torch.tensor(plan.source.mean, dtype=torch.float64)
            std = torch.tensor(plan.source.std, dtype=torch.float64)
            scale = (1 / (255 * std)).to(device, torch.float32)
            self._scale_and_shift = scale, (-mean / std).to(device, torch.float32)

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """(N, H, W, C) as stored -> (N, C, H, W) normalized, on the same device."""
        if self._scale_and_shift is not None:
            scale, shift = self._scale_and_shift
            images_NHWC = torch.addcmul(shift, images_NHWC.to(torch.float32), scale)
        return images_NHWC.to(self._dtype).permute(0, 3, 1, 2)


def feed(
    batches: Iterable[tuple[Tensor, ...]],
    convert: Callable[[Tensor], Tensor],
    device: torch.device,
    data_wait: DataWaitMeter | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (images NCHW, other columns ...) on the device. They are valid until the next batch is asked for.

    On CUDA a side stream copies. Steps are asynchronous: the batch is copied while the device still works on the
    last one. The step waits for it on the device, and the host does not wait.

    Args:
        batches: of a `Stream`, pinned where the device is CUDA. Images in NHWC come first.
        convert: a `Converter` for the same device.
        device: destination.
        data_wait: records how long each step waited for its batch, conversion not included.
    """
    moved = _copy_through_ring(batches, device) if device.type == "cuda" else _copy(batches, device)
    for images_NHWC, *columns in data_wait.of(moved) if data_wait else moved:
        yield (convert(images_NHWC), *columns)


def _copy(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    for batch in batches:
        yield tuple(tensor.to(device) for tensor in batch)


class _Slot:
    """Memory for one batch on the device, as stored, and two events.

    The copy into the slot waits for `used`. A step that reads the slot waits for `copied`.
    """

    def __init__(self, batch: tuple[Tensor, ...], main: torch.cuda.Stream) -> None:
        self.tensors = tuple(torch.empty_like(tensor, device=main.device) for tensor in batch)
        self.copied = torch.cuda.Event(blocking=True)  # the host sleeps on it and leaves its core to the reader
        self.used = torch.cuda.Event()
        # The main stream may still work on what this memory held before.
        self.used.record(main)


def _copy_through_ring(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Copy batches to the device, each while the steps before it are still running.

    Three orders hold:

    - A step reads its slot after the copy: the main stream waits for `copied`.
    - A slot is overwritten after the last step that read it: the side stream waits for `used`.
    - Staging memory is filled again after the copy: the host waits for `copied`. This wait costs the device nothing.
      It ends when the step that used this slot before has ended, and the steps after that are enqueued already.
    """
    side = torch.cuda.Stream(device)
    ring: list[_Slot | None] = [None] * RING
    for number, batch in enumerate(batches):
        main = torch.cuda.current_stream(device)
        slot, count = ring[number % RING], len(batch[0])
        if slot is None or len(slot.tensors[0]) < count:
            slot = ring[number % RING] = _Slot(batch, main)
        side.wait_event(slot.used)
        with torch.cuda.stream(side):
            for target, tensor in zip(slot.tensors, batch, strict=True):
                target[:count].copy_(tensor, non_blocking=True)
            slot.copied.record(side)
        main.wait_event(slot.copied)
        try:
            yield tuple(tensor[:count] for tensor in slot.tensors)
        finally:
            slot.used.record(main)
            slot.copied.synchronize()
