"""Copy batches to the device, and normalize them there."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from prebake.format.manifest import Plan
from prebake.loader.data_wait import DataWaitMeter

__all__ = ["Converter", "feed"]

# Batches on the device at once: one that a step reads, and others that are copied meanwhile.
RING = 3


class Converter:
    """Convert stored pixels to normalized images of a given dtype.

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
    """Yield (images NCHW, other columns ...) on the device. They are valid until the next batch is requested.

    On CUDA, a side stream copies each batch while the device still works on the previous one. The step waits for the
    copy on the device, and the host does not wait.

    Args:
        batches: from a `Stream`; in pinned memory if the device is CUDA. The first tensor is the images in NHWC.
        convert: a `Converter` for the same device.
        device: destination.
        data_wait: records how long each step waited for its batch, without the conversion.
    """
    moved = _copy_through_ring(batches, device) if device.type == "cuda" else _copy(batches, device)
    for images_NHWC, *columns in data_wait.of(moved) if data_wait else moved:
        yield (convert(images_NHWC), *columns)


def _copy(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    for batch in batches:
        yield tuple(tensor.to(device) for tensor in batch)


class _Slot:
    """Device memory for one batch in the stored dtype, and two events.

    The copy into the slot waits for `used`. A step that reads the slot waits for `copied`.
    """

    def __init__(self, batch: tuple[Tensor, ...], main: torch.cuda.Stream) -> None:
        self.tensors = tuple(torch.empty_like(tensor, device=main.device) for tensor in batch)
        self.copied = torch.cuda.Event(blocking=True)  # blocking: the waiting host leaves its core to the reader
        self.used = torch.cuda.Event()
        # The main stream may still use an earlier tensor in this memory.
        self.used.record(main)


def _copy_through_ring(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Copy each batch to the device while earlier steps are still running.

    Events enforce three orders:

    - A step reads its slot after the copy: the main stream waits for `copied`.
    - A slot is overwritten after the last step that read it: the side stream waits for `used`.
    - Staging memory is refilled after the copy: the host waits for `copied`. The device does not idle meanwhile: the
      wait ends when the previous step on this slot has ended, and later steps are already enqueued.
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
