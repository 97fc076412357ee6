"""SIGINT and SIGTERM: as exceptions, deferred, and checked between two steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

__all__ = ["TerminatedError", "check_signals", "defer_signals", "handled_by", "signals_as_exceptions"]

_received: list[int] = []  # the signal that the running command is to end by


class TerminatedError(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def check_signals() -> None:
    """Raise again what a signal has raised, where that was swallowed: by a finalizer, or as a library was imported.

    For the borders of work that lasts, not for clean-up.
    """
    if _received:
        raise _ending()


@contextlib.contextmanager
def defer_signals() -> Iterator[Sequence[int]]:
    """Let SIGINT and SIGTERM wait until the block is left, as a step that must be whole wants it; yield those heard.

    A second one ends the process at once. Outside of the main thread, which alone hears signals, nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    heard: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if heard:
            os._exit(128 + number)
        heard.append(number)

    before = handled_by(note)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in heard:
            signal.raise_signal(number)


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    _received.clear()

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        if _received:
            os._exit(128 + number)
        _received.append(number)
        raise _ending()

    say_unraisable = sys.unraisablehook

    def quiet(what: Any) -> None:
        # An ending that struck in a finalizer comes again at the next border, and is no error to be shown.
        if not isinstance(what.exc_value, (KeyboardInterrupt, TerminatedError)):
            say_unraisable(what)

    sys.unraisablehook = quiet
    before = handled_by(interrupt)
    try:
        yield
    except Exception:
        if not _received:
            raise
    finally:
        sys.unraisablehook = say_unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
    # Libraries catch everything here and there, as they are imported: whoever asked for the end gets it, if late.
    check_signals()


def _ending() -> BaseException:
    return KeyboardInterrupt() if _received == [signal.SIGINT] else TerminatedError()


def handled_by(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:  # any handler that there can be
    """Handle SIGINT and SIGTERM; return the handlers before. What is ignored stays so (`nohup`, `command &`)."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, before in found.items() if before is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}
