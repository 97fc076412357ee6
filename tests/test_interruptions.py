"""SIGINT and SIGTERM: one line and an exit code; a second one ends at once; a step is not torn."""

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from prebake.cli.run import run_command
from prebake.console import log
from prebake.errors import DataError
from prebake.format.columns import standard_columns
from prebake.format.shard import Shard, divide
from prebake.precompute.workers import imap_threads
from prebake.signals import check_signals, defer_signals
from tests.helpers.trials import trial

KINDS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
CODES = [(number, code) for number, code, _ in KINDS]


@pytest.mark.parametrize(("number", "code", "word"), KINDS)
def test_a_signal_is_one_line_and_an_exit_code(number: signal.Signals, code: int, word: str) -> None:
    def main() -> None:
        signal.raise_signal(number)

    ended = trial(lambda: run_command(main, "how to go on"))
    assert (ended.status, ended.said) == (code, f"{word}; how to go on\n")


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    def main() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)
            time.sleep(60)  # a clean-up that takes long

    ended = trial(lambda: run_command(main), seconds=30)
    assert (ended.status, ended.said) == (code, "")


@pytest.mark.parametrize(("number", "code", "word"), KINDS)
def test_a_deferred_signal_waits_for_the_end_of_the_block(number: signal.Signals, code: int, word: str) -> None:
    def main() -> None:
        with defer_signals():
            signal.raise_signal(number)
            print("whole")  # noqa: T201 - what it says is the question
        print("never")  # noqa: T201

    ended = trial(lambda: run_command(main))
    assert ended.status == code
    assert sorted(ended.said.split()) == sorted(["whole", word])


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_ends_a_deferring_block(number: signal.Signals, code: int) -> None:
    def main() -> None:
        with defer_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            time.sleep(60)

    assert trial(lambda: run_command(main), seconds=30).status == code


def test_a_deferring_block_passes_errors_on() -> None:
    with pytest.raises(ZeroDivisionError), defer_signals():
        raise ZeroDivisionError


def test_a_deferring_block_restores_handlers_in_any_thread() -> None:
    before = [signal.getsignal(number) for number, _ in CODES]
    done = []

    def act() -> None:
        with defer_signals():
            done.append(threading.current_thread().name)

    act()
    thread = threading.Thread(target=act, name="another")
    thread.start()
    thread.join()
    assert done == [threading.main_thread().name, "another"]
    assert [signal.getsignal(number) for number, _ in CODES] == before


def test_a_signal_ignored_at_the_start_stays_ignored() -> None:
    def act() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `command &`
        run_command(lambda: os.kill(os.getpid(), signal.SIGINT))

    assert trial(act).status == 0


def test_log_escapes_control_characters() -> None:
    ended = trial(lambda: log("directory \x1b[2J\x07\u202e of\ttwo\nlines, \u00e9t\u00e9"))
    assert ended.said == "directory \\x1b[2J\\x07\\u202e of\ttwo\nlines, \u00e9t\u00e9\n"


@pytest.mark.parametrize(("number", "code", "word"), KINDS)
@pytest.mark.parametrize("error", [None, DataError("what")])
def test_a_signal_that_a_library_swallows_ends_the_command(
    error: DataError | None, number: signal.Signals, code: int, word: str
) -> None:
    def main() -> None:
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        if error is not None:
            raise error

    ended = trial(lambda: run_command(main))
    assert (ended.status, ended.said) == (code, f"{word}\n")


@pytest.mark.parametrize(("number", "code", "word"), KINDS)
def test_a_signal_in_a_finalizer_leaves_no_traceback(number: signal.Signals, code: int, word: str) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def main() -> None:
        Finalized()  # Python calls what it can't raise from there unraisable, and prints it
        check_signals()

    ended = trial(lambda: run_command(main))
    assert (ended.status, ended.said) == (code, f"{word}\n")


def test_an_error_in_a_finalizer_is_shown() -> None:
    class Finalized:
        def __del__(self) -> None:
            raise ZeroDivisionError

    def main() -> None:
        Finalized()

    ended = trial(lambda: run_command(main))
    assert ended.status == 0
    assert "ZeroDivisionError" in ended.said


def test_a_swallowed_signal_ends_a_bake_after_a_shard() -> None:
    (shard,) = divide("train", 0, 1, standard_columns((1, 1, 1), "uint8"))
    shards = [replace(shard, epoch=epoch) for epoch in range(200)]

    def work(shard: Shard, stopped: threading.Event) -> None:
        if not stopped.is_set():
            log(shard.stem)
            time.sleep(0.05)

    def main() -> None:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        for _ in imap_threads(work, shards, 1):
            pass

    ended = trial(lambda: run_command(main), seconds=30)
    *stems, word = ended.said.splitlines()
    assert (ended.status, word) == (143, "terminated")
    assert len(stems) < 10
