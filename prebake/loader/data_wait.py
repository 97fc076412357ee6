"""Waits: how long the device had nothing to do, for want of a batch."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

__all__ = ["STALL_SECONDS", "DataWaitMeter"]

# A longer wait is a stall. Asking for a batch that is there, and copying it, takes some 0.1 ms, and a stream that
# is read faster than it fills looks again after 0.5 ms; what can't keep up makes the device wait many ms.
STALL_SECONDS = 1e-3

T = TypeVar("T")


class DataWaitMeter:
    """Takes down how long each batch was waited for.

    On CUDA it is the device's current stream whose waiting counts, between two events on it. The first is enqueued
    when a batch is asked for, and comes when the device has done all that it was given before; the second comes
    when the batch lies there. So a batch that is late for the host but in time for the device was not waited
    for; and where the device is done before the host asks, its waiting counts from the asking.
    Elsewhere it is the host that waits.

    Args:
        device: which the batches are brought to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._new: Callable[[], Any] = _HostEvent
        if device.type == "cuda":
            self._new = functools.partial(torch.cuda.Event, enable_timing=True)
        self._spare: list[Any] = []
        self._spans: list[tuple[Any, Any]] = []

    def of(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches on, and take down the wait for each."""
        iterator = iter(batches)
        while True:
            asked = self._mark()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._spans.append((asked, self._mark()))
            yield batch

    def take(self) -> list[float]:
        """Return the waits since the last call, in seconds; where events are still to come it waits for them."""
        if self._spans:
            self._spans[-1][1].synchronize()
        seconds = [asked.elapsed_time(there) / 1000 for asked, there in self._spans]
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
    """The host's clock in the form of a CUDA event."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """Return at once: what the host has recorded has come."""

    def elapsed_time(self, later: "_HostEvent") -> float:
        return 1000 * (later.at - self.at)
