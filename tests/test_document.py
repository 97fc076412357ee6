"""Canonical JSON documents: one serialization, and a checksum that sees every changed byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from prebake.errors import DataError
from prebake.format.document import MAX_BYTES, read_document, serialize

CONTENT: dict[str, Any] = {"name": "zwölf", "list": [1, 2.5, None, True], "inner": {"b": "", "a": -3}}

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
CONTENTS = st.dictionaries(st.text(max_size=8).filter(lambda key: key != "checksum"), VALUES, max_size=6)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def with_checksum(body: str) -> bytes:
    """Return `body` with a checksum that is right for what json makes of it, as a forger would write it."""
    content = json.loads(body)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n"
    checksum = xxhash.xxh3_128_hexdigest(canonical.encode())
    return (body.rstrip().removesuffix("}") + f',"checksum":"{checksum}"}}\n').encode()


def test_bytes_are_ascii_sorted_and_without_spaces() -> None:
    assert serialize({"b": 1, "a": "ä"}) == (
        b'{"a":"\\u00e4","b":1,"checksum":"' + xxhash.xxh3_128_hexdigest(b'{"a":"\\u00e4","b":1}\n').encode() + b'"}\n'
    )


@given(content=CONTENTS)
def test_any_content_comes_back_equal(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.getbasetemp() / "document.json", serialize(content))
    assert read_document(path).content == content


@given(content=CONTENTS)
def test_the_order_of_keys_does_not_change_the_bytes(content: dict[str, Any]) -> None:
    assert serialize(dict(reversed(content.items()))) == serialize(content)


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    data = serialize(CONTENT)
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(DataError, match=r"document\.json"):
                read_document(path)


def test_every_shorter_and_every_longer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    data = serialize(CONTENT)
    for changed in [
        *(data[:length] for length in range(len(data))),
        data + b"\n",
        data + b" ",
        data + data,
        b" " + data,
    ]:
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"document\.json"):
            read_document(path)


@pytest.mark.parametrize(
    "body",
    ['{"a":1, "b":2}', '{"b":2,"a":1}', '{"a":1,"b":2.50}', '{"a":"ä"}', '{"a":"\\u0041"}'],
    ids=["a space", "other order", "a longer number", "not ascii", "a needless escape"],
)
def test_another_spelling_with_a_right_checksum_is_refused(body: str, tmp_path: Path) -> None:
    path = written(tmp_path / "document.json", with_checksum(body))
    with pytest.raises(DataError, match="changed since it was written"):
        read_document(path)


def test_the_spelling_test_forges_valid_checksums(tmp_path: Path) -> None:
    path = written(tmp_path / "document.json", with_checksum('{"a":1,"b":2}'))
    assert read_document(path).content == {"a": 1, "b": 2}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number: str, tmp_path: Path) -> None:
    path = written(tmp_path / "document.json", f'{{"a":{number},"checksum":"{"0" * 32}"}}\n'.encode())
    with pytest.raises(DataError, match=r"is not a number|not a canonical document"):
        read_document(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        serialize({"a": float(number.replace("1e999", "inf"))})


@pytest.mark.parametrize("body", ['{"a":1,"a":1,"b":2}', '{"a":{"b":1,"c":2,"b":1}}', '{"a":[{"":0,"":1}]}'])
def test_a_key_twice_in_an_object_is_refused(body: str, tmp_path: Path) -> None:
    path = written(tmp_path / "document.json", with_checksum(body))
    with pytest.raises(DataError, match="an object has a key twice"):
        read_document(path)


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_sixteen_levels_are_read_and_seventeen_refused(kind: str, tmp_path: Path) -> None:
    value: Any = 0
    for _ in range(15):
        value = [value] if kind == "lists" else {"a": value}
    path = written(tmp_path / "document.json", serialize({"it": value}))
    assert read_document(path).content == {"it": value}
    path.write_bytes(serialize({"it": [value]}))
    with pytest.raises(DataError, match="at most 16 nested lists and objects"):
        read_document(path)


def test_a_document_is_read_up_to_two_mebibytes(tmp_path: Path) -> None:
    rest = MAX_BYTES - len(serialize({"it": ""}))
    path = written(tmp_path / "document.json", serialize({"it": "x" * rest}))
    assert path.stat().st_size == MAX_BYTES
    assert len(read_document(path).content["it"]) == rest
    path.write_bytes(serialize({"it": "x" * (rest + 1)}))
    with pytest.raises(DataError, match=f"expected at most {MAX_BYTES} bytes, found {MAX_BYTES + 1}"):
        read_document(path)


def test_errors_escape_and_shorten_the_text_of_a_file(tmp_path: Path) -> None:
    evil = "\x1b]0;evil\x07\u202e" * 100
    path = written(tmp_path / "document.json", serialize({"it": evil, "those": {evil: 1}}))
    fields = read_document(path)
    for ask in (
        lambda: fields.integer("it"),
        lambda: fields.fields("those").text(evil),
        lambda: fields.texts("those"),
        lambda: fields.fields("it"),
    ):
        with pytest.raises(DataError) as found:
            ask()
        assert str(found.value).isprintable()
        assert len(str(found.value)) < len(str(path)) + 600


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "null", "true"])
def test_json_that_is_not_an_object_is_refused(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "document.json", text.encode() + b"\n")
    with pytest.raises(DataError, match="expected a JSON object"):
        read_document(path)


@pytest.mark.parametrize("checksum", [None, "null", "1", "[]", f'"{"0" * 32}"', '{"checksum":""}'])
def test_a_missing_or_foreign_checksum_is_refused(checksum: str | None, tmp_path: Path) -> None:
    body = '{"a":1}\n' if checksum is None else f'{{"a":1,"checksum":{checksum}}}\n'
    with pytest.raises(DataError, match="changed since it was written"):
        read_document(written(tmp_path / "document.json", body.encode()))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        read_document(tmp_path / "absent.json")


def test_content_with_its_own_checksum_is_not_serialized() -> None:
    with pytest.raises(ValueError, match="checksum"):
        serialize({"checksum": ""})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", True),
        ("integer", 1.0),
        ("integer", -1),
        ("integer", "1"),
        ("text", 1),
        ("items", {}),
        ("numbers", [1, "2"]),
        ("numbers", [True]),
        ("texts", ["a", None]),
        ("fields", []),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(kind: str, value: object, tmp_path: Path) -> None:
    fields = read_document(written(tmp_path / "document.json", serialize({"it": value})))
    with pytest.raises(DataError, match=r"document\.json: it"):
        getattr(fields, kind)("it")
    with pytest.raises(DataError, match="other is missing"):
        getattr(fields, kind)("other")
