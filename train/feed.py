"""Feed: batches -> the device, converted and normalized there."""

from collections import deque
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
    """Yield (images NCHW, labels) on the device, the next batch on its way while one is in use.

    The tensors are valid until the next ones are asked for.
    """
    if device.type == "cuda":
        yield from _feed_cuda(batches, convert, device)
        return
    for images_NHWC, labels_N in batches:
        yield convert(images_NHWC.to(device)), labels_N.to(device)


def _feed_cuda(
    batches: Iterable[tuple[Tensor, Tensor]], convert: Converter, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Copy on a side stream; hold each staging slot until its copy has ended."""
    side = torch.cuda.Stream(device)
    waiting: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()
    for images_NHWC, labels_N in batches:
        with torch.cuda.stream(side):
            images, labels = images_NHWC.to(device, non_blocking=True), labels_N.to(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(side)
        waiting.append((images, labels, copied))
        if len(waiting) > 1:
            yield _receive(*waiting.popleft(), convert)
        # The batch's memory goes back to the reader when the next one is asked for.
        copied.synchronize()
    while waiting:
        yield _receive(*waiting.popleft(), convert)


def _receive(images: Tensor, labels: Tensor, copied: torch.cuda.Event, convert: Converter) -> tuple[Tensor, Tensor]:
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    images.record_stream(stream)
    labels.record_stream(stream)
    return convert(images), labels
