"""Measure how long each step waited for its batch."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

__all__ = ["STALL_SECONDS", "DataWaitMeter"]

# A longer wait is a stall. Taking and copying a ready batch takes about 0.1 ms. If no batch is ready, the stream polls
# every 0.5 ms. A pipeline that is too slow makes the device wait for many ms.
STALL_SECONDS = 1e-3

T = TypeVar("T")


class DataWaitMeter:
    """Record how long each step waited for its batch.

    On CUDA, a wait is the time between two events on the device's current stream. The first event is enqueued when
    the host requests a batch, and completes after all earlier work. The second completes when the batch is on the
    device. A batch that arrives before the device has finished its earlier work causes no wait. If the device is idle
    before the host requests the batch, the wait starts at the request. On other devices, the host's wait is measured.

    Args:
        device: destination of the batches.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._new: Callable[[], Any] = _HostEvent
        if device.type == "cuda":
            self._new = functools.partial(torch.cuda.Event, enable_timing=True)
        self._spare: list[Any] = []
        self._spans: list[tuple[Any, Any]] = []

    def of(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and record the wait for each."""
        iterator = iter(batches)
        while True:
            requested = self._mark()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._spans.append((requested, self._mark()))
            yield batch

    def take(self) -> list[float]:
        """Return the waits since the last call, in seconds. Blocks until the device has reached the last event."""
        if self._spans:
            self._spans[-1][1].synchronize()
        seconds = [requested.elapsed_time(ready) / 1000 for requested, ready in self._spans]
        self._spare += [event for span in self._spans for event in span]
        self._spans.clear()
        return seconds

    def _mark(self) -> Any:
        event = self._spare.pop() if self._spare else self._new()
        if self._device.type == "cuda":
            event.record(torch.cuda.current_stream(self._device))
        else:
            event.record()
        return event


class _HostEvent:
    """The host's clock with the interface of a CUDA event."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """Return at once: a host event is complete when it is recorded."""

    def elapsed_time(self, later: "_HostEvent") -> float:
        return 1000 * (later.at - self.at)
