"""Canonical JSON documents that carry a checksum of themselves (FORMAT.md, "Documents")."""

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from prebake.errors import DataError, quote
from prebake.storage.files import Location, read_bytes

__all__ = ["MAX_BYTES", "Fields", "parse", "read_document", "serialize"]

# Parsing takes time and memory of a small multiple of this.
MAX_BYTES = 2 * 1024 * 1024
# Of nested lists and objects; a manifest has three, and perhaps one more in a field of an augmentation.
MAX_DEPTH = 16


def serialize(content: Mapping[str, Any]) -> bytes:
    """Return the canonical bytes of a JSON object, with its `checksum` added.

    Keys are sorted, there are no spaces, all characters are ASCII, and one newline ends it. The checksum is the
    xxh3-128 of the same serialization without it.

    Raises:
        ValueError: a number is not finite, or the content already has a `checksum`.
    """
    if "checksum" in content:
        raise ValueError("content has a key named checksum already")
    parts = {key: _canonical(value) for key, value in content.items()}
    parts["checksum"] = _canonical(xxhash.xxh3_128_hexdigest(_joined(parts)))
    return _joined(parts)


def read_document(path: Location) -> "Fields":
    """Read a document of at most MAX_BYTES, and check every byte of it.

    Raises:
        DataError: missing, not a regular file, too large, not JSON, not canonical, or with another checksum.
    """
    return parse(read_bytes(path, MAX_BYTES), path)


def parse(data: bytes, path: Location) -> "Fields":
    """Check every byte of a document that was read from `path`; raises as `read_document`."""
    try:
        content = json.loads(data, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({_words(error, data)})") from None
    if not _is_flat(content):
        raise DataError(f"{path}: expected at most {MAX_DEPTH} nested lists and objects")
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    checksum = content.pop("checksum", None)
    try:
        expected = serialize(content)
    except ValueError as error:
        raise DataError(f"{path}: not a canonical document ({error})") from None
    if data != expected:
        found = json.loads(expected)["checksum"]
        raise DataError(f"{path}: changed since it was written (checksum {quote(checksum)} expected, {found!r} found)")
    return Fields(content, str(path))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has a key twice")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _words(error: Exception, data: bytes) -> str:
    """Describe why bytes are not JSON, and what they are if that can be seen."""
    if data.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; git lfs pull fetches the file"
    if data[:64].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is an HTML page"
    return quote(str(error))[1:-1]


def _is_flat(content: object) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner += [item for item in value.values() if isinstance(item, (dict, list))]
            elif isinstance(value, list):
                inner += [item for item in value if isinstance(item, (dict, list))]
        if not inner:
            return True
        level = inner
    return False


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _joined(parts: Mapping[str, str]) -> bytes:
    # The parts are serialized once, although the checksum needs the whole twice.
    text = ",".join(f"{_canonical(key)}:{parts[key]}" for key in sorted(parts))
    return f"{{{text}}}\n".encode("ascii")


class Fields:
    """The fields of a JSON object, read by key and type; `where` names the object in errors."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, dict):
            raise DataError(f"{where}: expected an object, found {quote(content)}")
        self.content: dict[str, Any] = content
        self.where = where

    def integer(self, key: str, least: int = 0) -> int:
        """Take a whole number that is at least `least`."""
        value = self._value(key)
        if type(value) is not int or value < least:
            raise DataError(f"{self.where}: {_name(key)}: expected a whole number from {least}, found {quote(value)}")
        return value

    def text(self, key: str) -> str:
        """Take a string."""
        value = self._value(key)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {_name(key)}: expected a string, found {quote(value)}")
        return value

    def items(self, key: str) -> list[Any]:
        """Take a list, its items unchecked."""
        value = self._value(key)
        if not isinstance(value, list):
            raise DataError(f"{self.where}: {_name(key)}: expected a list, found {quote(value)}")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Take a list of finite numbers."""
        values = self.items(key)
        if not all(type(value) in (int, float) for value in values):
            raise DataError(f"{self.where}: {_name(key)}: expected numbers, found {quote(values)}")
        try:
            return tuple(float(value) for value in values)
        except OverflowError:
            raise DataError(f"{self.where}: {_name(key)}: expected numbers that float64 holds") from None

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of strings."""
        values = self.items(key)
        if not all(isinstance(value, str) for value in values):
            raise DataError(f"{self.where}: {_name(key)}: expected strings, found {quote(values)}")
        return tuple(values)

    def fields(self, key: str) -> "Fields":
        """Take an object."""
        return Fields(self._value(key), f"{self.where}: {_name(key)}")

    def _value(self, key: str) -> Any:
        if key not in self.content:
            raise DataError(f"{self.where}: {_name(key)} is missing")
        return self.content[key]


def _name(key: str) -> str:
    return quote(key)[1:-1]
