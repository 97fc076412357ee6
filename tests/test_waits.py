"""`DataWaitMeter` records the time that the device waits for batches, and nothing else."""

import time
from collections.abc import Iterator

import pytest
import torch

from prebake.loader.data_wait import DataWaitMeter

CPU = torch.device("cpu")


def slow(batches: int, seconds: float) -> Iterator[int]:
    """Yield batches, and sleep `seconds` before each."""
    for number in range(batches):
        time.sleep(seconds)
        yield number


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock by one that only `sleep` advances, so that a busy machine does not matter."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])


def test_batches_are_handed_on_as_they_are() -> None:
    assert list(DataWaitMeter(CPU).of("abc")) == ["a", "b", "c"]


def test_there_is_one_wait_a_batch_and_it_is_handed_out_once() -> None:
    waits = DataWaitMeter(CPU)
    for number, _ in enumerate(waits.of(range(3)), 1):
        assert len(waits.take()) == 1, number
    assert waits.take() == []
    assert list(waits.of(range(5))) == [0, 1, 2, 3, 4]
    assert len(waits.take()) == 5


@pytest.mark.usefixtures("clock")
def test_a_wait_holds_the_time_that_a_batch_takes_to_come() -> None:
    waits = DataWaitMeter(CPU)
    list(waits.of(slow(3, 0.25)))
    assert waits.take() == [0.25, 0.25, 0.25]


@pytest.mark.usefixtures("clock")
def test_a_wait_excludes_the_time_of_the_step() -> None:
    waits = DataWaitMeter(CPU)
    for _ in waits.of(slow(3, 0.25)):
        time.sleep(4)
    assert waits.take() == [0.25, 0.25, 0.25]


def test_an_error_instead_of_a_batch_is_no_wait() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise InterruptedError

    waits = DataWaitMeter(CPU)
    with pytest.raises(InterruptedError):
        list(waits.of(broken()))
    assert len(waits.take()) == 1


def test_events_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted:
        def __init__(self) -> None:
            made.append(self)

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, _later: object) -> float:
            return 0.0

    monkeypatch.setattr("prebake.loader.data_wait._HostEvent", Counted)
    waits = DataWaitMeter(CPU)
    for _ in range(10):
        list(waits.of(range(4)))
        waits.take()
    # Two a batch, and one for the asking that no batch answered, which is lost.
    assert len(made) <= 2 * 4 + 10


@pytest.mark.gpu
def test_the_device_waits_only_for_a_late_batch() -> None:
    cuda = torch.device("cuda")
    waits = DataWaitMeter(cuda)
    matrix = torch.ones(8192, 8192, device=cuda)
    for _ in range(2):  # the first round loads kernels
        for number in waits.of(slow(4, 0.05)):
            if number == 1:
                for _ in range(20):  # longer than the next batch takes to come
                    matrix = matrix @ matrix / 8192
            if number == 2:
                torch.cuda.synchronize(cuda)
        taken = waits.take()
    assert [wait > 0.04 for wait in taken] == [True, True, False, True]
