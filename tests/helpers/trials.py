"""Trials: something done in a fork of this process, warm with all that it has imported, and how that ended."""

import ctypes
import faulthandler
import gc
import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

__all__ = ["CRASHED", "Trial", "trial"]

CRASHED = 70  # the exit code where `act` raised
STATM = Path("/proc/self/statm")
PEAK = Path("/proc/self/clear_refs")  # where 5 resets it, see proc(5)


@dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Attributes:
        status: its exit code, or minus the number of the signal that ended it.
        said: its stdout and stderr.
        seconds: how long it took.
        grown_bytes: by how much its memory exceeded, at most, what it had when it began.
    """

    status: int
    said: str
    seconds: float
    grown_bytes: int


def trial(act: Callable[[], object], *, seconds: float = 60) -> Trial:
    """Call `act` in a fork and wait for its end: status 0 where it returns, CRASHED and a traceback where it raises.

    Only the calling thread lives on in a fork: no other thread may hold a lock that `act` needs.

    Raises:
        TimeoutError: it lasted longer than `seconds`, and was killed.
    """
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    shared, started = mmap.mmap(-1, 16), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads; see above
        child = os.fork()
    if child == 0:
        os.close(ours)
        _act(act, theirs, shared)
    os.close(theirs)
    said, late = _read(ours, started + seconds)
    if late:
        os.kill(child, signal.SIGUSR1)
        said += _read(ours, time.perf_counter() + 1)[0]
        os.kill(child, signal.SIGKILL)
    os.close(ours)
    _, ended, usage = os.wait4(child, 0)
    if late:
        raise TimeoutError(f"a trial lasted longer than {seconds} s; it said: {said}")
    unit = 1 if sys.platform == "darwin" else 1024
    spent = time.perf_counter() - started
    before, mapped = (int.from_bytes(shared[at : at + 8], "little") for at in (0, 8))
    grown = usage.ru_maxrss * unit - before - mapped
    return Trial(os.waitstatus_to_exitcode(ended), said, spent, max(0, grown))


def _act(act: Callable[[], object], output: int, shared: mmap.mmap) -> NoReturn:
    status = CRASHED
    gc.freeze()  # else it looks at all that its parent has, and copies each page on which any of that lies
    _forget_free_memory()
    resident, mapped = _resident_bytes()
    shared[:8] = resident.to_bytes(8, "little")
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        # Not pytest's, which collect in memory that nobody will see.
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.unraisablehook = sys.__unraisablehook__
        faulthandler.register(signal.SIGUSR1, file=sys.stderr)  # to say where it stands
        act()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # A fork maps its parent's files anew, page by page: that is no memory that it took.
        shared[8:] = max(0, _resident_bytes()[1] - mapped).to_bytes(8, "little")
        os._exit(status)  # without pytest's clean-up, which is the parent's to do


def _forget_free_memory() -> None:
    """Give back what the parent had free, where what `act` takes would lie unseen; measure the most from here on."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and os.access(PEAK, os.W_OK):  # not where this process has become another user
        trim(0)
        PEAK.write_text("5")


def _read(pipe: int, deadline: float) -> tuple[str, bool]:
    """Read to the end; return what came, and whether the deadline came first."""
    said = bytearray()
    while select.select([pipe], [], [], max(0.0, deadline - time.perf_counter()))[0]:
        data = os.read(pipe, 65536)
        if not data:
            return said.decode(errors="replace"), False
        said += data
    return said.decode(errors="replace"), True


def _resident_bytes() -> tuple[int, int]:
    """Return all of this process's memory, and how much of it are pages of files."""
    if STATM.exists():
        _, resident, mapped, *_ = (int(pages) * resource.getpagesize() for pages in STATM.read_text().split())
        return resident, mapped
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0  # macOS, which counts bytes and the most ever
