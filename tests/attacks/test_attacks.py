"""Hostile and damaged files through the public door: a DataError or a UsageError, and never wrong samples."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import precompute
from shards import DataError, ShardSet, UsageError
from shards.contents import describe, digest
from shards.document import serialize
from shards.verify import damage

TAR, INDEX = "train-e000-000.tar", "train-e000-000.json"
Change = Callable[[dict[str, Any]], object]


def bake(out: Path, seed: int = 0) -> Path:
    """Bake two epochs of 150 images of 3x3: two records a shard, of 128 and 22 samples."""
    rng = np.random.default_rng(1)
    precompute.bake(
        rng.integers(0, 256, (150, 3, 3, 1), dtype=np.uint8),
        rng.integers(0, 4, 150),
        augment=precompute.Augmentation("standard", pad=1, pad_mode="zero", flip="random", cutout=1),
        epochs=2,
        encoding="uint8",
        seed=seed,
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set that is as it should be; read only."""
    return bake(tmp_path_factory.mktemp("whole") / "set")


@pytest.fixture
def victim(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


def read(directory: Path, epoch: int = 0) -> list[bytes]:
    """Read an epoch to its end; return the batches' bytes."""
    batches = ShardSet(directory).batches("train", epoch, batch_size=40)
    return [images.tobytes() + labels.tobytes() for images, labels in batches]


def troubles(directory: Path) -> list[str]:
    """Verify a set; return what is wrong with its shards."""
    data = ShardSet(directory)
    found = (damage(directory, shard, data.plan) for shard in data.plan.shards())
    return [trouble for trouble in found if trouble]


def reseal(path: Path, change: Change) -> None:
    """Change a document and give it a checksum that is right again."""
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)
    path.write_bytes(serialize(content))


def reseal_manifest(directory: Path, change: Change) -> None:
    """Change a manifest, and give it the identity and the checksum that are right again."""

    def with_identity(content: dict[str, Any]) -> None:
        change(content)
        fixed = {key: value for key, value in content.items() if key not in ("splits", "identity")}
        text = json.dumps(fixed, sort_keys=True, separators=(",", ":"))
        content["identity"] = hashlib.sha256(text.encode()).hexdigest()[:32]

    reseal(directory / "manifest.json", with_identity)


def test_the_set_that_all_attacks_start_from_is_whole(whole: Path) -> None:
    assert troubles(whole) == []
    assert len(read(whole)) == 4
    assert [extent.samples for extent in next(ShardSet(whole).open_shards("train")).index.extents] == [128, 22]


def test_a_truncated_tar_is_never_read_past_its_end(victim: Path) -> None:
    tar = victim / TAR
    data = tar.read_bytes()
    records_end = len(data) - 1024
    for length in (*range(0, len(data), 97), records_end - 1, records_end, len(data) - 1):
        tar.write_bytes(data[:length])
        with pytest.raises(DataError, match=rf"{TAR}: {len(data)} bytes expected, {length} found"):
            read(victim)
        (trouble,) = troubles(victim)
        assert TAR in trouble


def test_a_tar_with_bytes_behind_it_is_reported(victim: Path) -> None:
    with (victim / TAR).open("ab") as file:
        file.write(b"x")
    (trouble,) = troubles(victim)
    assert TAR in trouble


def test_bytes_behind_the_last_record_are_reported_even_under_a_sum_that_is_right(victim: Path) -> None:
    data = bytearray((victim / TAR).read_bytes())
    data[-700] = 1
    (victim / TAR).write_bytes(data)
    reseal(victim / INDEX, lambda content: content.update(xxh3=xxhash.xxh3_128_hexdigest(bytes(data))))
    (trouble,) = troubles(victim)
    assert f"{TAR}: bytes after the last record are not zero" in trouble


def flip(path: Path, position: int, bits: int) -> Iterator[None]:
    data = path.read_bytes()
    changed = bytearray(data)
    changed[position] ^= bits
    path.write_bytes(changed)
    yield
    path.write_bytes(data)


def test_a_flipped_byte_anywhere_in_a_tar_is_seen(victim: Path) -> None:
    data = ShardSet(victim)
    size = (victim / TAR).stat().st_size
    extents = next(data.open_shards("train")).index.extents
    records_end = extents[-1].offset + extents[-1].size_bytes
    assert size - records_end == 1024
    shard = data.plan.shards("train", 0)[0]
    # Every 11th byte, and the edges of all that is in a record: headers, arrays, padding.
    edges = {extent.offset + at for extent in extents for at in (0, 511, 512, 639, 640, 640 + 9 * extent.samples - 1)}
    seen = 0
    for position in sorted({*range(0, size, 11), *edges, records_end - 1, records_end, size - 1}):
        for _ in flip(victim / TAR, position, 1 << position % 8):
            assert TAR in str(damage(victim, shard, data.plan)), position
            if position < records_end:
                with pytest.raises(DataError, match=f"{TAR}, record .*: bytes differ from the index"):
                    list(data.batches("train", 0, batch_size=150))
                seen += 1
    assert seen > 700
    assert troubles(victim) == []


@pytest.mark.parametrize("name", ["manifest.json", INDEX])
def test_a_flipped_byte_anywhere_in_a_document_is_seen(name: str, victim: Path) -> None:
    size = (victim / name).stat().st_size
    for position in range(0, size, 1):
        for _ in flip(victim / name, position, 1 << position % 7):
            with pytest.raises(DataError, match=name):
                read(victim)


@pytest.mark.parametrize("name", ["manifest.json", INDEX])
def test_a_truncated_document_is_refused(name: str, victim: Path) -> None:
    data = (victim / name).read_bytes()
    for length in range(len(data)):
        (victim / name).write_bytes(data[:length])
        with pytest.raises(DataError, match=name):
            read(victim)


@settings(deadline=None)
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_document_in_another_text_encoding_is_refused(encoding: str, victim: Path) -> None:
    for name in ("manifest.json", INDEX):
        text = (victim / name).read_bytes().decode()
        (victim / name).write_bytes(text.encode(encoding))
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


def test_an_empty_tar_and_an_empty_index_are_refused(victim: Path) -> None:
    (victim / TAR).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{TAR}: \d+ bytes expected, 0 found"):
        read(victim)
    assert TAR in troubles(victim)[0]
    (victim / INDEX).write_bytes(b"")
    with pytest.raises(DataError, match=f"{INDEX}: not JSON"):
        read(victim)
    assert INDEX in troubles(victim)[0]


def test_a_directory_in_a_tar_s_place_is_refused(victim: Path) -> None:
    (victim / TAR).unlink()
    (victim / TAR).mkdir()
    assert TAR in troubles(victim)[0]
    with pytest.raises(DataError, match=TAR):
        read(victim)


def test_shards_of_another_plan_are_refused_by_identity(victim: Path, tmp_path: Path) -> None:
    other = bake(tmp_path / "other", seed=1)
    for name in (TAR, INDEX):
        shutil.copy(other / name, victim / name)
    with pytest.raises(DataError, match=f"{INDEX}: of another plan"):
        read(victim)
    (trouble,) = troubles(victim)
    assert "another plan" in trouble
    assert len(read(victim, epoch=1)) == 4


def test_a_tar_of_another_plan_under_the_right_index_is_refused(victim: Path, tmp_path: Path) -> None:
    shutil.copy(bake(tmp_path / "other", seed=1) / TAR, victim / TAR)
    with pytest.raises(DataError, match=f"{TAR}, record e000-r00000: bytes differ"):
        read(victim)
    assert len(troubles(victim)) == 1


@pytest.mark.parametrize("names", [("json",), ("tar",), ("json", "tar")])
def test_two_epochs_of_one_set_exchanged_are_refused(names: tuple[str, ...], victim: Path) -> None:
    for ending in names:
        first, second = (victim / f"train-e00{epoch}-000.{ending}" for epoch in (0, 1))
        first.rename(victim / "aside")
        second.rename(first)
        (victim / "aside").rename(second)
    for epoch in (0, 1):
        with pytest.raises(DataError, match=f"train-e00{epoch}-000"):
            read(victim, epoch)
    assert len(troubles(victim)) == 2


def test_a_shard_that_holds_another_epoch_s_samples_under_checksums_of_its_own_is_reported(victim: Path) -> None:
    # A forger replaces epoch 0 by epoch 1 and makes every checksum right; the tar headers still say e001.
    shutil.copy(victim / "train-e001-000.tar", victim / TAR)

    def rename(content: dict[str, Any]) -> None:
        content["shard"] = TAR
        for record in content["records"]:
            record["key"] = record["key"].replace("e001", "e000")

    shutil.copy(victim / "train-e001-000.json", victim / INDEX)
    reseal(victim / INDEX, rename)
    (trouble,) = troubles(victim)
    assert "headers or padding are not as the format has them" in trouble


def first(content: dict[str, Any]) -> dict[str, Any]:
    """Return an index's first record."""
    record: dict[str, Any] = content["records"][0]
    return record


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
        lambda c: first(c).update(xxh3="0" * 17),
        lambda c: first(c).update(xxh3="0x" + "0" * 14),
        lambda c: first(c).update(xxh3="\u0661" * 16),
        lambda c: first(c).update(xxh3=first(c)["xxh3"].upper() + "A"),
        lambda c: first(c).pop("xxh3"),
        lambda c: c.pop("records"),
    ],
)
def test_an_index_that_lies_under_a_checksum_of_its_own_is_refused(change: Change, victim: Path) -> None:
    reseal(victim / INDEX, change)
    with pytest.raises(DataError, match=INDEX):
        read(victim)
    (trouble,) = troubles(victim)
    assert INDEX in trouble


@pytest.mark.parametrize("false", ["0" * 32, "", "nonsense"])
def test_an_index_with_a_false_sum_over_the_archive_is_reported(false: str, victim: Path) -> None:
    reseal(victim / INDEX, lambda content: content.update(xxh3=false))
    (trouble,) = troubles(victim)
    assert TAR in trouble


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(version=2),
        lambda c: c.update(version=True),
        lambda c: c.update(version="1"),
        lambda c: c.update(format="tar"),
        lambda c: c.update(encoding="float64"),
        lambda c: c.update(encoding="object"),
        lambda c: c.update(encoding="O"),
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
            lambda c: c["source"].update(deviation=[0.0]),
        ),
    ],
)
def test_a_manifest_that_lies_under_a_checksum_of_its_own_is_refused(change: Change, victim: Path) -> None:
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
def test_a_manifest_with_sizes_that_the_shards_do_not_have_is_not_read_by(epoch: list[int], victim: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["splits"].update(train=[epoch])
        content["image_shape"] = epoch[1:]

    reseal_manifest(victim, change)
    with pytest.raises(DataError):
        read(victim)


def test_a_manifest_with_a_field_that_the_format_does_not_have_is_refused(victim: Path) -> None:
    reseal(victim / "manifest.json", lambda content: content.update(extra=1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        ShardSet(victim)


def test_a_manifest_with_a_shape_whose_product_overflows_is_refused(victim: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["source"].update(mean=[0.5] * 4, deviation=[0.5] * 4)
        content["splits"].update(train=[[150, 2**31, 2**31, 4]])
        content["image_shape"] = [2**31, 2**31, 4]

    reseal_manifest(victim, change)
    with pytest.raises(DataError):
        ShardSet(victim).missing()


LEAVES = st.none() | st.booleans() | st.integers(-(2**31), 2**16) | st.floats(0.01, 9) | st.text(max_size=3)
JSON = LEAVES | st.lists(LEAVES, max_size=4) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=3)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place in a JSON value as its container and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]


@settings(deadline=None, max_examples=200)
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
    try:
        found = read(victim)
        describe(ShardSet(victim))
        digest(ShardSet(victim))
        troubles(victim)
    except (DataError, UsageError):
        pass
    else:
        assert found == expected
    finally:
        shutil.copy(whole / name, victim / name)
