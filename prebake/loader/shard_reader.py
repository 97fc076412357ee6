"""Reading of one shard: its index, and its records by number, each checked."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from prebake.errors import DataError
from prebake.format.index import Extent, Index
from prebake.format.manifest import Plan
from prebake.format.record import BLOCK_BYTES, Layout, value_trouble
from prebake.format.shard import Shard
from prebake.format.soft_labels import SoftLabelPlan
from prebake.storage.cache import Cache
from prebake.storage.files import Location, open_regular

__all__ = ["RecordBuffer", "ShardReader"]


class ShardReader:
    """One complete shard, open for reading.

    Args:
        directory: the shard set.
        shard: the shard to open.
        plan: of the shard set.
        cache: keeps the copies of remote shards.

    Attributes:
        index: of the shard.
        layouts: of its records.
        path: of the archive; of a remote one, of its copy.
        descriptor: of the open archive.

    Raises:
        DataError: missing, cut off, damaged, or of another plan.
    """

    def __init__(
        self, directory: Location, shard: Shard, plan: Plan | SoftLabelPlan, cache: Cache | None = None
    ) -> None:
        self._remedy = plan.remedy(directory)
        try:
            self.index = Index.read(directory, shard, plan.identity)
        except DataError as error:
            raise DataError(f"{error}. {self._remedy}") from None
        self.layouts = shard.layouts
        self._classes = plan.classes
        self.path, self.descriptor = self._open(directory / shard.tar, cache)
        try:
            self._check_end()
        except BaseException:
            self.close()
            raise

    def _open(self, archive: Location, cache: Cache | None) -> tuple[Path, int]:
        """Open the archive, or the copy of a remote one."""
        if isinstance(archive, Path):
            if not archive.exists():
                raise DataError(f"{archive}: missing, though its index is there. {self._remedy}")
            return archive, open_regular(archive)
        try:
            copy, descriptor = (cache or Cache.default()).open(archive, self.index.size_bytes, self.index.xxh3)
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
        """Check the size, before memory is allocated for the records, and the zeros behind the last record."""
        expected, found = self.index.size_bytes, os.fstat(self.descriptor).st_size
        if found != expected:
            raise DataError(
                f"{self.path}: {expected} bytes expected, {found} found: cut off, or not this shard. {self._remedy}"
            )
        zeros = bytes(2 * BLOCK_BYTES)
        if os.pread(self.descriptor, len(zeros), expected - len(zeros)) != zeros:
            raise DataError(f"{self.path}: bytes after the last record are not zero. {self._remedy}")

    def read(self, number: int, images: Sequence[memoryview], buffer: "RecordBuffer") -> None:
        """Read and check a record: its pixels into `images`, everything else into `buffer`.

        Args:
            number: of the record in this shard.
            images: writable byte views, which together have exactly the size of the record's pixels.
            buffer: receives the other columns; they are valid until the next read.

        Raises:
            DataError: the file ends too early, a byte differs, or a value is not allowed.
        """
        extent, layout = self.index.extents[number], self.layouts[number]
        head, tail = buffer.views(layout)
        views = [head, *images, tail]
        read = os.preadv(self.descriptor, views, extent.offset)
        if read != extent.size_bytes:
            self._read_rest(views, extent, read)
        digest = xxhash.xxh3_64(head)
        for view in images:
            digest.update(view)
        digest.update(tail)
        if digest.intdigest() != extent.xxh3:
            raise DataError(
                f"{self.path}, record {extent.key}: bytes differ from the index (xxh3 {extent.xxh3:016x} expected, "
                f"{digest.hexdigest()} found). {self._remedy}"
            )
        trouble = value_trouble(buffer.columns, self._classes)
        if trouble:
            raise DataError(f"{self.path}, record {extent.key}: {trouble}; its writer made a mistake")

    def _read_rest(self, views: Sequence[memoryview], extent: Extent, read: int) -> None:
        """Continue a read that returned too few bytes, as network file systems may; raise at the end of the file."""
        offset = extent.offset
        for view in views:
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
    """Memory for the bytes around a record's pixels, reused from record to record.

    Attributes:
        columns: every column but `images`, by name: (samples, *shape).
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self.columns: dict[str, NDArray[Any]] = {}

    @property
    def index_N(self) -> NDArray[np.uint32]:
        """The source index of each sample."""
        return self.columns["index"]

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """The class of each sample."""
        return self.columns["labels"]

    def views(self, layout: Layout) -> tuple[memoryview, memoryview]:
        """Return byte views for the bytes before and behind the pixels of a record of that layout."""
        if layout is not self._layout:
            self._layout = layout
            start = layout.pixels_offset + layout.pixels_bytes
            head, tail = bytearray(layout.pixels_offset), bytearray(layout.size_bytes - start)
            self._views = memoryview(head), memoryview(tail)
            self.columns = layout.views(tail, start)
        return self._views
