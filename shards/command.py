"""The one door through which every command ends, and what it says on the way.

Exit codes: 0 done; 2 usage; 3 shards or data not usable; 4 environment (space, permission, memory,
device); 5 training diverged; 130 and 143 interrupted; 141 nobody reads the output any more.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from shards.errors import MachineError, PrebakeError, UsageError

__all__ = ["TerminatedError", "heed", "run_command", "say", "undisturbed"]

ADVICE = {
    errno.ENOSPC: "free some space, or work in another directory",
    errno.EDQUOT: "free some space, or work in another directory",
    errno.EACCES: "work in a directory that you may write to",
    errno.EPERM: "work in a directory that you may write to",
    errno.EIO: "the disk may be failing: see what the system's log says of it, or work in another directory",
    errno.EROFS: "work in a directory on a writable file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}

_heard: list[int] = []  # the signal that the running command is to end by


def run_command(main: Callable[[], None], after_interruption: str = "") -> NoReturn:
    """Run a command's `main` and exit with the code that its outcome has.

    A `PrebakeError` and an error of the operating system become one message on stderr; any other
    exception is a bug and keeps its traceback. `after_interruption` tells how to go on. The first SIGINT or SIGTERM
    is raised where the main thread stands, so that clean-up runs; a second one ends the process at once.
    """
    if sys.platform == "win32":
        _end(UsageError("Windows is not supported; use Linux or macOS (WSL 2 works: it is Linux)"))
    try:
        with _signals_as_exceptions():
            _print_whatever()
            main()
            print(end="", flush=True)  # noqa: T201 - a full disk is met here; where stdout is closed, nothing is done
    except PrebakeError as error:
        _end(error)
    except KeyboardInterrupt:
        _interrupted("interrupted", after_interruption, 130)
    except TerminatedError:
        _interrupted("terminated", after_interruption, 143)
    except BrokenPipeError:
        # The reader of our stdout has gone (`... | head`): nothing is left to say to it.
        _let_go_of_stdout()
        sys.exit(141)
    except MemoryError as error:
        _end(MachineError(f"out of memory: {error}"))
    except OSError as error:
        try:
            print(end="", flush=True)  # noqa: T201 - what was printed before
        except OSError:
            _let_go_of_stdout()
        where = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0)
        _end(MachineError(f"{where}{error.strerror or error}{f'; {advice}' if advice else ''}"))
    sys.exit(0)


def say(line: str) -> None:
    """Print progress to stderr; stdout carries results. What a stranger's file is named does not steer the terminal."""
    line = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in line)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one place for it


class TerminatedError(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def heed() -> None:
    """Raise again what a signal has raised, where that was swallowed: by a finalizer, or as a library was imported.

    For the borders of work that lasts, not for clean-up.
    """
    if _heard:
        raise _ending()


@contextlib.contextmanager
def undisturbed() -> Iterator[Sequence[int]]:
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

    before = _handled_by(note)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in heard:
            signal.raise_signal(number)


def _print_whatever() -> None:
    """Let stdout escape what its encoding lacks, as stderr does: a path with such letters is no reason to fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _let_go_of_stdout() -> None:
    """Drop what stdout still holds and can't write: Python would try once more at its end, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(error: PrebakeError) -> NoReturn:
    say(f"error: {error}")
    sys.exit(error.exit_code)


def _interrupted(what: str, after: str, exit_code: int) -> NoReturn:
    # Only the interpreter's own end is left, which must not answer another signal with a traceback.
    _handled_by(lambda number, _frame: os._exit(128 + number))
    say(f"{what}; {after}" if after else what)
    sys.exit(exit_code)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    _heard.clear()

    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
        if _heard:
            os._exit(128 + number)
        _heard.append(number)
        raise _ending()

    say_unraisable = sys.unraisablehook

    def quiet(what: Any) -> None:
        # An ending that struck in a finalizer comes again at the next border, and is no error to be shown.
        if not isinstance(what.exc_value, (KeyboardInterrupt, TerminatedError)):
            say_unraisable(what)

    sys.unraisablehook = quiet
    before = _handled_by(interrupt)
    try:
        yield
    except Exception:
        if not _heard:
            raise
    finally:
        sys.unraisablehook = say_unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
    # Libraries catch everything here and there, as they are imported: whoever asked for the end gets it, if late.
    heed()


def _ending() -> BaseException:
    return KeyboardInterrupt() if _heard == [signal.SIGINT] else TerminatedError()


def _handled_by(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:  # any handler that there can be
    """Handle SIGINT and SIGTERM; return the handlers before. What is ignored stays so (`nohup`, `command &`)."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, before in found.items() if before is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}
