"""A trial tells how it ended."""

import os
import signal
import sys
import time

import pytest

from prebake.cli.run import run_command
from prebake.errors import DataError
from prebake.train.device import keep_freed_memory
from tests.helpers.trials import CRASHED, trial


def test_a_trial_returns_exit_code_and_output() -> None:
    def main() -> None:
        raise DataError("what")

    ended = trial(lambda: run_command(main))
    assert (ended.status, ended.said) == (3, "error: what\n")
    assert 0 < ended.seconds < 10
    assert trial(lambda: print("done")).said == "done\n"  # noqa: T201 - what it says is the question


def test_an_exception_in_a_trial_is_told_from_an_exit() -> None:
    ended = trial(lambda: 1 // 0)
    assert ended.status == CRASHED
    assert "ZeroDivisionError" in ended.said


def test_a_trial_that_is_killed_says_by_what() -> None:
    assert trial(lambda: os.kill(os.getpid(), signal.SIGKILL)).status == -signal.SIGKILL


def test_a_trial_that_does_not_end_is_killed() -> None:
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"(?s)longer than 2 s.*test_trials.py"):
        trial(lambda: time.sleep(60), seconds=2)
    assert time.perf_counter() - started < 30


@pytest.mark.skipif(sys.platform != "linux", reason="macOS tells only the most memory that there ever was")
def test_a_trial_s_memory_is_what_it_took_beyond_what_it_had() -> None:
    def act() -> None:
        keep_freed_memory()
        for _ in range(20):
            bytearray(os.urandom(1)) * 2**26  # its place stays with this process
        grown = trial(lambda: bytearray(os.urandom(1)) * 2**26).grown_bytes
        assert grown > 2**26 - 2**22, grown

    assert trial(lambda: bytearray(os.urandom(1)) * 2**26).grown_bytes > 2**26 - 2**22
    assert trial(lambda: None).grown_bytes < 2**24
    ended = trial(act)
    assert ended.status == 0, ended.said
