"""One bake a directory: an advisory lock, which the kernel frees when its holder dies.

A bake of one process holds it alone, the tasks of one bake hold it together (`shared`). It is `flock`, which on a
network file system reaches other machines or does not (NFS passes it on unless mounted with `local_lock`; Lustre knows
it where mounted with `flock`). So only what one machine does is sure to be kept apart, and the tasks of one bake rely
on no lock for their bytes.
"""

import contextlib
import errno
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prebake.errors import DataError, MachineError
from prebake.storage.atomic import naming

__all__ = ["LOCK", "HeldError", "add_bake_seconds", "bake_seconds", "is_held", "locked"]

LOCK = "bake.lock"
# Whoever asks `is_held` holds it for an instant too.
ATTEMPTS = 5
ATTEMPT_SECONDS = 0.05
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # what file systems without them answer
NOTE_BYTES = 1024  # always as many, so that one write over the old ones needs no space and leaves no half note
MAX_SECONDS = 1e9


class HeldError(DataError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(
    directory: Path, name: str = LOCK, doing: str = "baking", *, shared: bool = False, needed: bool = True
) -> Iterator[None]:
    """Hold a lock file of a directory, in which stands who holds it: pid and host.

    Args:
        directory: which one process at a time may work in.
        name: of the lock file.
        doing: what the holder does there, for the message.
        shared: hold it beside others who hold it so.
        needed: whether a file system without locks is an error.

    Raises:
        HeldError: another process holds it.
        DataError: something else stands in its place.
        MachineError: a file system without locks.
        OSError: no permission, no space.
    """
    import fcntl  # Windows has none, and is to be told so in words

    path = directory / name
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        with naming(path):
            for attempt in range(ATTEMPTS):
                try:
                    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == ATTEMPTS - 1:
                        raise HeldError(
                            f"{directory}: {_holder(descriptor)} is {doing} here; wait until it has ended, or end it"
                        ) from None
                    time.sleep(ATTEMPT_SECONDS)
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    if needed:
                        raise MachineError(
                            f"{path}: the file system there has no locks ({error.strerror}); work on another one, or, "
                            "where nobody else bakes the set, with --task 0/1, which needs none"
                        ) from None
                    break
            _note(descriptor, pid=os.getpid(), host=platform.node(), shared=shared)
        yield
    finally:
        with naming(path):
            os.close(descriptor)


def is_held(directory: Path) -> bool:
    """Say whether a process holds the set's lock now; whoever else asks holds it too, for an instant.

    Raises:
        DataError: something else stands in the lock's place.
        OSError: no permission.
    """

    try:
        descriptor = _open(directory / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        _try_alone(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _try_alone(descriptor: int) -> None:
    """Take the lock alone, and so find the tasks that share it too; raises BlockingIOError where it is held."""
    import fcntl  # as above

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # NFS locks a file against all others only for whoever may write it: there, a reader sees whole bakes alone.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def bake_seconds(directory: Path) -> float | None:
    """Return the seconds spent on baking this set so far, all runs added; None where nobody noted them."""
    try:
        descriptor = _open(directory / LOCK, os.O_RDONLY)
    except (OSError, DataError):
        return None
    try:
        return _seconds(_noted(descriptor))
    finally:
        os.close(descriptor)


def add_bake_seconds(directory: Path, seconds: float) -> None:
    """Add to the seconds spent; call it while holding the lock, whose file keeps them. Raises OSError.

    Of tasks that share the lock and end at the same instant, the seconds of one may be lost.
    """
    path = directory / LOCK
    with naming(path):
        descriptor = _open(path, os.O_RDWR)
        try:
            total = (_seconds(_noted(descriptor)) or 0.0) + seconds
            _note(descriptor, seconds=round(total, 3))
        finally:
            os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Open a lock file without waiting for anybody; raises DataError where it is no plain file, OSError."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a directory, a socket or the like
            raise _not_plain(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def _not_plain(path: Path) -> DataError:
    return DataError(f"{path}: expected a plain file that serves as a lock, found something else; remove it")


def _holder(descriptor: int) -> str:
    noted = _noted(descriptor)
    if type(noted.get("pid")) is int and isinstance(noted.get("host"), str):
        return f"process {noted['pid']} on {noted['host']!r}{', or a task beside it,' if noted.get('shared') else ''}"
    return "another process"


def _noted(descriptor: int) -> dict[str, Any]:
    """Return what a lock file says; nothing where it says nothing that can be read."""
    try:
        content = json.loads(os.pread(descriptor, NOTE_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _note(descriptor: int, **changes: object) -> None:
    kept = {key: value for key, value in _noted(descriptor).items() if key in ("pid", "host", "shared", "seconds")}
    line = json.dumps({**kept, **changes}).encode()
    os.pwrite(descriptor, line.ljust(NOTE_BYTES - 1) + b"\n", 0)
    os.ftruncate(descriptor, NOTE_BYTES)


def _seconds(noted: dict[str, Any]) -> float | None:
    seconds: object = noted.get("seconds")
    if isinstance(seconds, (int, float)) and 0 <= seconds <= MAX_SECONDS:
        return float(seconds)
    return None
