"""The index of one shard: where each record lies, and what it must hash to."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prebake.errors import DataError, shown
from prebake.format.document import Fields, parse, serialize
from prebake.format.manifest import Shard
from prebake.storage.files import Location, read_bytes

__all__ = ["Extent", "Index"]

HEX = re.compile("[0-9a-f]*")
# No index of ours has more: hence one from a stranger is read no further than what its plan explains.
HEAD_BYTES, RECORD_BYTES = 512, 192


class Extent(NamedTuple):
    """One record in its shard: `size_bytes` from `offset` (in bytes), hashing to `xxh3` (xxh3-64)."""

    key: str
    samples: int
    offset: int
    size_bytes: int
    xxh3: int


@dataclass(frozen=True)
class Index:
    """What a whole shard is: its size, its xxh3-128 (32 hex digits) and its records in file order."""

    tar: str
    identity: str
    size_bytes: int
    xxh3: str
    extents: tuple[Extent, ...]

    def to_bytes(self) -> bytes:
        """Return the index file's bytes."""
        records = [
            {"key": e.key, "samples": e.samples, "offset": e.offset, "bytes": e.size_bytes, "xxh3": f"{e.xxh3:016x}"}
            for e in self.extents
        ]
        return serialize(
            {
                "shard": self.tar,
                "identity": self.identity,
                "bytes": self.size_bytes,
                "xxh3": self.xxh3,
                "records": records,
            }
        )

    @classmethod
    def planned(cls, shard: Shard, identity: str, xxh3: str, sums: Sequence[int]) -> "Index":
        """Return the index of a planned shard with these hashes, of the whole and of each record."""
        extents, offset = [], 0
        for (key, layout), record_xxh3 in zip(shard.records(), sums, strict=True):
            extents.append(Extent(key, layout.samples, offset, layout.size_bytes, record_xxh3))
            offset += layout.size_bytes
        return cls(shard.tar, identity, shard.size_bytes, xxh3, tuple(extents))

    @classmethod
    def read(cls, directory: Location, shard: Shard, identity: str) -> "Index":
        """Read the index of a planned shard and hold it against the plan.

        Raises:
            DataError: missing, damaged, of another plan, or not as the plan lays the records out.
        """
        path = directory / shard.index
        data = read_bytes(path, HEAD_BYTES + RECORD_BYTES * len(shard.layouts))
        # All but the hashes follows from the plan, so one comparison checks everything; this runs in
        # the stream's thread, at each epoch's start.
        try:
            content = json.loads(data)
            sums = [record["xxh3"] for record in content["records"]]
            whole = content["xxh3"]
            index = cls.planned(shard, identity, whole, [int(text, 16) for text in sums])
            digits = "".join([whole, *sums])
            hashes = HEX.fullmatch(digits) and len(whole) == 32 and len(digits) == 32 + 16 * len(sums)
            if hashes and index.to_bytes() == data:
                return index
        except (ValueError, TypeError, LookupError, RecursionError):
            pass  # what exactly is wrong is found out below
        raise _trouble(parse(data, path), shard, identity, path)


def _trouble(fields: Fields, shard: Shard, identity: str, path: Location) -> DataError:
    """Say why an index is not the one of a planned shard; raises instead where its fields make none."""
    index = Index(
        tar=fields.text("shard"),
        identity=fields.text("identity"),
        size_bytes=fields.integer("bytes"),
        xxh3=fields.text("xxh3"),
        extents=tuple(_extent(Fields(item, f"{path}: records[{i}]")) for i, item in enumerate(fields.items("records"))),
    )
    if len(index.xxh3) != 32 or not HEX.fullmatch(index.xxh3):
        return DataError(f"{path}: xxh3: expected 32 hex digits, found {shown(index.xxh3)}")
    if index.identity != identity:
        return DataError(
            f"{path}: of another plan ({identity} expected, {shown(index.identity)[1:-1]} found); "
            "these files were mixed from two shard sets"
        )
    if (index.tar, index.size_bytes) != (shard.tar, shard.size_bytes):
        return DataError(
            f"{path}: expected {shard.tar} of {shard.size_bytes} bytes, "
            f"found {shown(index.tar)[1:-1]} of {index.size_bytes} bytes"
        )
    planned = Index.planned(shard, identity, index.xxh3, [0] * len(list(shard.records()))).extents
    if len(index.extents) != len(planned):
        return DataError(f"{path}: expected {len(planned)} records, found {len(index.extents)}")
    for found, expected in zip(index.extents, planned, strict=True):
        if found._replace(xxh3=0) != expected:
            return DataError(f"{path}: record {expected.key}: expected {expected}, found {shown(found)}")
    return DataError(f"{path}: contradicts itself, or holds fields that the format does not have")


def _extent(fields: Fields) -> Extent:
    text = fields.text("xxh3")
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise DataError(f"{fields.where}: xxh3: expected 16 hex digits, found {shown(text)}")
    return Extent(
        fields.text("key"),
        fields.integer("samples", 1),
        fields.integer("offset"),
        fields.integer("bytes", 1),
        int(text, 16),
    )
