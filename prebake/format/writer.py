"""Write one shard: its archive, then its index."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import xxhash

from prebake.format.index import Index
from prebake.format.record import BLOCK_BYTES, Frame, Layout
from prebake.format.shard import Shard
from prebake.storage.atomic import atomic_file, write_all, write_atomic

__all__ = ["ShardFile", "create_shard", "empty_records"]


def empty_records(shard: Shard) -> Iterator[tuple[int, Frame]]:
    """Yield, for each record of a shard, the number of its first sample in the epoch and a frame to fill.

    The frame has the tar headers of its record. Its arrays still hold the previous record: the caller must write every
    value of them before the next step, since the frame is reused.
    """
    frames: dict[Layout, Frame] = {}
    first = shard.first_sample
    for key, layout in shard.records():
        if layout not in frames:
            frames[layout] = Frame(layout)
        frame = frames[layout]
        frame.name(key)
        yield first, frame
        first += layout.samples


class ShardFile:
    """The archive of a shard while it is written; see `create_shard`."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._sums: list[int] = []
        self._whole = xxhash.xxh3_128()

    def write(self, frame: Frame) -> None:
        """Append the next record. Raises OSError."""
        self._sums.append(xxhash.xxh3_64_intdigest(frame.extent))
        self._append(frame.extent)

    def finish(self, shard: Shard, identity: str) -> Index:
        """Append the end of the archive; return its index."""
        self._append(bytes(2 * BLOCK_BYTES))
        return Index.planned(shard, identity, self._whole.hexdigest(), self._sums)

    def _append(self, data: bytes | bytearray) -> None:
        write_all(self._file, data)
        self._whole.update(data)


@contextlib.contextmanager
def create_shard(directory: Path, shard: Shard, identity: str, token: str = "") -> Iterator[ShardFile]:
    """Create a shard; the block must write all its records in order.

    When the block ends, the archive is synchronized to the disk and gets its name. After that the index is written.
    When the block raises, neither file exists.

    Args:
        directory: of the shard set.
        shard: the planned shard.
        identity: of the plan.
        token: a part of the temporary names; each concurrent writer of the shard needs its own.

    Raises:
        OSError: no space, no permission.
    """
    with atomic_file(directory / shard.tar, token) as file:
        archive = ShardFile(file)
        yield archive
        index = archive.finish(shard, identity)
    write_atomic(directory / shard.index, index.to_bytes(), token)
