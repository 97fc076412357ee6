"""Writing: a file gets its name only when it is whole."""

import os
from collections.abc import Callable
from pathlib import Path

import xxhash

from shards.index import Extent, Index
from shards.plan import Shard
from shards.record import BLOCK_BYTES, Frame, Layout

__all__ = ["PART", "write_shard", "write_whole"]

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
    whole = xxhash.xxh3_128()
    part = directory / (shard.tar + PART)
    with part.open("wb", buffering=0) as file:
        for key, layout in shard.records():
            if layout not in frames:
                frames[layout] = Frame(layout)
            frame = frames[layout]
            frame.name(key)
            fill(shard.first_sample + len(extents) * shard.record_samples, frame)
            whole.update(frame.extent)
            _write_all(file.fileno(), frame.extent)
            extents.append(
                Extent(key, layout.samples, offset, layout.size_bytes, xxhash.xxh3_64_intdigest(frame.extent))
            )
            offset += layout.size_bytes
        end = bytes(2 * BLOCK_BYTES)
        whole.update(end)
        _write_all(file.fileno(), end)
        os.fsync(file.fileno())
    part.replace(directory / shard.tar)
    index = Index(shard.tar, identity, offset + len(end), whole.hexdigest(), tuple(extents))
    write_whole(directory / shard.index, index.to_bytes())


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _write_all(descriptor: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
