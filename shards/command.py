"""The one door through which every command ends, and what it says on the way.

Exit codes: 0 done; 2 usage; 3 shards or data not usable; 4 environment (space, permission, memory,
device); 5 training diverged; 130 and 143 interrupted; 141 nobody reads the output any more.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from shards.errors import MachineError, PrebakeError, UsageError

__all__ = ["run_command", "say"]

ADVICE = {
    errno.ENOSPC: "free some space, or work in another directory",
    errno.EDQUOT: "free some space, or work in another directory",
    errno.EACCES: "work in a directory that you may write to",
    errno.EPERM: "work in a directory that you may write to",
    errno.EROFS: "work in a directory on a writable file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


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
            sys.stdout.flush()
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
        where = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0)
        _end(MachineError(f"{where}{error.strerror or error}{f'; {advice}' if advice else ''}"))
    sys.exit(0)


def say(line: str) -> None:
    """Print one line of progress to stderr; stdout carries results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one place for it


class _TerminatedError(BaseException):
    """SIGTERM, raised where the main thread stands, so that clean-up runs."""


def _end(error: PrebakeError) -> NoReturn:
    say(f"error: {error}")
    sys.exit(error.exit_code)


def _interrupted(what: str, after: str, exit_code: int) -> NoReturn:
    say(f"{what}; {after}" if after else what)
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
