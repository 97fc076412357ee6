"""Advisory lock files: one bake in a directory at a time. The kernel releases the lock of a process that dies.

A bake of one process holds the lock alone; the tasks of one bake share it. The lock is `flock`. Not every network file
system passes it on to other machines: NFS does unless mounted with `local_lock`, Lustre if mounted with `flock`. So it
is only certain to work between the processes of one machine. The tasks of a bake write the same bytes without it.
"""

import contextlib
import errno
import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prebake.errors import DataError, MachineError
from prebake.storage.atomic import with_path_in_errors

__all__ = ["LOCK", "LockedError", "add_bake_seconds", "bake_seconds", "is_locked", "locked"]

LOCK = "bake.lock"
# `is_locked` takes the lock for a moment, too.
ATTEMPTS = 5
ATTEMPT_SECONDS = 0.05
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # errors of file systems without locks
NOTE_BYTES = 1024  # a constant size: one write replaces a note, needs no space, and leaves no half note
MAX_SECONDS = 1e9


class LockedError(DataError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(
    directory: Path, name: str = LOCK, doing: str = "baking", *, shared: bool = False, needed: bool = True
) -> Iterator[None]:
    """Hold a lock file in a directory; the file names the holder's pid and host.

    Args:
        directory: in which one process at a time may work.
        name: of the lock file.
        doing: the holder's work, for the message to other processes.
        shared: hold it together with others that share it.
        needed: whether a file system without locks is an error.

    Raises:
        LockedError: another process holds it.
        DataError: something that is not a regular file has its name.
        MachineError: the file system has no locks.
        OSError: no permission, no space.
    """
    path = directory / name
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        with with_path_in_errors(path):
            for attempt in range(ATTEMPTS):
                try:
                    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == ATTEMPTS - 1:
                        raise LockedError(
                            f"{directory}: {_holder(descriptor)} is {doing} here; wait until it has ended, or end it"
                        ) from None
                    time.sleep(ATTEMPT_SECONDS)
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    if needed:
                        raise MachineError(
                            f"{path}: this file system has no locks ({error.strerror}); work on another one, or, if no "
                            "other process bakes this set, with --task 0/1, which needs none"
                        ) from None
                    break
            _write_note(descriptor, pid=os.getpid(), host=platform.node(), shared=shared)
        yield
    finally:
        with with_path_in_errors(path):
            os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Return whether a process holds the lock of a shard set; the caller holds it for a moment.

    Raises:
        DataError: something that is not a regular file has its name.
        OSError: no permission.
    """
    try:
        descriptor = _open(directory / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        _try_exclusive(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _try_exclusive(descriptor: int) -> None:
    """Take the lock alone, which fails beside shared ones, too; raises BlockingIOError if it is held."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # NFS grants exclusive locks to writers only. There, a reader does not see shared locks.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def bake_seconds(directory: Path) -> float | None:
    """Return the seconds spent on baking a set, all runs added; None if unknown."""
    try:
        descriptor = _open(directory / LOCK, os.O_RDONLY)
    except (OSError, DataError):
        return None
    try:
        return _seconds(_read_note(descriptor))
    finally:
        os.close(descriptor)


def add_bake_seconds(directory: Path, seconds: float) -> None:
    """Add to the seconds spent on a set, in its lock file, while holding the lock; raises OSError.

    If tasks that share the lock end at the same moment, the seconds of one may be lost.
    """
    path = directory / LOCK
    with with_path_in_errors(path):
        descriptor = _open(path, os.O_RDWR)
        try:
            total = (_seconds(_read_note(descriptor)) or 0.0) + seconds
            _write_note(descriptor, seconds=round(total, 3))
        finally:
            os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Open a lock file without waiting; raises DataError if it is not a regular file, OSError."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a directory, a socket or the like
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def _not_regular(path: Path) -> DataError:
    return DataError(f"{path}: expected a regular file that serves as a lock, found something else; remove it")


def _holder(descriptor: int) -> str:
    note = _read_note(descriptor)
    if type(note.get("pid")) is int and isinstance(note.get("host"), str):
        return f"process {note['pid']} on {note['host']!r}{', or a task beside it,' if note.get('shared') else ''}"
    return "another process"


def _read_note(descriptor: int) -> dict[str, Any]:
    """Return the content of a lock file; nothing if it can't be read."""
    try:
        content = json.loads(os.pread(descriptor, NOTE_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_note(descriptor: int, **changes: object) -> None:
    kept = {key: value for key, value in _read_note(descriptor).items() if key in ("pid", "host", "shared", "seconds")}
    line = json.dumps({**kept, **changes}).encode()
    os.pwrite(descriptor, line.ljust(NOTE_BYTES - 1) + b"\n", 0)
    os.ftruncate(descriptor, NOTE_BYTES)


def _seconds(note: dict[str, Any]) -> float | None:
    seconds: object = note.get("seconds")
    if isinstance(seconds, (int, float)) and 0 <= seconds <= MAX_SECONDS:
        return float(seconds)
    return None
