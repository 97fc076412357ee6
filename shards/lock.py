"""One writer a directory: an advisory lock, which the kernel frees when its holder dies."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import DataError

__all__ = ["LOCK", "add_bake_seconds", "bake_seconds", "is_held", "locked"]

LOCK = "bake.lock"
# Whoever asks `is_held` holds it for an instant too.
ATTEMPTS = 5


@contextlib.contextmanager
def locked(directory: Path, name: str = LOCK, doing: str = "baking") -> Iterator[None]:
    """Hold a lock file of a directory, in which stands who holds it: pid and host.

    Args:
        directory: which one process at a time may work in.
        name: of the lock file.
        doing: what the holder does there, for the message.

    Raises:
        DataError: another process holds it.
    """
    import fcntl  # Windows has none, and is to be told so in words

    path = directory / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise DataError(
                        f"{directory}: {_holder(path)} is {doing} here; wait until it has ended, or end it"
                    ) from None
                time.sleep(0.05)
        _note(path, pid=os.getpid(), host=platform.node())
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    noted = _noted(path)
    if type(noted.get("pid")) is int and isinstance(noted.get("host"), str):
        return f"process {noted['pid']} on {noted['host']!r}"
    return "another process"


def _noted(path: Path) -> dict[str, Any]:
    """Return what a lock file says; nothing where it says nothing that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _note(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**_noted(path), **changes}) + "\n")


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
    seconds = _noted(directory / LOCK).get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else None


def add_bake_seconds(directory: Path, seconds: float) -> None:
    """Add to the seconds spent; call it while holding the lock, whose file keeps them."""
    total = (bake_seconds(directory) or 0.0) + seconds
    _note(directory / LOCK, seconds=round(total, 3))
