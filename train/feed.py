"""Feed: batches -> the device, converted and normalized there."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from shards.plan import Plan

__all__ = ["Converter", "feed"]


class Converter:
    """Turns stored pixels into what the net takes: normalized, NCHW in channels_last memory.

    Shards are NHWC, which is channels_last already: only the view changes.
    """

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._table: tuple[Tensor, Tensor] | None = None
        if plan.encoding == "uint8":
            mean = torch.tensor(plan.source.mean, dtype=torch.float64)
            deviation = torch.tensor(plan.source.deviation, dtype=torch.float64)
            scale = (1 / (255 * deviation)).to(device, torch.float32)
            self._table = scale, (-mean / deviation).to(device, torch.float32)

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """(N, H, W, C) as stored -> (N, C, H, W) normalized, on the same device."""
        if self._table is not None:
            scale, shift = self._table
            images_NHWC = torch.addcmul(shift, images_NHWC.to(torch.float32), scale)
        return images_NHWC.to(self._dtype).permute(0, 3, 1, 2)


def feed(
    batches: Iterable[tuple[Tensor, Tensor]], convert: Converter, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images NCHW, labels) on the device; the tensors are valid until the next ones are asked for.

    On CUDA the copy runs on a stream of its own. Steps are asynchronous: while the device still works on
    the last one, this batch is copied, and its step waits on the device, not here.

    Args:
        batches: of a `Stream`, pinned where the device is CUDA.
        convert: for the same device.
        device: where to.
    """
    if device.type == "cuda":
        yield from _feed_cuda(batches, convert, device)
        return
    for images_NHWC, labels_N in batches:
        yield convert(images_NHWC.to(device)), labels_N.to(device)


def _feed_cuda(
    batches: Iterable[tuple[Tensor, Tensor]], convert: Converter, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    side = torch.cuda.Stream(device)
    copied = torch.cuda.Event()
    for images_NHWC, labels_N in batches:
        with torch.cuda.stream(side):
            images, labels = images_NHWC.to(device, non_blocking=True), labels_N.to(device, non_blocking=True)
            copied.record(side)
        main = torch.cuda.current_stream(device)
        main.wait_event(copied)
        # Allocated on the side stream and used on this one: the memory must outlive the use.
        images.record_stream(main)
        labels.record_stream(main)
        yield convert(images), labels
        # The staging memory goes back to the reader when the next batch is asked for.
        copied.synchronize()
