"""Verifying: every byte of a shard against its plan and its index."""

import os
from io import FileIO

import numpy as np
import xxhash

from prebake.errors import DataError
from prebake.format.index import Index
from prebake.format.manifest import Plan, Shard
from prebake.format.record import BLOCK_BYTES, Frame, Layout
from prebake.storage.files import Location, open_anew

__all__ = ["damage"]


def damage(directory: Location, shard: Shard, plan: Plan) -> str | None:
    """Read one shard whole; return what is wrong with it, or None.

    Checked: the index (its own checksum, the plan's identity and layout), the archive's size, each
    record's xxh3-64, framing and labels, the zeros behind the last record, the archive's xxh3-128.
    """
    path = directory / shard.tar
    if not path.exists():
        return f"{path}: missing, though its index is there"
    try:
        index = Index.read(directory, shard, plan.identity)
        with os.fdopen(open_anew(path, index.size_bytes), "rb", buffering=0) as file:
            found = os.fstat(file.fileno()).st_size
            if found != index.size_bytes:
                return f"{path}: {index.size_bytes} bytes expected, {found} found"
            whole = xxhash.xxh3_128()
            frames: dict[Layout, Frame] = {}
            buffer = bytearray(max(extent.size_bytes for extent in index.extents))
            for extent, (key, layout) in zip(index.extents, shard.records(), strict=True):
                view = memoryview(buffer)[: extent.size_bytes]
                if _read_into(file, view) != extent.size_bytes:
                    return f"{path}, record {key}: the file ended while it was read"
                if xxhash.xxh3_64_intdigest(view) != extent.xxh3:
                    return f"{path}, record {key}: bytes differ from the index"
                if layout not in frames:
                    frames[layout] = Frame(layout)
                if not _framed(view, key, frames[layout]):
                    return f"{path}, record {key}: headers or padding are not as the format has them"
                labels = np.frombuffer(view, "<i8", layout.samples, layout.labels_offset)
                if not 0 <= labels.min() <= labels.max() < len(plan.source.classes):
                    return f"{path}, record {key}: labels from {labels.min()} to {labels.max()}, outside the classes"
                whole.update(view)
            end = file.read(2 * BLOCK_BYTES + 1)
    except DataError as error:
        return str(error)
    if end != bytes(2 * BLOCK_BYTES):
        return f"{path}: bytes after the last record are not zero"
    whole.update(end)
    if whole.hexdigest() != index.xxh3:
        return f"{path}: the whole file hashes to {whole.hexdigest()}, its index says {index.xxh3}"
    return None


def _read_into(file: FileIO, view: memoryview) -> int:
    """Fill `view`, in as many calls as the system takes; return the bytes read, fewer where the file ends."""
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done


def _framed(extent: memoryview, key: str, frame: Frame) -> bool:
    """Say whether all that surrounds the three arrays is what the writer puts there."""
    frame.name(key)
    layout = frame.layout
    arrays = (
        (layout.pixels_offset, layout.pixels_bytes),
        (layout.index_offset, 4 * layout.samples),
        (layout.labels_offset, 8 * layout.samples),
    )
    start = 0
    for offset, size in arrays:
        if extent[start:offset] != frame.extent[start:offset]:
            return False
        start = offset + size
    return extent[start:] == frame.extent[start:]
