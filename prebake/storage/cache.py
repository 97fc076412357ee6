"""The cache: verified local copies of remote files, limited in size, shared by all processes of a machine.

A copy is named by the hash of its content, so a file that changes remotely gets another copy. It gets its name after it
was verified. Its readers hold a shared lock on it, and the process that downloads it an exclusive one. Locked files are
never removed, and the kernel releases the locks of a process that dies.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from prebake.console import log
from prebake.errors import DataError, MachineError, UsageError
from prebake.storage.atomic import PART, make_dirs, remove, with_path_in_errors
from prebake.storage.files import expand_user
from prebake.storage.remote import Remote

__all__ = ["Cache"]

LOCK = "cache.lock"
COPY = re.compile(rf"[0-9a-f]{{32}}\.tar({re.escape(PART)})?")
DEFAULT_BYTES = 50 * 10**9
ATTEMPTS = 3
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 120.0
READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Cache:
    """A directory of copies.

    Attributes:
        directory: created where it is missing.
        size_bytes: of all copies together.
    """

    directory: Path
    size_bytes: int

    @classmethod
    def default(cls, directory: Path | None = None, size_bytes: int | None = None) -> "Cache":
        """Return a cache; by default the user's, of 50 GB or half the free space, whichever is less."""
        directory = _default_directory() if directory is None else expand_user(directory)
        if size_bytes is None:
            existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
            kept = sum(size for _, size, _ in _copies(directory)) if directory.is_dir() else 0
            size_bytes = min(DEFAULT_BYTES, (shutil.disk_usage(existing).free + kept) // 2)
        return cls(directory, size_bytes)

    def open(self, remote: Remote, size_bytes: int, xxh3: str) -> tuple[Path, int]:
        """Open the copy of a remote file, which is downloaded first if there is none.

        The copy is not removed before the descriptor is closed.

        Args:
            remote: the file.
            size_bytes: its size.
            xxh3: the xxh3-128 of its content, as 32 hex digits.

        Returns:
            The path of the copy, and a descriptor.

        Raises:
            UsageError: the file is larger than the cache.
            DataError: no such file, or other content.
            MachineError: no answer, or other processes use all of the cache.
            OSError: no space, no permission.
        """
        if size_bytes > self.size_bytes:
            raise UsageError(
                f"--cache-size: {remote} takes {size_bytes} bytes, the cache in {self.directory} has {self.size_bytes}"
            )
        make_dirs(self.directory)
        path = self.directory / f"{xxh3}.tar"
        for _ in range(ATTEMPTS):
            descriptor = _open_copy(path)
            if descriptor is None:
                descriptor = self._download(remote, size_bytes, xxh3, path)
            if descriptor is not None:
                return path, descriptor
        raise DataError(f"{remote}: bytes differ from its index (xxh3 {xxh3} expected, {ATTEMPTS} times others came)")

    def _download(self, remote: Remote, size_bytes: int, xxh3: str, path: Path) -> int | None:
        """Download and verify a copy, and give it its name; return None if another process did, or if bytes differ."""
        part = path.with_name(path.name + PART)
        file = _open_part(part)
        kept = False
        try:
            with with_path_in_errors(part):
                if path.exists():
                    return None
                os.ftruncate(file, 0)  # a killed process may have left bytes
                self._reserve(file, size_bytes)
                remote.download(file, size_bytes)
                if _xxh3(file) != xxh3:
                    return None
                os.fsync(file)
                os.replace(part, path)  # noqa: PTH105 - as in `prebake.storage.atomic`
                fcntl.flock(file, fcntl.LOCK_SH)
                kept = True
                return file
        finally:
            if not kept:
                with contextlib.suppress(OSError):  # the first error is the one to report
                    remove(part)
                os.close(file)

    def _reserve(self, file: int, size_bytes: int) -> None:
        """Make room for a file, and give it its size at once, so that other processes count it."""
        deadline, logged = time.monotonic() + PATIENCE_SECONDS, False
        while True:
            with self._locked():
                if self._make_room(size_bytes):
                    os.ftruncate(file, size_bytes)
                    return
            if time.monotonic() > deadline:
                raise MachineError(
                    f"{self.directory}: no room for {size_bytes} bytes more: all of its {self.size_bytes} are being "
                    "read or downloaded, or belong to another user. Runs that read other shards at the same time need "
                    "more room; take a larger --cache-size, or another --cache"
                )
            if not logged:
                logged = True
                log(f"{self.directory}: waiting for room; all {self.size_bytes} bytes are being read or downloaded")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size_bytes: int) -> bool:
        """Remove partial copies of killed processes, then the least recently used; return whether that is enough."""
        copies = _copies(self.directory)
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies, key=lambda copy: (copy[2].suffix != PART, copy[0])):
            if path.suffix != PART and total + size_bytes <= self.size_bytes:
                break
            if _remove_unused(path):
                total -= size
        return total + size_bytes <= self.size_bytes


def _default_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        return (Path(root) if root.startswith("/") else Path.home() / ".cache") / "prebake"
    except RuntimeError:
        raise MachineError("--cache: this user has no home directory; name one, or set XDG_CACHE_HOME") from None


def _copies(directory: Path) -> list[tuple[int, int, Path]]:
    """Return the time of the last use, the size and the path of each copy, partial ones included."""
    found = []
    for path in directory.iterdir():
        if COPY.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # it was just renamed or removed
                stat = path.stat(follow_symlinks=False)
                found.append((stat.st_mtime_ns, stat.st_size, path))
    return found


def _open_copy(path: Path) -> int | None:
    """Open a copy with a shared lock; return None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_at(descriptor, path):  # it was removed meanwhile
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # it belongs to another user, or was removed by hand
        os.utime(path)
    return descriptor


def _open_part(part: Path) -> int:
    """Open a partial copy with an exclusive lock, after the process that downloads it now; raises MachineError."""
    deadline, before = time.monotonic() + PATIENCE_SECONDS, 0
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, part):
                return descriptor
        except BlockingIOError:
            changed = os.fstat(descriptor).st_mtime_ns
            if changed != before:
                deadline, before = time.monotonic() + PATIENCE_SECONDS, changed
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise MachineError(
                f"{part}: another process downloads it, and has received nothing in {PATIENCE_SECONDS:.0f} s; end it"
            )
        time.sleep(POLL_SECONDS)


def _remove_unused(path: Path) -> bool:
    """Remove a copy that no process has locked, if permitted; return whether it is gone."""
    try:
        # Opened for writing: NFS grants exclusive locks to writers only.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, path):
            remove(path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _xxh3(file: int) -> str:
    """Return the xxh3-128 of a whole file."""
    digest, offset = xxhash.xxh3_128(), 0
    while data := os.pread(file, READ_BYTES, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()
