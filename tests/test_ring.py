"""The feed's ring on CUDA, played through without a GPU: no two accesses to one memory are left without an order.

Streams, events and the host are vector clocks here. An access has a time on the line that does it; it comes
before another if that other's line has heard of that time.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from prebake.loader.data_wait import DataWaitMeter
from prebake.loader.device_feed import RING, feed

CUDA = torch.device("cuda")
BATCHES = 4 * RING
LONGEST = 8
AS_STORED: Any = lambda images_NHWC: images_NHWC  # noqa: E731 - a converter with nothing to do, so that steps read the ring itself


@dataclass
class Line:
    """The host or a stream: what it does comes one after the other, and what it has heard of others."""

    name: str
    heard: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"

    def hear(self, heard: dict[str, int]) -> None:
        for name, time in heard.items():
            self.heard[name] = max(time, self.heard.get(name, 0))

    def act(self) -> int:
        self.heard[self.name] = self.heard.get(self.name, 0) + 1
        return self.heard[self.name]

    def wait_event(self, event: "Event") -> None:
        self.hear(event.heard)


class Event:
    """What a line had heard of when this was recorded last."""

    machine: "Machine"

    def __init__(self, **_options: bool) -> None:
        self.heard: dict[str, int] = {}

    def record(self, stream: Line) -> None:
        stream.hear(self.machine.host.heard)
        self.heard = dict(stream.heard)

    def synchronize(self) -> None:
        self.machine.host.hear(self.heard)

    def elapsed_time(self, later: "Event") -> int:
        """Stand in for milliseconds: how many accesses of copies came between."""
        return later.heard.get("side 0", 0) - self.heard.get("side 0", 0)


class Machine:
    """One host, its streams, and every access to memory: where, by whom, when, what was heard of, writing or not."""

    def __init__(self) -> None:
        self.host, self.main = Line("host"), Line("main")
        self.current = self.main
        self.numbers = itertools.count()
        self.accesses: list[tuple[int, str, int, dict[str, int], bool]] = []
        # Kept as long as the machine: here, host and device share one allocator, which would else give memory of
        # the ring to the host, as no machine with a GPU can.
        self.images_NHWC = torch.zeros(LONGEST, 2, 2, 1).as_subclass(Watched)
        self.labels_N = torch.zeros(LONGEST, dtype=torch.int64).as_subclass(Watched)

    def access(self, line: Line, tensor: Tensor, *, write: bool) -> None:
        if line is not self.host:
            line.hear(self.host.heard)  # it was enqueued after all that the host has heard of
        time = line.act()
        self.accesses.append((tensor.data_ptr(), line.name, time, dict(line.heard), write))

    def new_stream(self, _device: torch.device) -> Line:
        return Line(f"side {next(self.numbers)}")

    @contextlib.contextmanager
    def stream(self, stream: Line) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def unordered(self) -> list[str]:
        """List pairs of accesses to one memory, one of them writing, of which neither is known to come first."""
        found = []
        for (at, one, time, _, writes), (where, other, later, heard, also) in itertools.combinations(self.accesses, 2):
            if at == where and (writes or also) and one != other and heard.get(one, 0) < time:
                found.append(f"{one} at {time}, {other} at {later}")
        return found


class Watched(Tensor):
    """A tensor whose copies are accesses by the stream that is current.

    So is its allocation: the memory may come from a tensor that this stream still works on.
    """

    machine: Machine

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.copy_:
            cls.machine.access(cls.machine.current, args[0], write=True)
            cls.machine.access(cls.machine.current, args[1], write=False)
        result = super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call] # torch's
        if function is torch.empty_like:
            cls.machine.access(cls.machine.current, result, write=True)
        return result


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that stands in CUDA's place."""
    machine = Machine()
    Event.machine = Watched.machine = machine
    monkeypatch.setattr(torch.cuda, "Stream", machine.new_stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", machine.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: machine.main)
    return machine


def staged(machine: Machine, sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Fill one and the same staging memory with batch after batch, as the hardest of all readers."""
    for number, size in enumerate(sizes):
        for tensor in (machine.images_NHWC, machine.labels_N):
            machine.access(machine.host, tensor, write=True)
            tensor.fill_(number)
        yield machine.images_NHWC[:size], machine.labels_N[:size]


def play(machine: Machine, sizes: list[int], waits: DataWaitMeter | None = None) -> set[int]:
    """Feed batches and read each in a step; return the addresses on the device."""
    addresses = set()
    for number, (images, labels) in enumerate(feed(staged(machine, sizes), AS_STORED, CUDA, waits)):
        assert images.shape == (sizes[number], 2, 2, 1)
        assert (images == number).all()
        assert (labels == number).all()
        for tensor in (images, labels):
            machine.access(machine.main, tensor, write=False)
            addresses.add(tensor.data_ptr())
    assert number + 1 == len(sizes)
    return addresses


def test_every_access_of_staging_memory_and_ring_is_in_order(machine: Machine) -> None:
    play(machine, [LONGEST] * BATCHES)
    assert {line for _, line, *_ in machine.accesses} == {"host", "main", "side 0"}
    assert machine.unordered() == []


def test_the_ring_is_memory_for_three_batches_however_many_pass(machine: Machine) -> None:
    assert len(play(machine, [LONGEST] * BATCHES)) == 2 * 3


def test_shorter_batches_reuse_memory_and_longer_ones_get_new(machine: Machine) -> None:
    assert len(play(machine, [LONGEST] * BATCHES + [3])) == 2 * RING
    play(machine, [3] * BATCHES + [LONGEST] * BATCHES)
    assert machine.unordered() == []


def test_leaving_the_loop_frees_staging_memory_after_the_copy(machine: Machine) -> None:
    batches = staged(machine, [LONGEST] * 3)
    for images, _labels in feed(batches, AS_STORED, CUDA):
        machine.access(machine.main, images, write=False)
        break
    next(batches)  # the reader goes on to fill it
    assert machine.unordered() == []


def test_copies_run_ahead_of_steps(machine: Machine) -> None:
    play(machine, [LONGEST] * BATCHES)
    known = [heard["main"] for _, line, _, heard, write in machine.accesses if line == "side 0" and write][-1]
    reads = [time for _, line, time, _, write in machine.accesses if line == "main" and not write]
    # The last batch's copy knows of the step that used its slot before, and of none of the steps since then.
    assert sum(time <= known for time in reads) == 2 * (BATCHES - RING)


def test_waits_include_the_copy_of_the_batch(machine: Machine) -> None:
    waits = DataWaitMeter(CUDA)
    play(machine, [LONGEST] * BATCHES, waits)
    assert waits.take() == [4e-3] * BATCHES  # see `elapsed_time`: images and labels are read and written
    assert waits.take() == []


def test_the_checker_sees_a_copy_that_nobody_waited_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("wait_event", "synchronize"):
        machine.accesses.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Line if method == "wait_event" else Event, method, lambda *_: None)
            play(machine, [LONGEST] * BATCHES)
        assert machine.unordered() != []
