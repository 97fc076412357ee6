"""Directories and files in object stores and on HTTP servers, named by URL."""

import functools
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from prebake.errors import DataError, UsageError
from prebake.storage.store import IncompleteError, MissingFileError, UnsupportedError, send

__all__ = ["SCHEMES", "Remote"]

SCHEMES = ("s3", "gs", "https", "http")
PIECE_BYTES = 8 * 1024 * 1024

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Remote:
    """A remote directory or file, as `Path` is a local one.

    Its string holds no credentials: no user, no password and no query, which may be a signature.
    Each method raises what `prebake.storage.store.send` raises.

    Attributes:
        url: with its credentials.
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
        """Whether files can be written there."""
        return not self._is_http

    @property
    def _is_http(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    @property
    def _parts(self) -> tuple[str, str, str]:
        """The URL without its query, a question mark, and the query; the names of objects may hold such a mark."""
        return self.url.partition("?") if self._is_http else (self.url, "", "")

    @property
    def _root(self) -> str:
        """The URL of the store: a bucket, or the directory of an HTTP server."""
        path, mark, query = self._parts
        if self._is_http:
            return f"{path.rpartition('/')[0]}{mark}{query}"
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"

    @property
    def _key(self) -> str:
        """The name of the file in its store."""
        path = self._parts[0].rstrip("/")
        return path.rpartition("/")[2] if self._is_http else path.partition("://")[2].partition("/")[2]

    def _send(self, request: Callable[[Any], Answer], *, upload: bool = False) -> Answer:
        (answer,) = send([request], self._root, str(self), upload=upload)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def exists(self) -> bool:
        """Return whether this file exists."""
        try:
            self._send(functools.partial(_read_range, key=self._key, start=0, end=1))
        except MissingFileError:
            return False
        return True

    def existing(self, names: Sequence[str]) -> set[str]:
        """Return the names of those files of this directory that exist."""
        if not self._is_http:
            return set(names) & set(self.names())
        # HTTP has no listing: ask for the first byte of each.
        requests = [functools.partial(_read_range, key=name, start=0, end=1) for name in names]
        answers = send(requests, (self / "x")._root, str(self))
        return {name for name, answer in zip(names, answers, strict=True) if not isinstance(answer, Exception)}

    def names(self) -> list[str]:
        """Return the names of the files and directories in this directory, which may be none.

        Raises:
            UsageError: HTTP has no listing.
        """
        if self._is_http:
            raise UsageError(f"{self}: a directory can't be listed over HTTP; name the URL of one shard set")
        listing = self._send(lambda store: store.list_with_delimiter(self._key or None))
        paths = [found["path"] for found in listing["objects"]] + list(listing["common_prefixes"])
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    def read(self, max_bytes: int) -> bytes:
        """Read a small file.

        Args:
            max_bytes: the size that it may have.

        Raises:
            DataError: no such file, or a larger one.
        """
        data, size_bytes = self._send(functools.partial(_read_range, key=self._key, start=0, end=max_bytes + 1))
        if size_bytes > max_bytes:
            raise DataError(f"{self}: expected at most {max_bytes} bytes, found {size_bytes}")
        return bytes(data)

    def download(self, file: int, size_bytes: int) -> None:
        """Write the content of this file into an open local file, by several range requests at a time.

        Args:
            file: a descriptor.
            size_bytes: the expected size.

        Raises:
            DataError: no such file, or one of another size.
            OSError: no space here.
        """
        copy = _Duplicate(file)

        def fetch(store: Any, start: int) -> None:
            data, found_bytes = _read_range(store, self._key, start, min(start + PIECE_BYTES, size_bytes))
            if found_bytes != size_bytes:
                raise DataError(f"{self}: expected {size_bytes} bytes, found {found_bytes}")
            _write_at(copy.descriptor, data, start)

        requests = [functools.partial(fetch, start=start) for start in range(0, size_bytes, PIECE_BYTES)]
        for answer in send(requests, self._root, str(self)):
            if isinstance(answer, Exception):
                raise answer

    def write(self, data: bytes, *, create: bool = False) -> bool:
        """Write a small file, whole or not at all.

        Args:
            data: its content.
            create: write only if there is no such file. The store decides that in one step, or, where it does not
                know such a request, is asked first.

        Returns:
            Whether it was written.

        Raises:
            DataError: no such bucket.
        """
        mode = "create" if create else "overwrite"
        try:
            self._send(lambda store: store.put(self._key, data, mode=mode, use_multipart=False))
        except FileExistsError:
            return False
        except UnsupportedError:
            if not create:
                raise
            return not self.exists() and self.write(data)
        return True

    def upload(self, path: Path) -> None:
        """Write a local file, whole or not at all; raises DataError if there is no such bucket."""
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with its last user
        self._send(lambda store: store.put(self._key, content, use_multipart=False), upload=True)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files of this directory; those that do not exist are ignored."""
        requests = [functools.partial(_delete, key=(self / name)._key) for name in names]
        send(requests, self._root, str(self))


class _Duplicate:
    """A second descriptor of a file, closed with its last user: a request may outlive the one who sent it."""

    def __init__(self, file: int) -> None:
        self.descriptor = os.dup(file)

    def __del__(self) -> None:
        os.close(self.descriptor)


def _read_range(store: Any, key: str, start: int, end: int) -> tuple[Any, int]:
    """Return the bytes from `start` to before `end`, or to the end of the file, and the size of the file."""
    answer = store.get(key, options={"range": (start, end)})
    data, (first, last) = answer.bytes(), answer.range
    if len(data) != last - first:
        raise IncompleteError(f"{last - first} bytes were announced, {len(data)} came")
    return data, answer.meta["size"]


def _delete(store: Any, key: str) -> None:
    store.delete(key)


def _write_at(file: int, data: Any, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
