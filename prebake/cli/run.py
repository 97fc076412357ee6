"""Run one command and map its outcome to an exit code.

Exit codes: 0 done; 2 usage; 3 shards or data not usable; 4 environment (space, permission, memory, device);
5 training diverged; 130 and 143 interrupted; 141 the reader of stdout has closed it.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from prebake.console import log
from prebake.errors import MachineError, PrebakeError, UsageError
from prebake.signals import TerminatedError, handle_signals, signals_as_exceptions

__all__ = ["run_command"]

ADVICE = {
    errno.ENOSPC: "free some space, or work in another directory",
    errno.EDQUOT: "free some space, or work in another directory",
    errno.EACCES: "work in a directory that you may write to",
    errno.EPERM: "work in a directory that you may write to",
    errno.EIO: "the disk may be failing: read the system log, or work in another directory",
    errno.EROFS: "work in a directory on a writable file system",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def run_command(main: Callable[[], None], after_interruption: str = "") -> NoReturn:
    """Call `main` and exit with the exit code of its outcome.

    A `PrebakeError` or an `OSError` becomes one message on stderr. Any other exception is a bug and keeps its
    traceback. The first SIGINT or SIGTERM is raised as an exception in the main thread, so that clean-up runs. A
    second one ends the process at once.

    Args:
        main: the command.
        after_interruption: how to resume, for the message after a signal.
    """
    if sys.platform == "win32":
        _exit_with(UsageError("Windows is not supported; use Linux or macOS (WSL 2 works: it is Linux)"))
    try:
        with signals_as_exceptions():
            _escape_unencodable_output()
            main()
            print(end="", flush=True)
    except PrebakeError as error:
        _exit_with(error)
    except KeyboardInterrupt as error:
        _exit_interrupted("interrupted", str(error) or after_interruption, 130)
    except TerminatedError as error:
        _exit_interrupted("terminated", str(error) or after_interruption, 143)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(141)
    except MemoryError as error:
        _exit_with(MachineError(f"out of memory: {error}"))
    except OSError as error:
        try:
            print(end="", flush=True)
        except OSError:
            _discard_stdout()
        where = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0)
        _exit_with(MachineError(f"{where}{error.strerror or error}{f'; {advice}' if advice else ''}"))
    sys.exit(0)


def _escape_unencodable_output() -> None:
    """Escape characters that the encoding of stdout lacks, as stderr does. A path must not make a command fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """Discard the buffer of stdout. Python would try to write it at exit, fail, and exit with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_with(error: PrebakeError) -> NoReturn:
    log(f"error: {error}")
    sys.exit(error.exit_code)


def _exit_interrupted(what: str, advice: str, exit_code: int) -> NoReturn:
    # The interpreter is about to exit: another signal must not print a traceback.
    handle_signals(lambda number, _frame: os._exit(128 + number))
    log(f"{what}; {advice}" if advice else what)
    sys.exit(exit_code)
