"""Damaged and exchanged archives are refused, or reported, and never read as something else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import xxhash

from shards import DataError, ShardSet
from shards.verify import damage
from tests.attacks.hostile import INDEX, TAR, bake, flip, read, reseal, troubles


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
