"""Atomic writes: a file gets its name after its content is complete and on the disk.

Every call that changes a disk is made through `os`, here and in the other modules of storage, so that tests can count
the calls and make each of them fail.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = [
    "PART",
    "atomic_file",
    "make_dirs",
    "part_name",
    "remove",
    "remove_shards",
    "with_path_in_errors",
    "write_all",
    "write_atomic",
    "write_file",
]

PART = ".part"


def write_atomic(path: Path, data: bytes, token: str = "") -> None:
    """Write a small file completely or not at all; afterwards it is on the disk under its name.

    `token` is a part of the temporary name.

    Raises:
        OSError: no space, no permission.
    """
    with atomic_file(path, token) as file:
        write_all(file, data)


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file under its own name, not atomically: for files that are not used after this run; raises OSError."""
    with with_path_in_errors(path):
        file = _create(path)
        try:
            for part in parts:
                write_all(file, part)
        finally:
            os.close(file)


def part_name(name: str, token: str) -> str:
    """Return the name that a file has until it is complete."""
    return f"{name}.{token}{PART}" if token else name + PART


def make_dirs(path: Path) -> None:
    """Create a directory and its parents where they are missing; raises OSError."""
    if not path.is_dir():
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 - Path.mkdir makes other system calls before Python 3.11


def remove(path: Path) -> None:
    """Remove a file if it exists; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - as above


def remove_shards(paths: Iterable[Path]) -> int:
    """Remove tar files and their indexes; return the bytes that they took; raises OSError.

    The removal of the indexes reaches the disk before the first tar is removed: a tar without its index is ignored.
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
def with_path_in_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError that has none, as those of calls on a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: Path, token: str) -> Iterator[int]:
    """Open a file under a temporary name; rename it when the block ends without an error."""
    part = path.with_name(part_name(path.name, token))
    with with_path_in_errors(part):
        try:
            file = _create(part)
            try:
                yield file
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(part, path)  # noqa: PTH105 - as above
        except BaseException:
            # The first error is the one to report; the next bake removes the part.
            with contextlib.suppress(OSError):
                remove(part)
            raise
    _sync(path.parent)


def _create(path: Path) -> int:
    """Create a file and return its descriptor; a file that a killed process left is replaced, and no link followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        remove(path)
        return os.open(path, flags, 0o666)


def write_all(file: int, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes to a descriptor; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync(directory: Path) -> None:
    """Flush the names in a directory to the disk; raises OSError."""
    with with_path_in_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems can't flush a directory.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
