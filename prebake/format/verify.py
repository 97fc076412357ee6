"""Verification of every byte of a shard against its plan and its index."""

import os
from io import FileIO

import xxhash

from prebake.errors import DataError
from prebake.format.index import Index
from prebake.format.manifest import Plan, Shard
from prebake.format.record import BLOCK_BYTES, Frame, Layout, value_trouble
from prebake.format.soft_labels import SoftLabelPlan
from prebake.storage.files import Location, open_uncached

__all__ = ["damage"]


def damage(directory: Location, shard: Shard, plan: Plan | SoftLabelPlan) -> str | None:
    """Read one shard; return a description of the first damage, or None.

    This checks the index (its checksum, the plan's identity and layout), the size of the archive, the
    xxh3-64, framing and values of each record, the zeros behind the last record, and the xxh3-128 of the archive.
    """
    path = directory / shard.tar
    if not path.exists():
        return f"{path}: missing, though its index is there"
    try:
        index = Index.read(directory, shard, plan.identity)
        with os.fdopen(open_uncached(path, index.size_bytes), "rb", buffering=0) as file:
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
                    return f"{path}, record {key}: headers or padding differ from the format"
                trouble = value_trouble(layout.views(buffer), plan.classes)
                if trouble:
                    return f"{path}, record {key}: {trouble}"
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
    """Fill `view`; return the number of bytes read, which is smaller at the end of the file."""
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done


def _framed(extent: memoryview, key: str, frame: Frame) -> bool:
    """Return whether everything around the columns is as the writer writes it."""
    frame.name(key)
    start = 0
    for name, array in frame.columns.items():
        offset = frame.layout.offsets[name]
        if extent[start:offset] != frame.extent[start:offset]:
            return False
        start = offset + array.nbytes
    return extent[start:] == frame.extent[start:]
