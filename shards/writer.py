"""Writing: a file gets its name only when it is whole."""

import contextlib
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import xxhash

from shards.index import Extent, Index
from shards.plan import Shard
from shards.record import BLOCK_BYTES, Frame, Layout

__all__ = ["PART", "write_all", "write_shard", "write_whole"]

PART = ".part"


def write_shard(directory: Path, shard: Shard, identity: str, fill: Callable[[int, Frame], None]) -> None:
    """Write one shard and then its index.

    Args:
        directory: the shard set.
        shard: what to write.
        identity: of the plan.
        fill: called for every record with the number of its first sample in the epoch and a frame
            whose arrays it must fill completely (the frame is reused: it holds the last record's).

    Raises:
        OSError: no space, no permission; nothing stands under a final name then.
    """
    frames: dict[Layout, Frame] = {}
    extents: list[Extent] = []
    offset = 0
    digest = xxhash.xxh3_128()
    with _whole_file(directory / shard.tar) as file:
        for key, layout in shard.records():
            if layout not in frames:
                frames[layout] = Frame(layout)
            frame = frames[layout]
            frame.name(key)
            fill(shard.first_sample + len(extents) * shard.record_samples, frame)
            write_all(file, frame.extent)
            digest.update(frame.extent)
            xxh3 = xxhash.xxh3_64_intdigest(frame.extent)
            extents.append(Extent(key, layout.samples, offset, layout.size_bytes, xxh3))
            offset += layout.size_bytes
        end = bytes(2 * BLOCK_BYTES)
        write_all(file, end)
        digest.update(end)
    index = Index(shard.tar, identity, offset + len(end), digest.hexdigest(), tuple(extents))
    write_whole(directory / shard.index, index.to_bytes())


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all.

    Raises:
        OSError: no space, no permission.
    """
    with _whole_file(path) as file:
        write_all(file, data)


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[FileIO]:
    """Open a file under another name; give it its own when the block is left without an error."""
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not say which file it was
        raise


def write_all(file: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes, in as many calls as the system takes; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
