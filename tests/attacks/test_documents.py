"""Damaged and lying manifests and indexes are refused, or harmless."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebake.errors import DataError, UsageError
from prebake.loader.describe import describe, digest
from prebake.loader.shard_set import ShardSet
from tests.attacks.hostile import INDEX, TAR, Change, first, places, read, reseal, reseal_manifest, troubles


@given(
    junk=st.binary(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u', max_size=60).map(str.encode)
)
@pytest.mark.parametrize("name", ["manifest.json", INDEX])
def test_junk_instead_of_a_document_is_refused(
    name: str, junk: bytes, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.getbasetemp() / "junk"
    if not victim.exists():
        shutil.copytree(whole, victim)
    (victim / name).write_bytes(junk)
    try:
        with pytest.raises(DataError, match=name):
            read(victim)
    finally:
        shutil.copy(whole / name, victim / name)


@pytest.mark.parametrize("dtype", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_document_in_another_text_encoding_is_refused(dtype: str, victim: Path) -> None:
    for name in ("manifest.json", INDEX):
        text = (victim / name).read_bytes().decode()
        (victim / name).write_bytes(text.encode(dtype))
        with pytest.raises(DataError, match=name):
            read(victim)
        (victim / name).write_bytes(text.encode())


@pytest.mark.parametrize(
    "bomb",
    [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"],
    ids=["open lists", "open objects", "closed lists", "in an object"],
)
def test_a_deeply_nested_document_is_refused(bomb: bytes, victim: Path) -> None:
    for name in ("manifest.json", INDEX):
        before = (victim / name).read_bytes()
        (victim / name).write_bytes(bomb)
        with pytest.raises(DataError, match=name):
            read(victim)
        (victim / name).write_bytes(before)


def test_a_document_of_any_depth_is_refused(victim: Path) -> None:
    for depth in range(700, 1100):
        (victim / "manifest.json").write_bytes(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
        with pytest.raises(DataError, match=r"manifest\.json"):
            ShardSet(victim)


def test_a_number_with_very_many_digits_is_refused(victim: Path) -> None:
    (victim / "manifest.json").write_bytes(b'{"seed":' + b"9" * 100_000 + b"}\n")
    with pytest.raises(DataError, match=r"manifest\.json"):
        ShardSet(victim)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(shard="train-e001-000.tar"),
        lambda c: c.update(shard="../../etc/passwd"),
        lambda c: c.update(identity="0" * 32),
        lambda c: c.update(bytes=2**62),
        lambda c: c.update(bytes=-1),
        lambda c: c.update(bytes=True),
        lambda c: c.update(records=[]),
        lambda c: c.update(records={}),
        lambda c: c["records"].pop(),
        lambda c: c["records"].append(c["records"][0]),
        lambda c: c["records"].reverse(),
        lambda c: c["records"].__setitem__(0, None),
        lambda c: c["records"].__setitem__(0, []),
        lambda c: c["records"][1].update(offset=c["records"][1]["offset"] - 512),
        lambda c: c["records"][1].update(offset=0),
        lambda c: first(c).update(offset=1),
        lambda c: first(c).update(offset=-512),
        lambda c: first(c).update(offset=2**63),
        lambda c: first(c).update(offset=10**300),
        lambda c: first(c).update(offset=0.0),
        lambda c: first(c).update(offset=False),
        lambda c: first(c).update(offset="0"),
        lambda c: first(c).update(bytes=2**62),
        lambda c: first(c).update(bytes=0),
        lambda c: first(c).update(bytes=-1),
        lambda c: first(c).update(samples=2**62),
        lambda c: first(c).update(samples=0),
        lambda c: first(c).update(samples=129),
        lambda c: first(c).update(key="e000-r00001"),
        lambda c: first(c).update(key=0),
        lambda c: first(c).update(xxh3=0),
        lambda c: first(c).update(xxh3=""),
        lambda c: first(c).update(xxh3="-" + "0" * 15),
        lambda c: first(c).update(xxh3="-" + "0" * 14 + "f"),
        lambda c: first(c).update(xxh3="f" * 17),
        lambda c: c.update(xxh3=5),
        lambda c: c.update(xxh3=None),
        lambda c: c.update(xxh3="nonsense"),
        lambda c: c.update(xxh3=""),
        lambda c: c.update(xxh3="F" * 32),
        lambda c: c.update(xxh3="0" * 31),
        lambda c: c.update(xxh3=["x"]),
        lambda c: first(c).update(xxh3="0" * 17),
        lambda c: first(c).update(xxh3="0x" + "0" * 14),
        lambda c: first(c).update(xxh3="\u0661" * 16),
        lambda c: first(c).update(xxh3=first(c)["xxh3"].upper() + "A"),
        lambda c: first(c).pop("xxh3"),
        lambda c: c.pop("records"),
    ],
)
def test_a_false_index_under_a_valid_checksum_is_refused(change: Change, victim: Path) -> None:
    reseal(victim / INDEX, change)
    with pytest.raises(DataError, match=INDEX):
        read(victim)
    (trouble,) = troubles(victim)
    assert INDEX in trouble


def test_a_false_checksum_of_an_archive_is_reported(victim: Path) -> None:
    reseal(victim / INDEX, lambda content: content.update(xxh3="0" * 32))
    (trouble,) = troubles(victim)
    assert TAR in trouble


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(version=1),
        lambda c: c.update(version=True),
        lambda c: c.update(version="1"),
        lambda c: c.update(format="tar"),
        lambda c: c["columns"][0].update(dtype="float64"),
        lambda c: c["columns"][0].update(dtype="object"),
        lambda c: c["columns"][1].update(dtype="O"),
        lambda c: c.update(seed=-1),
        lambda c: c["splits"].update(train=[[150, 0, 3, 1]]),
        lambda c: c["splits"].update(train=[[150, 3, 3, -1]]),
        lambda c: c["splits"].update(train=[[150, 3, 3, 2]]),
        lambda c: c["splits"].update(train=[[10**30, 3, 3, 1]]),
        lambda c: c["splits"].update(train=[[150, 3, 3.0, 1]]),
        lambda c: c["splits"].update(train="train"),
        lambda c: c.update(splits={}),
        lambda c: c.update(splits=[]),
        lambda c: c["source"].update(mean=["0.5"]),
        lambda c: c["source"].update(mean=[]),
        lambda c: c["source"].update(mean=[None]),
        lambda c: c["source"].update(mean=0.5),
        lambda c: c["source"].update(sha256={"train": 1}),
        lambda c: c["source"].update(classes=[1]),
        lambda c: c["source"].update(name=None),
        lambda c: c.pop("source"),
        lambda c: c.update(augmentation="standard"),
        pytest.param(
            lambda c: c["source"].update(mean=[10**400]),
        ),
        pytest.param(
            lambda c: c["source"].update(std=[0.0]),
        ),
    ],
)
def test_a_false_manifest_under_a_valid_checksum_is_refused(change: Change, victim: Path) -> None:
    reseal_manifest(victim, change)
    with pytest.raises(DataError, match=r"manifest\.json"):
        ShardSet(victim)


@pytest.mark.parametrize(
    "epoch",
    [
        [2**32 - 1, 3, 3, 1],
        [1, 3, 3, 1],
        [151, 3, 3, 1],
        [150, 2**20, 1, 1],
        pytest.param(
            [150, 2**20, 2**20, 1],
        ),
        pytest.param(
            [150, 2**31, 2**32 - 1, 1],
        ),
    ],
)
def test_a_manifest_with_other_sizes_reads_no_shard(epoch: list[int], victim: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["splits"].update(train=[epoch])
        content["columns"][0]["shape"] = epoch[1:]

    reseal_manifest(victim, change)
    with pytest.raises(DataError):
        read(victim)


def test_an_unknown_field_of_a_manifest_is_refused(victim: Path) -> None:
    reseal(victim / "manifest.json", lambda content: content.update(extra=1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        ShardSet(victim)


def test_a_shape_whose_product_overflows_is_refused(victim: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["source"].update(mean=[0.5] * 4, std=[0.5] * 4)
        content["splits"].update(train=[[150, 2**31, 2**31, 4]])
        content["columns"][0]["shape"] = [2**31, 2**31, 4]

    reseal_manifest(victim, change)
    with pytest.raises(DataError):
        ShardSet(victim).missing()


LEAVES = st.none() | st.booleans() | st.integers(-(2**31), 2**16) | st.floats(0.01, 9) | st.text(max_size=3)
JSON = LEAVES | st.lists(LEAVES, max_size=4) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=3)


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(["manifest.json", INDEX]))
def test_any_value_anywhere_in_a_document_is_refused_or_harmless(
    data: st.DataObject, name: str, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.getbasetemp() / "fuzz"
    if not victim.exists():
        shutil.copytree(whole, victim)

    def change(content: dict[str, Any]) -> None:
        container, key = data.draw(st.sampled_from(places(content)), label="place")
        container[key] = data.draw(JSON, label="value")

    expected = read(whole)
    (reseal if name == INDEX else lambda path, how: reseal_manifest(path.parent, how))(victim / name, change)
    found = expected
    with contextlib.suppress(DataError, UsageError):
        found = read(victim)
        describe(ShardSet(victim))
        digest(ShardSet(victim))
        troubles(victim)
    shutil.copy(whole / name, victim / name)
    assert found == expected
