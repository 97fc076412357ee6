"""Opened shards: an index, and an archive whose records are read and checked by number."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from prebake.errors import DataError
from prebake.format.index import Extent, Index
from prebake.format.manifest import Plan, Shard
from prebake.format.record import BLOCK_BYTES, Layout
from prebake.storage.cache import Cache
from prebake.storage.files import Location, open_regular

__all__ = ["RecordBuffer", "ShardReader"]


class ShardReader:
    """One whole shard, open for reading: its index, and its records by number."""

    def __init__(self, directory: Location, shard: Shard, plan: Plan, cache: Cache | None = None) -> None:
        self._remedy = plan.remedy(directory)
        try:
            self.index = Index.read(directory, shard, plan.identity)
        except DataError as error:
            raise DataError(f"{error}. {self._remedy}") from None
        self.layouts = shard.layouts
        self._classes = len(plan.source.classes)
        self.path, self.descriptor = self._open(directory / shard.tar, cache)
        try:
            self._check_end()
        except BaseException:
            self.close()
            raise

    def _open(self, archive: Location, cache: Cache | None) -> tuple[Path, int]:
        """Open the archive; of one that is elsewhere a copy, which is then what errors are about."""
        if isinstance(archive, Path):
            if not archive.exists():
                raise DataError(f"{archive}: missing, though its index is there. {self._remedy}")
            return archive, open_regular(archive)
        try:
            copy, descriptor = (cache or Cache.default()).open(archive, self.index)
        except DataError as error:
            raise DataError(f"{error}. {self._remedy}") from None
        self._remedy = f"It is a copy of {archive}: remove it, and it is fetched again"
        return copy, descriptor

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _check_end(self) -> None:
        """Check the size, so that no memory is taken for what is not there, and the zeros behind the last record."""
        expected, found = self.index.size_bytes, os.fstat(self.descriptor).st_size
        if found != expected:
            raise DataError(
                f"{self.path}: {expected} bytes expected, {found} found: cut off, or not this shard. {self._remedy}"
            )
        zeros = bytes(2 * BLOCK_BYTES)
        if os.pread(self.descriptor, len(zeros), expected - len(zeros)) != zeros:
            raise DataError(f"{self.path}: bytes after the last record are not zero. {self._remedy}")

    def read(self, number: int, pixels: Sequence[memoryview], scratch: "RecordBuffer") -> None:
        """Read and check a record: pixels to `pixels` in turn, all other bytes to `frame`.

        Args:
            number: of the record in this shard.
            pixels: writable byte views that together take exactly the record's pixels.
            scratch: takes the rest; its `labels` and `index` are this record's afterwards.

        Raises:
            DataError: the file ends too early, a byte differs, or a label is of no class.
        """
        extent, layout = self.index.extents[number], self.layouts[number]
        head, tail = scratch.views(layout)
        buffers = [head, *pixels, tail]
        read = os.preadv(self.descriptor, buffers, extent.offset)
        if read != extent.size_bytes:
            self._read_rest(buffers, extent, read)
        digest = xxhash.xxh3_64(head)
        for view in pixels:
            digest.update(view)
        digest.update(tail)
        if digest.intdigest() != extent.xxh3:
            raise DataError(
                f"{self.path}, record {extent.key}: bytes differ from the index (xxh3 {extent.xxh3:016x} expected, "
                f"{digest.hexdigest()} found). {self._remedy}"
            )
        if scratch.unsigned_labels.max() >= self._classes:  # a negative one is a huge one
            raise DataError(
                f"{self.path}, record {extent.key}: expected labels from 0 to {self._classes - 1}, found "
                f"{scratch.labels.min()} to {scratch.labels.max()}; whoever wrote this set made a mistake"
            )

    def _read_rest(self, buffers: Sequence[memoryview], extent: Extent, read: int) -> None:
        """Go on where a read came back short, as network file systems may; at the end of the file, say so."""
        offset = extent.offset
        for view in buffers:
            done = min(read, len(view))
            read -= done
            while done < len(view):
                count = os.preadv(self.descriptor, [view[done:]], offset + done)
                if count == 0:
                    raise DataError(
                        f"{self.path}, record {extent.key}: the file ended while it was read. {self._remedy}"
                    )
                done += count
            offset += len(view)


class RecordBuffer:
    """Takes what surrounds a record's pixels: headers before, source indices and labels behind."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._layout: Layout | None = None

    def views(self, layout: Layout) -> tuple[memoryview, memoryview]:
        """Return byte views for the head and the tail of a record of that layout."""
        if layout is not self._layout:
            self._layout = layout
            self._head = bytearray(layout.pixels_offset)
            start = layout.pixels_offset + layout.pixels_bytes
            self._tail = bytearray(layout.size_bytes - start)
            self._views = memoryview(self._head), memoryview(self._tail)
            self.index: NDArray[np.uint32] = np.frombuffer(
                self._tail, "<u4", layout.samples, layout.index_offset - start
            )
            self.labels: NDArray[np.int64] = np.frombuffer(
                self._tail, "<i8", layout.samples, layout.labels_offset - start
            )
            self.unsigned_labels: NDArray[np.uint64] = self.labels.view("<u8")
            self.columns: dict[str, NDArray[Any]] = {"index": self.index, "labels": self.labels}
        return self._views
