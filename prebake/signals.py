"""SIGINT and SIGTERM: raised as exceptions, deferred, and checked between two steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

__all__ = ["TerminatedError", "check_signals", "defer_signals", "handle_signals", "signals_as_exceptions"]

Handler = Callable[[int, "FrameType | None"], None]
_received: list[int] = []  # the signal that ends the running command


class TerminatedError(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def check_signals() -> None:
    """Raise the exception of a received signal again, in case a finalizer or an import swallowed it.

    Call it between the steps of long work, not in clean-up.
    """
    if _received:
        raise _exception()


@contextlib.contextmanager
def defer_signals() -> Iterator[Sequence[int]]:
    """Defer SIGINT and SIGTERM to the end of the block; yield a list of those received.

    A second signal ends the process at once. Only the main thread receives signals: in others, nothing is deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    deferred: list[int] = []

    def defer(number: int, _frame: FrameType | None) -> None:
        if deferred:
            os._exit(128 + number)
        deferred.append(number)

    before = handle_signals(defer)
    try:
        yield deferred
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in deferred:
            signal.raise_signal(number)


@contextlib.contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT and TerminatedError on SIGTERM; a second signal ends the process at once."""
    _received.clear()

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        if _received:
            os._exit(128 + number)
        _received.append(number)
        raise _exception()

    default_hook = sys.unraisablehook

    def hide_signals(unraisable: Any) -> None:
        # The exception of a signal that arrived in a finalizer is raised again by `check_signals`.
        if not isinstance(unraisable.exc_value, (KeyboardInterrupt, TerminatedError)):
            default_hook(unraisable)

    sys.unraisablehook = hide_signals
    before = handle_signals(interrupt)
    try:
        yield
    except Exception:
        if not _received:
            raise
    finally:
        sys.unraisablehook = default_hook
        for number, handler in before.items():
            signal.signal(number, handler)
    # Libraries may swallow any exception while they are imported.
    check_signals()


def _exception() -> BaseException:
    return KeyboardInterrupt() if _received == [signal.SIGINT] else TerminatedError()


def handle_signals(handler: Handler) -> dict[int, Any]:
    """Handle SIGINT and SIGTERM; return the previous handlers. Ignored signals stay ignored, as by `nohup` and `&`."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    active = [number for number, before in found.items() if before is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in active}
