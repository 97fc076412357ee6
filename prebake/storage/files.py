"""Opening files of a shard set, which may come from a stranger, and may lie elsewhere."""

import errno
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from prebake.errors import DataError, UsageError
from prebake.storage.remote import Remote, is_url

__all__ = ["Location", "open_anew", "open_regular", "parse_path", "present", "read_bytes"]

Location = Path | Remote
NO_PLACE = re.compile("file:/|(gs|https?|s3):/(?!/[^/])", re.IGNORECASE)  # a host or bucket lacks, or a slash
HOST_ENDS = re.compile("[/?#]")

# What stands in a file's place can't be opened as one; permission and the machine's own troubles are another matter.
NO_FILE = {errno.ENXIO, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENODEV, errno.EISDIR}


def parse_path(text: str | Location) -> Location:
    """Return what a text names: a URL a place elsewhere, all else a path here.

    Raises:
        UsageError: a URL without a host or bucket, with one slash where two belong, or whose password can't be told
            from its path.
    """
    if not isinstance(text, str):
        return text
    scheme, _, rest = text.partition("://")
    if is_url(text):
        scheme = scheme.lower()
        text = f"{scheme}://{rest}"
    if text.startswith("file:///"):
        return Path(unquote(text.removeprefix("file://")))
    if NO_PLACE.match(text):
        shown = f"{text.partition('/')[0]}/..." if set("@?") & set(text) else text
        raise UsageError(f"{shown}: expected a URL such as s3://BUCKET/shards; a path of that name here is ./{shown}")
    if not is_url(text):
        return Path(text)
    host, *behind = HOST_ENDS.split(rest, maxsplit=1)
    if "@" in "".join(behind) and (scheme in ("http", "https") or ":" in host.rpartition("@")[2]):
        raise UsageError(
            f"{scheme}://...: an @ behind the host, as if a password went on there; write %2F for /, %3F for ? and "
            "%23 for # in a password, and %40 for @ in a path or query"
        )
    return Remote(text)


def present(directory: Location, names: Sequence[str]) -> set[str]:
    """Return those of these files of a directory that are there; elsewhere, raises as `Store.ask`."""
    if isinstance(directory, Remote):
        return directory.present(names)
    # Not by `Path`, which takes longer than the question; a plan may have thousands of shards.
    return {name for name in names if os.path.isfile(f"{directory}/{name}")}  # noqa: PTH113


def open_anew(path: Location, size_bytes: int) -> int:
    """Open a file as it is now, not as a cache has it, for reading; return its descriptor.

    Args:
        path: which one; what lies elsewhere is brought into a temporary file first.
        size_bytes: which that is to have.

    Raises:
        DataError: no such file, or none that is regular; elsewhere, one of another size.
        OSError: no permission, too many open files, no space.
    """
    if isinstance(path, Path):
        return open_regular(path)
    with tempfile.TemporaryFile() as file:
        path.fill(file.fileno(), size_bytes)
        return os.dup(file.fileno())


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


def read_bytes(path: Location, most: int) -> bytes:
    """Read a small file whole.

    Args:
        path: which one.
        most: bytes that it may have.

    Raises:
        DataError: no such file, none that is regular, or a larger one.
    """
    if isinstance(path, Remote):
        return path.read(most)
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
