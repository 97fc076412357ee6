"""Temporary directories that are removed even if their process was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["temp_dir"]

PREFIX = "prebake-temp-dir-"  # all directories of this name may be removed
YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def temp_dir() -> Iterator[Path]:
    """Create a temporary directory and remove it at the end; also remove those that killed processes left.

    Raises:
        OSError: no space, no permission.
    """
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        lock = _lock(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(lock)


def _lock(directory: Path) -> int:
    """Lock a directory until the descriptor is closed or the process ends; raises BlockingIOError if it is locked."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned() -> None:
    """Remove the directories that nobody has locked, except new ones: their process may not have locked them yet."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # locked, of another user, or gone
            if time.time() - path.stat().st_mtime > YOUNG_SECONDS:
                lock = _lock(path)
                try:
                    shutil.rmtree(path)
                finally:
                    os.close(lock)
