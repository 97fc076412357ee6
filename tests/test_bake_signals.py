"""SIGINT and SIGTERM to a bake and its processes: one line, an exit code, no temporary files."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.sessions import Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the processes of a session")
Record = Callable[[str, object], None]
CODES = {
    signal.SIGINT: (130, "interrupted; the same command resumes the bake"),
    signal.SIGTERM: (143, "terminated; the same command resumes the bake"),
}
THREADS: tuple[str, ...] = ()
PROCESSES = ("--augment", "trivial-augment-wide")


@dataclass(frozen=True)
class Moment:
    """When a bake is interrupted: as soon as a file of such a name is there, and some seconds later."""

    file: str
    seconds: float


IN_THE_MIDDLE = Moment("train-e000-000.json", 0.0)
POOL_STARTS = Moment("labels.*.part", 0.05)


def interrupted(options: tuple[str, ...], moment: Moment, out: Path, numbers: list[signal.Signals]) -> Session:
    """Start a bake that would take long, and send signals to it and to what it has started."""
    arguments = ("--dataset", "digits", "--epochs", 900, "--workers", 2, "--out", out, *options)
    session = Session.start("precompute", *arguments)
    session.wait_for(lambda: bool(list((out / "digits").glob(moment.file))))
    time.sleep(moment.seconds)
    for number in numbers:
        session.send(number)
        time.sleep(0.01)
    return session


def check(options: tuple[str, ...], moment: Moment, number: signal.Signals, out: Path) -> None:
    """Interrupt a bake and hold its end against what is promised."""
    session = interrupted(options, moment, out, [number])
    code, said, err = session.ended()
    lines = err.splitlines()
    assert (code, said, lines[-1]) == (CODES[number][0], "", CODES[number][1]), err
    assert [line for line in lines[:-1] if not line.startswith(("bake digits: ", "digits: "))] == []
    assert list(out.rglob("*.part")) == []


@pytest.mark.parametrize(
    ("options", "moment", "number"),
    [
        (PROCESSES, POOL_STARTS, signal.SIGINT),
        pytest.param(THREADS, IN_THE_MIDDLE, signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=["processes that start", "threads"],
)
def test_a_signal_ends_a_bake_and_all_its_processes(
    options: tuple[str, ...], moment: Moment, number: signal.Signals, tmp_path: Path, record_property: Record
) -> None:
    check(options, moment, number, tmp_path)
    record_property("cases", 1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_a_signal_at_any_time_ends_a_bake_so(options: tuple[str, ...], tmp_path: Path, record_property: Record) -> None:
    cases = [(Moment("bake.lock", seconds / 10), number) for seconds in range(0, 30, 2) for number in CODES]
    for case, (moment, number) in enumerate(cases):
        check(options, moment, number, tmp_path / str(case))
    record_property("cases", len(cases))


@pytest.mark.parametrize(
    ("options", "moment"),
    [
        (PROCESSES, POOL_STARTS),
        pytest.param(THREADS, IN_THE_MIDDLE, marks=pytest.mark.slow),
        pytest.param(PROCESSES, IN_THE_MIDDLE, marks=pytest.mark.slow),
        pytest.param(PROCESSES, Moment("labels.*.part", 0.0), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_second_signal_ends_a_bake_at_once(
    options: tuple[str, ...], moment: Moment, number: signal.Signals, tmp_path: Path, record_property: Record
) -> None:
    session = interrupted(options, moment, tmp_path, [number, number])
    # The interpreter's last moments heed no handler; a shell reports the same number for both.
    assert session.process.wait(30) in (CODES[number][0], -number)
    _, _, err = session.ended()
    assert "Traceback" not in err
    record_property("cases", 1)
