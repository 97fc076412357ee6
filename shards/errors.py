"""Errors that a user can cause, and the one door through which every command ends.

Exit codes: 0 done; 2 usage; 3 shards or data not usable; 4 environment (space, permission, memory,
device); 5 training diverged; 130 and 143 interrupted (and resumable).
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

__all__ = ["DataError", "DivergedError", "MachineError", "PrebakeError", "UsageError", "listed", "run_command"]


class PrebakeError(Exception):
    """Something a user can mend; the message says what, where, expected and found, and what to do next."""

    exit_code = 1


class UsageError(PrebakeError):
    """The command, or the arguments of a call, can't be carried out as given."""

    exit_code = 2


class DataError(PrebakeError):
    """Shards or source data are missing, unfinished, damaged or of another plan."""

    exit_code = 3


class MachineError(PrebakeError):
    """The machine lacks space, permission, memory, a device or a package."""

    exit_code = 4


class DivergedError(PrebakeError):
    """Training produced a loss that is not a finite number."""

    exit_code = 5


def listed(names: Sequence[str], most: int = 8) -> str:
    """Join names for a message, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def run_command(main: Callable[[], None], after_interruption: str = "") -> NoReturn:
    """Run a command's `main` and exit with the code that its outcome has.

    A `PrebakeError` and an error of the operating system become one message on stderr; any other
    exception is a bug and keeps its traceback. `after_interruption` tells how to go on.
    """
    if sys.platform == "win32":
        _end(UsageError("Windows is not supported; use Linux or macOS (WSL 2 works: it is Linux)"))
    try:
        with _terminated_as_exception():
            main()
    except PrebakeError as error:
        _end(error)
    except KeyboardInterrupt:
        _interrupted("interrupted", after_interruption, 130)
    except _TerminatedError:
        _interrupted("terminated", after_interruption, 143)
    except BrokenPipeError:
        # The reader of our stdout has gone (`... | head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except MemoryError as error:
        _end(MachineError(f"out of memory: {error}"))
    except OSError as error:
        _end(from_os_error(error))
    sys.exit(0)


def from_os_error(error: OSError) -> PrebakeError:
    """Give an operating system's error its place among ours."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "; free some space, or name another directory with --out",
        errno.EDQUOT: "; free some space, or name another directory with --out",
        errno.EACCES: "; name a directory that you may write to with --out",
        errno.EPERM: "; name a directory that you may write to with --out",
        errno.EROFS: "; name a directory on a writable file system with --out",
        errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "")
    return MachineError(f"{where}{what}{remedy}")


class _TerminatedError(BaseException):
    """SIGTERM, raised where the main thread stands, so that clean-up runs."""


def _end(error: PrebakeError) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one place where errors are said
    sys.exit(error.exit_code)


def _interrupted(what: str, after: str, exit_code: int) -> NoReturn:
    print(f"{what}; {after}" if after else what, file=sys.stderr)  # noqa: T201 - a command's last word
    sys.exit(exit_code)


@contextlib.contextmanager
def _terminated_as_exception() -> Iterator[None]:
    def terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
