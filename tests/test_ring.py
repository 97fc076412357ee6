"""The ring of `feed` on CUDA, simulated without a GPU: all accesses to the same memory are ordered.

Streams, events and the host have vector clocks here. An access has a time on its own timeline. It happens before
another access if the vector clock of the other access includes that time.
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
class Timeline:
    """The host or a stream: it runs in order, and its vector clock has the last known time of each timeline."""

    name: str
    clock: dict[str, int] = field(default_factory=dict)
    device: str = "cpu"

    def merge(self, clock: dict[str, int]) -> None:
        for name, time in clock.items():
            self.clock[name] = max(time, self.clock.get(name, 0))

    def act(self) -> int:
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        return self.clock[self.name]

    def wait_event(self, event: "Event") -> None:
        self.merge(event.clock)


class Event:
    """An event: the vector clock of a stream at the last `record`."""

    machine: "Machine"

    def __init__(self, **_options: bool) -> None:
        self.clock: dict[str, int] = {}

    def record(self, stream: Timeline) -> None:
        stream.merge(self.machine.host.clock)
        self.clock = dict(stream.clock)

    def synchronize(self) -> None:
        self.machine.host.merge(self.clock)

    def elapsed_time(self, later: "Event") -> int:
        """Return the number of copy accesses between two events, in place of milliseconds."""
        return later.clock.get("side 0", 0) - self.clock.get("side 0", 0)


class Machine:
    """One host, its streams, and all accesses: (address, timeline, time, vector clock, whether it writes)."""

    def __init__(self) -> None:
        self.host, self.main = Timeline("host"), Timeline("main")
        self.current = self.main
        self.numbers = itertools.count()
        self.accesses: list[tuple[int, str, int, dict[str, int], bool]] = []
        # Kept as long as the machine. Host and device share one allocator here. Without these references, it could
        # give memory of the ring to the host. That cannot happen on a real GPU.
        self.images_NHWC = torch.zeros(LONGEST, 2, 2, 1).as_subclass(Watched)
        self.labels_N = torch.zeros(LONGEST, dtype=torch.int64).as_subclass(Watched)

    def access(self, line: Timeline, tensor: Tensor, *, write: bool) -> None:
        if line is not self.host:
            line.merge(self.host.clock)  # it is enqueued after everything that the host knows of
        time = line.act()
        self.accesses.append((tensor.data_ptr(), line.name, time, dict(line.clock), write))

    def new_stream(self, _device: torch.device) -> Timeline:
        return Timeline(f"side {next(self.numbers)}")

    @contextlib.contextmanager
    def stream(self, stream: Timeline) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def unordered(self) -> list[str]:
        """List unordered pairs of accesses to the same memory, at least one of which writes."""
        found = []
        for (at, one, time, _, writes), (where, other, later, clock, also) in itertools.combinations(self.accesses, 2):
            if at == where and (writes or also) and one != other and clock.get(one, 0) < time:
                found.append(f"{one} at {time}, {other} at {later}")
        return found


class Watched(Tensor):
    """A tensor whose copies and allocation count as accesses by the current stream.

    An allocation is an access: the memory may come from a tensor that the stream still uses.
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
    """A machine that replaces CUDA."""
    machine = Machine()
    Event.machine = Watched.machine = machine
    monkeypatch.setattr(torch.cuda, "Stream", machine.new_stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", machine.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: machine.main)
    return machine


def staged(machine: Machine, sizes: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all batches in the same staging memory: the worst case for a consumer."""
    for number, size in enumerate(sizes):
        for tensor in (machine.images_NHWC, machine.labels_N):
            machine.access(machine.host, tensor, write=True)
            tensor.fill_(number)
        yield machine.images_NHWC[:size], machine.labels_N[:size]


def play(machine: Machine, sizes: list[int], waits: DataWaitMeter | None = None) -> set[int]:
    """Feed batches and read each in a step. Return the addresses on the device."""
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
    next(batches)  # the reader refills it
    assert machine.unordered() == []


def test_copies_run_ahead_of_steps(machine: Machine) -> None:
    play(machine, [LONGEST] * BATCHES)
    known = [clock["main"] for _, line, _, clock, write in machine.accesses if line == "side 0" and write][-1]
    reads = [time for _, line, time, _, write in machine.accesses if line == "main" and not write]
    # The copy of the last batch waits for the previous step on its slot, and for no later step.
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
            patch.setattr(Timeline if method == "wait_event" else Event, method, lambda *_: None)
            play(machine, [LONGEST] * BATCHES)
        assert machine.unordered() != []
