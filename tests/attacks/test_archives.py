"""Damaged and exchanged archives are refused, or reported, and never read as something else."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from prebake.errors import DataError
from prebake.loader.shard_set import ShardSet
from tests.attacks.hostile import INDEX, TAR, bake, read, reseal, troubles


def test_the_set_before_an_attack_is_complete(whole: Path) -> None:
    assert troubles(whole) == []
    assert len(read(whole)) == 4
    assert [extent.samples for extent in next(ShardSet(whole).open_shards("train")).index.extents] == [128, 22]


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


def test_samples_of_another_epoch_are_found_by_their_keys(victim: Path) -> None:
    # A forger replaces epoch 0 by epoch 1 and makes every checksum right; the tar headers still say e001.
    shutil.copy(victim / "train-e001-000.tar", victim / TAR)

    def rename(content: dict[str, Any]) -> None:
        content["shard"] = TAR
        for record in content["records"]:
            record["key"] = record["key"].replace("e001", "e000")

    shutil.copy(victim / "train-e001-000.json", victim / INDEX)
    reseal(victim / INDEX, rename)
    (trouble,) = troubles(victim)
    assert "headers or padding differ from the format" in trouble
