"""The cache: verified copies of archives that lie elsewhere, within a size, shared by all runs of a machine.

A copy is named by the hash of its bytes, so whatever changes elsewhere gets another copy, and an old one is
dropped in time. It gets that name when it has been verified. Whoever reads a copy holds a shared lock on it, and
whoever fetches one an exclusive lock on what comes to be it: what is locked is not dropped, and the kernel
frees the locks of those who die.
"""

import contextlib
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
from prebake.format.index import Index
from prebake.format.manifest import Plan
from prebake.storage.atomic import PART, make_directory, naming, remove
from prebake.storage.remote import Remote

__all__ = ["Cache", "held_at_once"]

LOCK = "cache.lock"
COPY = re.compile(rf"[0-9a-f]{{32}}\.tar({re.escape(PART)})?")
DEFAULT_BYTES = 50 * 10**9
# The shard that it reads, and two ahead of it.
STREAM_HOLDS = 3
ATTEMPTS = 3
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 120.0
READ_BYTES = 1024 * 1024


def held_at_once(plan: Plan) -> int:
    """Return how many shards a training holds: while held-out images are scored, their stream's beside its own."""
    held_out = [len(plan.shards(split)) for split in plan.splits if split != "train"]
    return STREAM_HOLDS + min(STREAM_HOLDS, max(held_out, default=0))


@dataclass(frozen=True)
class Cache:
    """A directory of copies.

    Attributes:
        directory: which is made where it is missing.
        size_bytes: of all copies together.
    """

    directory: Path
    size_bytes: int

    @classmethod
    def default(cls, directory: Path | None = None, size_bytes: int | None = None) -> "Cache":
        """Return the cache in a directory, by default the user's; of 50 GB, or half the space where that is less."""
        if directory is None:
            directory = _home() / "prebake"
        if size_bytes is None:
            existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
            kept = sum(size for _, size, _ in _copies(directory)) if directory.is_dir() else 0
            size_bytes = min(DEFAULT_BYTES, (shutil.disk_usage(existing).free + kept) // 2)
        return cls(directory, size_bytes)

    def check(self, plan: Plan) -> None:
        """Raise UsageError where what a training of these shards holds at once does not fit."""
        largest = max(plan.shards(), key=lambda shard: shard.size_bytes)
        held = held_at_once(plan)
        needed = held * largest.size_bytes
        if needed > self.size_bytes:
            raise UsageError(
                f"--cache-size: expected at least {needed} bytes, which {held} shards like {largest.tar} of "
                f"{plan.source.name} take, found {self.size_bytes} in {self.directory}"
            )

    def open(self, remote: Remote, index: Index) -> tuple[Path, int]:
        """Open the copy of an archive, and fetch it first where it is not there; return its path and a descriptor.

        Until the descriptor is closed the copy is not dropped.

        Raises:
            UsageError: it is larger than the cache.
            DataError: no such archive, or other bytes than its index says.
            MachineError: it can't be got, or there is no room because of what others read.
            OSError: no space, no permission.
        """
        if index.size_bytes > self.size_bytes:
            raise UsageError(
                f"--cache-size: {remote} takes {index.size_bytes} bytes, the cache in {self.directory} has "
                f"{self.size_bytes}"
            )
        make_directory(self.directory)
        path = self.directory / f"{index.xxh3}.tar"
        for _ in range(ATTEMPTS):
            descriptor = _held(path)
            if descriptor is None:
                descriptor = self._fetch(remote, index, path)
            if descriptor is not None:
                return path, descriptor
        raise DataError(
            f"{remote}: bytes differ from its index (xxh3 {index.xxh3} expected, {ATTEMPTS} times others came)"
        )

    def _fetch(self, remote: Remote, index: Index, path: Path) -> int | None:
        """Fetch an archive, verify it, and give it its name; return None where another process did, or bytes differ."""
        import fcntl  # Windows has none, and is to be told so in words

        part = path.with_name(path.name + PART)
        file = _taken(part)
        kept = False
        try:
            with naming(part):
                if path.exists():
                    return None
                os.ftruncate(file, 0)  # of what a kill left
                self._reserve(file, index.size_bytes)
                remote.fill(file, index.size_bytes)
                if _xxh3(file) != index.xxh3:
                    return None
                os.fsync(file)
                os.replace(part, path)  # noqa: PTH105 - as in `prebake.storage.atomic`
                fcntl.flock(file, fcntl.LOCK_SH)
                kept = True
                return file
        finally:
            if not kept:
                with contextlib.suppress(OSError):  # what failed first is the thing to tell
                    remove(part)
                os.close(file)

    def _reserve(self, file: int, size_bytes: int) -> None:
        """Make room for a file, and let it have its size at once, so that others count it."""
        deadline, said = time.monotonic() + PATIENCE_SECONDS, False
        while True:
            with self._locked():
                if self._make_room(size_bytes):
                    os.ftruncate(file, size_bytes)
                    return
            if time.monotonic() > deadline:
                raise MachineError(
                    f"{self.directory}: no room for {size_bytes} bytes more: all of its {self.size_bytes} are being "
                    f"read or fetched, or another user's. Each run that reads other shards needs up to "
                    f"{2 * STREAM_HOLDS} of them there; take a larger --cache-size, or another --cache"
                )
            if not said:
                said = True
                log(f"{self.directory}: waiting for room; all of its {self.size_bytes} bytes are being read or fetched")
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl  # as above

        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, size_bytes: int) -> bool:
        """Drop what a kill left, then what was used longest ago and nobody reads; say whether that is enough."""
        copies = _copies(self.directory)
        total = sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies, key=lambda copy: (copy[2].suffix != PART, copy[0])):
            if path.suffix != PART and total + size_bytes <= self.size_bytes:
                break
            if _dropped(path):
                total -= size
        return total + size_bytes <= self.size_bytes


def _home() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        return Path(root) if root.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        raise MachineError(
            "--cache: this user has no home directory for it; name another, or set XDG_CACHE_HOME"
        ) from None


def _copies(directory: Path) -> list[tuple[int, int, Path]]:
    """List when each copy, and each that is coming to be one, was used last, its size, and its path."""
    found = []
    for path in directory.iterdir():
        if COPY.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # it has just got its name, or was dropped
                stat = path.stat(follow_symlinks=False)
                found.append((stat.st_mtime_ns, stat.st_size, path))
    return found


def _held(path: Path) -> int | None:
    """Open a copy and hold it; None where it is not there."""
    import fcntl  # as above

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if not _is_at(descriptor, path):  # it was dropped meanwhile
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # another user's; and whoever empties a cache by hand asks for no lock
        os.utime(path)
    return descriptor


def _taken(part: Path) -> int:
    """Open what is to become a copy, for oneself alone, after whoever fetches it now; raises MachineError, OSError."""
    import fcntl  # as above

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
                f"{part}: another process fetches it, and has got nothing in {PATIENCE_SECONDS:.0f} s; end it"
            )
        time.sleep(POLL_SECONDS)


def _dropped(path: Path) -> bool:
    """Remove a copy, or what was to become one, where nobody holds it and one may; say whether it is gone."""
    import fcntl  # as above

    try:
        # Not to write: NFS locks a file against all others only for whoever may.
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
