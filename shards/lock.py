"""One writer a shard set: an advisory lock, which the kernel frees when its holder dies."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from shards.errors import DataError

__all__ = ["LOCK", "add_bake_seconds", "bake_seconds", "locked"]

LOCK = "bake.lock"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the set's lock.

    Raises:
        DataError: another process holds it.
    """
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{directory}: another process is baking here; wait for it, or name another --out"
            ) from None
        yield
    finally:
        os.close(descriptor)


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
