"""One writer a shard set: an advisory lock, which the kernel frees when its holder dies."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from shards.errors import DataError

__all__ = ["LOCK", "add_bake_seconds", "bake_seconds", "is_held", "locked"]

LOCK = "bake.lock"
# Whoever asks `is_held` holds it for an instant too.
ATTEMPTS = 5


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the set's lock.

    Raises:
        DataError: another process holds it.
    """
    import fcntl  # Windows has none, and is to be told so in words

    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise DataError(f"{directory}: another process is baking here; wait until it has ended") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def is_held(directory: Path) -> bool:
    """Say whether a process holds the set's lock now."""
    import fcntl  # as above

    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask at once don't take each other for a bake.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def bake_seconds(directory: Path) -> float | None:
    """Return the seconds spent on baking this set so far, all runs added; None where nobody noted them."""
    try:
        seconds = json.loads((directory / LOCK).read_text())["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(seconds) if isinstance(seconds, (int, float)) else None


def add_bake_seconds(directory: Path, seconds: float) -> None:
    """Add to the seconds spent; call it while holding the lock, whose file keeps them."""
    total = (bake_seconds(directory) or 0.0) + seconds
    (directory / LOCK).write_text(json.dumps({"seconds": round(total, 3)}) + "\n")
