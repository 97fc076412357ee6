"""A repair bakes the missing and damaged shards again, and changes nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prebake.loader.shard_set import ShardSet
from prebake.storage.lock import locked
from tests.attacks.hostile import reseal, reseal_manifest
from tests.helpers.asked import precompute_command, shards_command
from tests.helpers.forgery import KINDS, forge
from tests.helpers.small import files, flip_byte, stamps

HURT = ("train-e001-000.tar", "train-e001-000.json")


def gone(directory: Path) -> None:
    for name in HURT:
        (directory / name).unlink()


HARMS: dict[str, Callable[[Path], object]] = {
    "pixel": lambda d: flip_byte(d / HURT[0], 3000),
    "last byte": lambda d: flip_byte(d / HURT[0], -1),
    "cut": lambda d: (d / HURT[0]).write_bytes((d / HURT[0]).read_bytes()[:10_000]),
    "empty": lambda d: (d / HURT[0]).write_bytes(b""),
    "gone": lambda d: (d / HURT[0]).unlink(),
    "index": lambda d: flip_byte(d / HURT[1], 60),
    "index gone": lambda d: (d / HURT[1]).unlink(),
    "both gone": lambda d: gone(d),
    "another epoch's": lambda d: [shutil.copy(d / name.replace("e001", "e002"), d / name) for name in HURT],
    "another plan's": lambda d: reseal(d / HURT[1], lambda index: index.update(identity="0" * 32)),
    "a web page": lambda d: (d / HURT[0]).write_text("<!DOCTYPE html>"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of digits with a validation split and options of their own, baked by the command; read only."""
    root = tmp_path_factory.mktemp("repaired")
    options = (
        "--dataset digits --epochs 3 --val-fraction 0.13 --dtype uint8 --seed 8 --pad 2 --flip alternate --cutout 3"
    )
    baked = precompute_command(*options.split(), "--out", root)
    assert baked.status == 0, baked.said
    return root / "digits"


@pytest.fixture
def hurt(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, times and all."""
    return Path(shutil.copytree(whole, tmp_path / "some where/zahlen é"))


@pytest.mark.parametrize("harm", HARMS)
def test_repair_bakes_missing_and_damaged_shards_only(harm: str, hurt: Path, whole: Path) -> None:
    before = stamps(hurt), (hurt / "manifest.json").stat()
    HARMS[harm](hurt)
    repaired = precompute_command("repair", hurt)
    assert repaired.status == 0, repaired.said
    assert f"{hurt}: all 5 shards are whole\n" in repaired.said
    assert files(hurt) == files(whole)
    assert {name: stamp for name, stamp in stamps(hurt).items() if name not in HURT} == {
        name: stamp for name, stamp in before[0].items() if name not in HURT
    }
    manifest = (hurt / "manifest.json").stat()
    assert (manifest.st_mtime_ns, manifest.st_ino) == (before[1].st_mtime_ns, before[1].st_ino)


def test_nothing_is_written_where_nothing_is_damaged(hurt: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in hurt.iterdir() if path.name != "bake.lock"}
    assert precompute_command("repair", hurt).status == 0
    assert {path.name: path.stat().st_mtime_ns for path in hurt.iterdir() if path.name != "bake.lock"} == before


def test_repair_bakes_a_named_shard_again(hurt: Path, whole: Path) -> None:
    before = stamps(hurt)
    shard = ShardSet(hurt).plan.shards("train", 1)[0]
    forge(hurt, shard, 0, lambda frame: KINDS["bit"](frame, np.random.default_rng(0)))
    assert shards_command("verify", hurt).status == 0
    assert precompute_command("repair", hurt).status == 0
    assert files(hurt) != files(whole)
    assert precompute_command("repair", hurt, HURT[0], "--workers", 1).status == 0
    assert files(hurt) == files(whole)
    after = stamps(hurt)
    assert {name for name in after if after[name] != before[name]} == set(HURT)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train-e007-000.tar"], 2, "no shard named train-e007-000.tar is planned"),
        (["../manifest.json"], 2, "no shard named ../manifest.json is planned"),
        (["--workers", "0"], 2, "--workers: expected at least 1, found 0"),
    ],
)
def test_wrong_options_change_nothing(arguments: list[str], status: int, said: str, hurt: Path) -> None:
    before = files(hurt), stamps(hurt)
    refused = precompute_command("repair", hurt, *arguments)
    assert (refused.status, said in refused.said, "Traceback" in refused.said) == (status, True, False), refused.said
    assert (files(hurt), stamps(hurt)) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["source"]["sha256"].update(test="0" * 64), "source.sha256.test is '000"),
        (lambda m: m["source"].update(mean=[0.25]), "source.mean is [0.25]"),
        (
            lambda m: m["source"].update(name="mine"),
            "baked from pictures or arrays named 'mine', which the manifest does not locate",
        ),
        (lambda m: m["augmentation"].update(blur=1), "unknown fields blur"),
        (lambda m: m["augmentation"].update(transform="f", library="torch 0"), "with the transform f; name it"),
        (lambda m: m["splits"]["train"][0].__setitem__(0, 999), "the epochs of train are not those of digits's"),
    ],
)
def test_repair_refuses_another_source(change: Callable[[dict[str, Any]], object], said: str, hurt: Path) -> None:
    reseal_manifest(hurt, change)
    (hurt / HURT[0]).unlink()
    before = files(hurt), stamps(hurt)
    refused = precompute_command("repair", hurt, HURT[0])
    assert (refused.status, said in refused.said, "Traceback" in refused.said) == (3, True, False), refused.said
    assert (files(hurt), stamps(hurt)) == before


def test_a_set_that_is_being_baked_is_left_alone(hurt: Path) -> None:
    before = files(hurt)
    with locked(hurt):
        refused = precompute_command("repair", hurt, HURT[0])
    assert refused.status == 3
    assert "is baking here" in refused.said
    assert files(hurt) == before


@pytest.mark.parametrize("command", ["audit", "repair"])
def test_a_damaged_manifest_is_named(command: str, hurt: Path) -> None:
    flip_byte(hurt / "manifest.json", 70)
    refused = precompute_command(command, hurt)
    assert (refused.status, "Traceback" in refused.said) == (3, False)
    assert f"error: {hurt / 'manifest.json'}: " in refused.said


@pytest.mark.slow
def test_shards_of_a_transform_are_repaired_to_the_same_bytes(tmp_path: Path) -> None:
    options = ["--dataset", "digits", "--epochs", "1", "--augment", "trivial-augment-wide"]
    assert precompute_command(*options, "--out", tmp_path).status == 0
    before = files(tmp_path / "digits")
    (tmp_path / "digits" / "train-e000-000.tar").write_bytes(b"")
    assert precompute_command("repair", tmp_path / "digits").status == 0
    assert files(tmp_path / "digits") == before
