"""The index of one shard: position and checksum of each record."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prebake.errors import DataError, quote
from prebake.format.document import Fields, parse, serialize
from prebake.format.shard import Shard
from prebake.storage.files import Location, read_bytes

__all__ = ["Extent", "Index"]

HEX = re.compile("[0-9a-f]*")
# No index is larger, so an index from a stranger is read no further.
HEAD_BYTES, RECORD_BYTES = 512, 192


class Extent(NamedTuple):
    """One record in its shard: `size_bytes` from `offset` (in bytes), with their xxh3-64."""

    key: str
    samples: int
    offset: int
    size_bytes: int
    xxh3: int


@dataclass(frozen=True)
class Index:
    """A complete shard: its size, its xxh3-128 (32 hex digits) and its records in file order."""

    tar: str
    identity: str
    size_bytes: int
    xxh3: str
    extents: tuple[Extent, ...]

    def to_bytes(self) -> bytes:
        """Return the bytes of the index file."""
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
        """Read the index of a planned shard and compare it with the plan.

        Raises:
            DataError: missing, damaged, of another plan, or with another layout than planned.
        """
        path = directory / shard.index
        data = read_bytes(path, HEAD_BYTES + RECORD_BYTES * shard.record_count)
        # Everything but the hashes follows from the plan, so one comparison checks it all. This runs in
        # the loader's thread at the start of each epoch.
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
            pass  # the reason is found below
        raise _difference(parse(data, path), shard, identity)


def _difference(fields: Fields, shard: Shard, identity: str) -> DataError:
    """Return the error for an index that is not the one of a planned shard; raises DataError itself, too."""
    found = fields.text("identity")
    if found != identity:
        return DataError(
            f"{fields.where}: of another plan ({identity} expected, {quote(found)[1:-1]} found); "
            "the files of two shard sets were mixed"
        )
    records = [Fields(item, f"{fields.where}: records[{i}]") for i, item in enumerate(fields.items("records"))]
    whole, sums = _hash(fields, 32), [_hash(record, 16) for record in records]
    if len(sums) != shard.record_count:
        return DataError(f"{fields.where}: expected {shard.record_count} records, found {len(sums)}")
    planned = Index.planned(shard, identity, whole, [int(text, 16) for text in sums])
    expected = json.loads(planned.to_bytes())
    for there, plan in ((fields, expected), *zip(records, expected["records"], strict=True)):
        for key in sorted(plan.keys() - {"records", "checksum"}):
            if there.content.get(key) != plan[key]:
                return DataError(f"{there.where}: {key}: expected {plan[key]!r}, found {quote(there.content.get(key))}")
    return DataError(f"{fields.where}: contradicts itself, or has fields that the format does not have")


def _hash(fields: Fields, digits: int) -> str:
    text = fields.text("xxh3")
    if len(text) != digits or not HEX.fullmatch(text):
        raise DataError(f"{fields.where}: xxh3: expected {digits} hex digits, found {quote(text)}")
    return text
