"""Read files, local or remote, which may come from a stranger."""

import errno
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from prebake.errors import DataError, UsageError
from prebake.storage.remote import SCHEMES, Remote

__all__ = ["Location", "existing", "expand_user", "open_regular", "open_uncached", "parse_path", "read_bytes"]

Location = Path | Remote
URL = re.compile("([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
INCOMPLETE_URL = re.compile("file:/|(gs|https?|s3):/(?!/[^/])", re.IGNORECASE)  # without host or bucket, or a slash
HOST_ENDS = re.compile("[/?#]")

# Errors that mean that the path names no regular file.
NO_FILE = {errno.ENXIO, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENODEV, errno.EISDIR}


def parse_path(text: str | Location) -> Location:
    """Return what a text names: a remote place if it is a URL, otherwise a local path, in which ~ is expanded.

    Raises:
        UsageError: a URL of an unknown kind, without a host or bucket, or whose password can't be told from its path.
    """
    if isinstance(text, Remote):
        return text
    if isinstance(text, Path):
        return expand_user(text)
    if text.startswith("file:///"):
        return Path(unquote(text.removeprefix("file://")))
    if INCOMPLETE_URL.match(text):
        shown = f"{text.partition('/')[0]}/..." if set("@?") & set(text) else text
        raise UsageError(f"{shown}: expected a URL such as s3://BUCKET/shards; a local path of that name is ./{shown}")
    url = URL.fullmatch(text)
    if url is None:
        return expand_user(Path(text))
    scheme, rest = url[1].lower(), url[2]
    host, *behind = HOST_ENDS.split(rest, maxsplit=1)
    if scheme not in SCHEMES:
        raise UsageError(f"{scheme}://...: unknown kind of URL; expected one of {', '.join(SCHEMES)}")
    if "@" in "".join(behind) and (scheme in ("http", "https") or ":" in host.rpartition("@")[2]):
        raise UsageError(
            f"{scheme}://...: an @ after the host, as if a password continued there; write %2F for /, %3F for ? and "
            "%23 for # in a password, and %40 for @ in a path or query"
        )
    if scheme in ("s3", "gs") and {"", ".", ".."} & set(rest.rstrip("/").split("/")):
        raise UsageError(f"{Remote(f'{scheme}://{rest}')}: expected a URL without empty parts, . and .. in its path")
    return Remote(f"{scheme}://{rest}")


def expand_user(path: Path) -> Path:
    """Replace ~ or ~USER at the start of a path; raises UsageError if there is no such home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: no home directory for {path.parts[0]}; write the full path, or ./{path}") from None


def existing(directory: Location, names: Sequence[str]) -> set[str]:
    """Return the names of those files of a directory that exist; for a remote one, raises as `Remote.existing`."""
    if isinstance(directory, Remote):
        return directory.existing(names)
    # Path objects would take longer than the calls; a plan may have thousands of shards.
    return {name for name in names if os.path.isfile(f"{directory}/{name}")}  # noqa: PTH113


def open_uncached(path: Location, size_bytes: int) -> int:
    """Open a file for reading, without the cache; return its descriptor.

    Args:
        path: the file; a remote one is downloaded into a temporary file.
        size_bytes: the expected size of a remote one.

    Raises:
        DataError: no such regular file; a remote one of another size.
        OSError: no permission, too many open files, no space.
    """
    if isinstance(path, Path):
        return open_regular(path)
    with tempfile.TemporaryFile() as file:
        path.download(file.fileno(), size_bytes)
        return os.dup(file.fileno())


def open_regular(path: Path) -> int:
    """Open a regular file, or a link to one, for reading; return its descriptor.

    A pipe, a socket, a device or a directory is refused, and never waited for.

    Raises:
        DataError: no such regular file.
        OSError: no permission, too many open files.
    """
    try:
        # Check before opening, too: to open a device can have effects.
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


def read_bytes(path: Location, max_bytes: int) -> bytes:
    """Read a small file.

    Args:
        path: the file.
        max_bytes: the size that it may have.

    Raises:
        DataError: no such regular file, or a larger one.
    """
    if isinstance(path, Remote):
        return path.read(max_bytes)
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        # The size is not enough: the file may grow meanwhile, and some files have none.
        parts, left = [], max_bytes + 1
        while left and size <= max_bytes and (part := file.read(min(left, max(size, 4096) + 1))):
            parts.append(part)
            left -= len(part)
    if size > max_bytes or not left:
        raise DataError(f"{path}: expected at most {max_bytes} bytes, found {max(size, max_bytes + 1)}")
    return b"".join(parts)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_one, name in kinds if is_one(mode)), "a device")
