"""The index of one shard: where each record lies, and what it must hash to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.document import Fields, read_document, serialize
from shards.errors import DataError
from shards.plan import Shard

__all__ = ["Extent", "Index"]


@dataclass(frozen=True)
class Extent:
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
    def read(cls, directory: Path, shard: Shard, identity: str) -> "Index":
        """Read the index of a planned shard and hold it against the plan.

        Raises:
            DataError: missing, damaged, of another plan, or not as the plan lays the records out.
        """
        path = directory / shard.index
        fields = read_document(path)
        index = cls(
            tar=fields.text("shard"),
            identity=fields.text("identity"),
            size_bytes=fields.integer("bytes"),
            xxh3=fields.text("xxh3"),
            extents=tuple(
                _extent(Fields(item, f"{path}: records[{i}]")) for i, item in enumerate(fields.items("records"))
            ),
        )
        if index.to_bytes() != serialize(fields.content):
            raise DataError(f"{path}: contradicts itself, or holds fields that the format does not have")
        if index.identity != identity:
            raise DataError(
                f"{path}: of another plan ({identity} expected, {index.identity} found); "
                "these files were mixed from two shard sets. Remove it and bake again"
            )
        if (index.tar, index.size_bytes) != (shard.tar, shard.size_bytes):
            raise DataError(
                f"{path}: expected {shard.tar} of {shard.size_bytes} bytes, "
                f"found {index.tar} of {index.size_bytes} bytes"
            )
        _check_extents(index.extents, shard, path)
        return index


def _extent(fields: Fields) -> Extent:
    text = fields.text("xxh3")
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise DataError(f"{fields.where}: xxh3: expected 16 hex digits, found {text!r}")
    return Extent(
        fields.text("key"),
        fields.integer("samples", 1),
        fields.integer("offset"),
        fields.integer("bytes", 1),
        int(text, 16),
    )


def _check_extents(extents: Sequence[Extent], shard: Shard, path: Path) -> None:
    planned = list(shard.records())
    if len(extents) != len(planned):
        raise DataError(f"{path}: expected {len(planned)} records, found {len(extents)}")
    offset = 0
    for extent, (key, layout) in zip(extents, planned, strict=True):
        expected = (key, layout.samples, offset, layout.size_bytes)
        if (extent.key, extent.samples, extent.offset, extent.size_bytes) != expected:
            raise DataError(f"{path}: record {key}: expected (key, samples, offset, bytes) {expected}, found {extent}")
        offset += layout.size_bytes
