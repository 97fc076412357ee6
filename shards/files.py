"""Opening files of a shard set, which may come from a stranger."""

import errno
import os
import stat
from pathlib import Path

from shards.errors import DataError

__all__ = ["open_regular", "read_bytes"]

# What stands in a file's place can't be opened as one; permission and the machine's own troubles are another matter.
NO_FILE = {errno.ENXIO, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENODEV, errno.EISDIR}


def open_regular(path: Path) -> int:
    """Open a regular file for reading; return its descriptor.

    A link to a regular file is one too: to keep shards elsewhere is common, and reading does no harm. A
    pipe, a socket, a device or a directory is refused, and never waited for.

    Raises:
        DataError: no such file, or none that is regular.
        OSError: no permission, or too many open files.
    """
    try:
        # Looked at before it is opened too, since to open a device can act on it.
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISREG(mode):
                return descriptor
            os.close(descriptor)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise DataError(f"{path}: no regular file ({error.strerror})") from None
    raise DataError(f"{path}: expected a regular file, found {_kind(mode)}")


def read_bytes(path: Path, most: int) -> bytes:
    """Read a small file whole.

    Args:
        path: which one.
        most: bytes that it may have.

    Raises:
        DataError: no such file, none that is regular, or a larger one.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        # Not by its size alone: it may grow while it is read, and some files don't tell theirs.
        parts, left = [], most + 1
        while left and size <= most and (part := file.read(min(left, max(size, 4096) + 1))):
            parts.append(part)
            left -= len(part)
    if size > most or not left:
        raise DataError(f"{path}: expected at most {most} bytes, found {max(size, most + 1)}")
    return b"".join(parts)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_one, name in kinds if is_one(mode)), "a device")
