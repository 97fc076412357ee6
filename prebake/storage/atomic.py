"""Writing and removing: a file gets its name only when it is whole, and on the disk.

What changes a disk is called on `os`, here and in `prebake.storage.lock`, so that tests can count and fail each call.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = [
    "PART",
    "make_directory",
    "naming",
    "part_name",
    "remove",
    "remove_shards",
    "whole_file",
    "write_all",
    "write_plainly",
    "write_whole",
]

PART = ".part"


def write_whole(path: Path, data: bytes, token: str = "") -> None:
    """Write a small file whole or not at all; on return it is on the disk under its name.

    `token` is a part of the temporary name.

    Raises:
        OSError: no space, no permission.
    """
    with whole_file(path, token) as file:
        write_all(file, data)


def write_plainly(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that nobody needs after this run, under its own name; raises OSError."""
    with naming(path):
        file = _create(path)
        try:
            for part in parts:
                write_all(file, part)
        finally:
            os.close(file)


def part_name(name: str, token: str) -> str:
    """Return the name that a file has until it is whole."""
    return f"{name}.{token}{PART}" if token else name + PART


def make_directory(path: Path) -> None:
    """Make a directory and those above it, where they are missing; raises OSError."""
    if not path.is_dir():
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 - pathlib keeps functions of its own before Python 3.11


def remove(path: Path) -> None:
    """Remove a file, where it is there; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - as above


def remove_shards(paths: Iterable[Path]) -> int:
    """Remove archives and indexes, and return the bytes that they had; raises OSError.

    The indexes are gone from the disk before the first archive goes: without its index, an archive counts for nothing.
    """
    paths = sorted(paths, key=lambda path: (path.suffix == ".tar", path.name))
    archives = [path for path in paths if path.suffix == ".tar"]
    freed = sum(path.stat().st_size for path in paths)
    for group in (paths[: len(paths) - len(archives)], archives):
        for path in group:
            remove(path)
        for directory in {path.parent for path in group}:
            _sync(directory)
    return freed


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system say which file it is about, where the call that failed knew a descriptor only."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_file(path: Path, token: str) -> Iterator[int]:
    """Open a file under another name; give it its own, for good, when the block is left without an error."""
    part = path.with_name(part_name(path.name, token))
    with naming(path):
        try:
            file = _create(part)
            try:
                yield file
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(part, path)  # noqa: PTH105 - as above
        except BaseException:
            # The first error is the one to tell; the next bake removes what is left.
            with contextlib.suppress(OSError):
                remove(part)
            raise
    _sync(path.parent)


def _create(path: Path) -> int:
    """Create a file and return its descriptor; what a kill left there goes, and no link is followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        remove(path)
        return os.open(path, flags, 0o666)


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes, in as many calls as the system takes; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync(directory: Path) -> None:
    """Bring the names of a directory to the disk; raises OSError."""
    with naming(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # There are file systems which do that at once, or never, and know no call for it.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
