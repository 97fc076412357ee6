"""Scratch: directories that are nobody's once their process has ended, however it ended."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["scratch"]

PREFIX = "prebake-scratch-"
YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory among the temporary ones, and remove it in the end, as well as those that kills have left.

    Raises:
        OSError: no space, no permission.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        lock = _locked(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(lock)


def _locked(directory: Path) -> int:
    """Lock a directory; the kernel frees it when the process ends. Raises BlockingIOError where another has it."""
    import fcntl  # Windows has none, and is to be told so in words

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep() -> None:
    """Remove what nobody holds, but for what was made just now: whoever made it may be about to lock it."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, another user's, or gone meanwhile
            if time.time() - path.stat().st_mtime > YOUNG_SECONDS:
                lock = _locked(path)
                try:
                    shutil.rmtree(path)
                finally:
                    os.close(lock)
