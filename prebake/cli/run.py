"""The one door through which every command ends, and what it says on the way.

Exit codes: 0 done; 2 usage; 3 shards or data not usable; 4 environment (space, permission, memory,
device); 5 training diverged; 130 and 143 interrupted; 141 nobody reads the output any more.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from prebake.console import log
from prebake.errors import MachineError, PrebakeError, UsageError
from prebake.signals import TerminatedError, handled_by, signals_as_exceptions

__all__ = ["run_command"]

ADVICE = {
    errno.ENOSPC: "free some space, or work in another directory",
    errno.EDQUOT: "free some space, or work in another directory",
    errno.EACCES: "work in a directory that you may write to",
    errno.EPERM: "work in a directory that you may write to",
    errno.EIO: "the disk may be failing: see what the system's log says of it, or work in another directory",
    errno.EROFS: "work in a directory on a writable file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def run_command(main: Callable[[], None], after_interruption: str = "") -> NoReturn:
    """Run a command's `main` and exit with the code that its outcome has.

    A `PrebakeError` and an error of the operating system become one message on stderr; any other
    exception is a bug and keeps its traceback. `after_interruption` tells how to go on. The first SIGINT or SIGTERM
    is raised where the main thread stands, so that clean-up runs; a second one ends the process at once.
    """
    if sys.platform == "win32":
        _end(UsageError("Windows is not supported; use Linux or macOS (WSL 2 works: it is Linux)"))
    try:
        with signals_as_exceptions():
            _print_whatever()
            main()
            print(end="", flush=True)
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
            print(end="", flush=True)
        except OSError:
            _let_go_of_stdout()
        where = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0)
        _end(MachineError(f"{where}{error.strerror or error}{f'; {advice}' if advice else ''}"))
    sys.exit(0)


def _print_whatever() -> None:
    """Let stdout escape what its encoding lacks, as stderr does: a path with such letters is no reason to fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _let_go_of_stdout() -> None:
    """Drop what stdout still holds and can't write: Python would try once more at its end, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(error: PrebakeError) -> NoReturn:
    log(f"error: {error}")
    sys.exit(error.exit_code)


def _interrupted(what: str, after: str, exit_code: int) -> NoReturn:
    # Only the interpreter's own end is left, which must not answer another signal with a traceback.
    handled_by(lambda number, _frame: os._exit(128 + number))
    log(f"{what}; {after}" if after else what)
    sys.exit(exit_code)
