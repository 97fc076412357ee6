"""Canonical JSON documents that carry a checksum of themselves (FORMAT.md, "Documents")."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from shards.errors import DataError

__all__ = ["Fields", "parse", "read_bytes", "read_document", "serialize"]


def serialize(content: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a JSON object, with its `checksum` added.

    Keys sorted, no spaces, ASCII only, one newline at the end. The checksum is the xxh3-128 of the
    same serialization without it.

    Raises:
        ValueError: a number is not finite, or the content brings a `checksum` of its own.
    """
    if "checksum" in content:
        raise ValueError("content has a key named checksum already")
    parts = {key: _canonical(value) for key, value in content.items()}
    parts["checksum"] = _canonical(xxhash.xxh3_128_hexdigest(_joined(parts)))
    return _joined(parts)


def read_document(path: Path) -> "Fields":
    """Read a document and check every byte of it.

    Raises:
        DataError: missing, not JSON, not canonical, or its checksum differs.
    """
    return parse(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a document's bytes, unchecked; raises DataError where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None


def parse(data: bytes, path: Path) -> "Fields":
    """Check every byte of a document that was read from `path`; raises as `read_document`."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    checksum = content.pop("checksum", None)
    try:
        expected = serialize(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a canonical document ({error})") from None
    if data != expected:
        found = json.loads(expected)["checksum"]
        raise DataError(f"{path}: changed since it was written (checksum {checksum} expected, {found} found)")
    return Fields(content, str(path))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _joined(parts: Mapping[str, str]) -> bytes:
    # Parts, so that the long ones are serialized once, though the checksum needs the whole twice.
    text = ",".join(f"{_canonical(key)}:{parts[key]}" for key in sorted(parts))
    return f"{{{text}}}\n".encode("ascii")


class Fields:
    """The fields of a JSON object, taken by key and type; `where` names them in errors."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise DataError(f"{where}: expected an object, found {content!r}")
        self.content: dict[str, Any] = content
        self.where = where

    def integer(self, key: str, least: int = 0) -> int:
        """Take a whole number that is at least `least`."""
        value = self._value(key)
        if type(value) is not int or value < least:
            raise DataError(f"{self.where}: {key}: expected a whole number from {least}, found {value!r}")
        return value

    def text(self, key: str) -> str:
        """Take a string."""
        value = self._value(key)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {key}: expected a string, found {value!r}")
        return value

    def items(self, key: str) -> list[Any]:
        """Take a list, its items unchecked."""
        value = self._value(key)
        if not isinstance(value, list):
            raise DataError(f"{self.where}: {key}: expected a list, found {value!r}")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Take a list of finite numbers."""
        values = self.items(key)
        if not all(type(value) in (int, float) for value in values):
            raise DataError(f"{self.where}: {key}: expected numbers, found {values!r}")
        try:
            return tuple(float(value) for value in values)
        except OverflowError:
            raise DataError(f"{self.where}: {key}: expected numbers that float64 holds") from None

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of strings."""
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            raise DataError(f"{self.where}: {key}: expected strings, found {values!r}")
        return tuple(values)

    def fields(self, key: str) -> "Fields":
        """Take an object."""
        return Fields(self._value(key), f"{self.where}: {key}")

    def _value(self, key: str) -> Any:
        if key not in self.content:
            raise DataError(f"{self.where}: {key} is missing")
        return self.content[key]
