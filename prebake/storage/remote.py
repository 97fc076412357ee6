"""Directories and files elsewhere, named by URL."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from prebake.errors import DataError, MachineError, UsageError
from prebake.storage.store import ANSWER_SECONDS, Store, UnsupportedError

__all__ = ["Remote", "is_url"]

PIECE_BYTES = 8 * 1024 * 1024
AT_ONCE = 8  # as many pieces are asked for together, and lie in memory
LEAST_RATE = 256 * 1024  # bytes/s, at which a whole file goes up
READ_AGAIN = 5


def is_url(text: str) -> bool:
    """Say whether a text names something by URL rather than by path."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme[:1].isalpha() and all(c.isalnum() or c in "+-." for c in scheme)


@dataclass(frozen=True)
class Remote:
    """A directory or a file elsewhere, as a `Path` is one here.

    What it prints as has no credentials: no user, no password, no query, which is where signatures stand.
    All that asks the store raises as `Store.ask`.

    Attributes:
        url: with credentials, where it has any.
    """

    url: str = field(repr=False)

    def __truediv__(self, name: str) -> "Remote":
        path, mark, query = self._parts
        return Remote(f"{path.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        scheme, _, rest = self._parts[0].rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    __repr__ = __str__

    @property
    def writable(self) -> bool:
        """Say whether files can be written there at all."""
        return not self._is_http

    @property
    def _is_http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    @property
    def _parts(self) -> tuple[str, str, str]:
        """What comes before the query, its question mark, and the query; elsewhere a name may have such a mark."""
        return self.url.partition("?") if self._is_http else (self.url, "", "")

    @functools.cached_property
    def _path(self) -> str:
        """What fsspec calls it."""
        return self.url if self._is_http else self.url.partition("://")[2].rstrip("/")

    @functools.cached_property
    def _store(self) -> Store:
        scheme, _, rest = self.url.partition("://")
        secrets = [rest.partition("/")[0].rpartition("@")[0], self._parts[2]]
        if self._is_http:
            password = urlsplit(self.url).password or ""
            secrets += [password, unquote(password)]
        return Store(scheme, str(self), tuple(secret for secret in secrets if secret))

    def exists(self) -> bool:
        """Say whether this file is there."""
        (answer,) = self._store.ask("cat_file", [(self._path, {"start": 0, "end": 1})])
        return not isinstance(answer, FileNotFoundError)

    def present(self, names: Sequence[str]) -> set[str]:
        """Return those of the files of this directory that are there."""
        if not self._is_http:
            return set(names) & set(self.names())
        # There is no listing over HTTP: each is asked for its first byte.
        answers: list[Any] = []
        for first in range(0, len(names), AT_ONCE):
            asked = [((self / name)._path, {"start": 0, "end": 1}) for name in names[first : first + AT_ONCE]]
            answers += self._store.ask("cat_file", asked)
        pairs = zip(names, answers, strict=True)
        return {name for name, answer in pairs if not isinstance(answer, FileNotFoundError)}

    def names(self) -> list[str]:
        """List what stands in this directory, which may be nothing; over HTTP that can't be known: UsageError."""
        if self._is_http:
            raise UsageError(f"{self}: nothing can be listed over HTTP; name the URL of one shard set")
        (answer,) = self._store.ask("ls", [(self._path, {"detail": False})])
        if isinstance(answer, FileNotFoundError):
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in answer]

    def read(self, most: int) -> bytes:
        """Read a document whole.

        Args:
            most: bytes that it may have.

        Raises:
            DataError: no such file, or a larger one.
        """
        for _ in range(READ_AGAIN):
            data = self._piece(0, most + 1)
            # A document ends so, and has no other newline: what does not may have been cut off on its way.
            if data.endswith(b"\n"):
                break
        if len(data) > most:
            raise DataError(f"{self}: expected at most {most} bytes, found more")
        return data

    def fill(self, file: int, size_bytes: int) -> None:
        """Write this file's bytes into an open one here, from its beginning on, several ranges at a time.

        Args:
            file: a descriptor.
            size_bytes: how many there are to be.

        Raises:
            DataError: no such file, or one of another size.
            OSError: no space here.
        """
        if len(self._piece(size_bytes - 1, size_bytes + 1)) > 1:
            raise DataError(f"{self}: {size_bytes} bytes expected, more found")
        window = PIECE_BYTES * AT_ONCE
        for first in range(0, size_bytes, window):
            last = min(first + window, size_bytes)
            ranges = [(start, min(start + PIECE_BYTES, last)) for start in range(first, last, PIECE_BYTES)]
            asked = [(self._path, {"start": start, "end": end}) for start, end in ranges]
            for (start, _), data in zip(ranges, self._store.ask("cat_file", asked, self._wrong_length), strict=True):
                _write_at(file, self._found(data), start)

    def write(self, data: bytes, *, claim: bool = False) -> bool:
        """Write a small file, whole or not at all.

        Args:
            data: its bytes.
            claim: only where no file stands there, which the store decides when it writes; one that can't is asked
                first.

        Returns:
            Whether it was written.

        Raises:
            DataError: no such bucket.
        """
        try:
            (answer,) = self._store.ask("pipe_file", [(self._path, data, {"mode": "create"} if claim else {})])
        except UnsupportedError:
            if not claim:
                raise
            return not self.exists() and self.write(data)
        if isinstance(answer, FileExistsError):
            return False
        self._found(answer)
        return True

    def upload(self, path: Path) -> None:
        """Write a file from here, whole or not at all; raises DataError where there is no such bucket."""
        seconds = ANSWER_SECONDS + path.stat().st_size / LEAST_RATE
        (answer,) = self._store.ask("put_file", [(str(path), self._path, {})], seconds=seconds)
        self._found(answer)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files of this directory, where they are there."""
        for first in range(0, len(names), AT_ONCE):
            self._store.ask("rm_file", [((self / name)._path, {}) for name in names[first : first + AT_ONCE]])

    def _piece(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`, or to the end of the file; there is at least one."""
        (answer,) = self._store.ask("cat_file", [(self._path, {"start": start, "end": end})], self._wrong_end)
        data: bytes = self._found(answer)
        return data

    def _wrong_length(self, asked: dict[str, Any], data: bytes) -> Exception | None:
        return self._wrong(asked["end"] - asked["start"], asked, data)

    def _wrong_end(self, asked: dict[str, Any], data: bytes) -> Exception | None:
        return self._wrong(1, asked, data)

    def _wrong(self, least: int, asked: dict[str, Any], data: bytes) -> Exception | None:
        most = asked["end"] - asked["start"]
        if len(data) > most:
            raise MachineError(
                f"{self}: {most} bytes were asked for, {len(data)} came: the server does not answer range requests, "
                "as nginx and every object store do"
            )
        return None if len(data) >= least else OSError(f"{least} to {most} bytes were asked for, {len(data)} came")

    def _found(self, answer: Any) -> Any:
        if isinstance(answer, FileNotFoundError):
            raise DataError(f"{self}: no such file")
        return answer


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
