"""Format version 1, byte for byte."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prebake
from prebake.loader.describe import digest
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from tests.golden.make import ENCODINGS, HERE, bake_golden

FILES = [
    "manifest.json",
    "test-000.json",
    "test-000.tar",
    "train-e000-000.json",
    "train-e000-000.tar",
    "train-e001-000.json",
    "train-e001-000.tar",
]
# SHA-256 over all files, in this order: a second lock on the door, for those who regenerate in passing.
SUMS = {
    "float16": "19741aeabffb040ec9cafee7ac8ffb949e400292232d6f5b9929ee2df6729c8e",
    "uint8": "02f581723c5672dac8ca8207df9fde9e1aa338cc9212c29c1c2fbcc76b8cbfbf",
}
# What the golden files are too small for, as digests of whole sets: several records a shard, the last one short,
# a validation split, each way to pad and to flip, each encoding.
PINNED: dict[str, tuple[dict[str, Any], str]] = {
    "float32, zero, alternate": (
        {"dtype": "float32", "augment": Augmentation("pinned", 3, "zero", "alternate", 3)},
        "9a00ce2dc56d8edafcebcf4bb4f28b60f0572a02e83b74668bf3415bac5b7fa9",
    ),
    "float16, black, none": (
        {"dtype": "float16", "augment": Augmentation("pinned", 1, "black", "none", 0), "seed": 2**63 - 1},
        "100495c58785037b8fd7516a90d3540404ae38528e9399c0ce10734d4b18703f",
    ),
    "uint8, zero, random": (
        {"dtype": "uint8", "augment": Augmentation("pinned", 2, "zero", "random", 5), "val_fraction": 0.25},
        "f912640a1462e0b8ee85923f51f9b52a69474bb3b685d468951ae5edb289df2a",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_a_larger_bake_has_the_digest_of_format_version_1(name: str, tmp_path: Path) -> None:
    options, pinned = PINNED[name]
    pixels = (np.arange(700 * 9 * 8 * 3) * 37 % 251).astype(np.uint8).reshape(700, 9, 8, 3)
    labels = np.arange(700) % 7
    test = pixels[600:], labels[600:]
    prebake.bake(pixels[:600], labels[:600], test=test, epochs=3, out=tmp_path / "set", **options)
    assert digest(ShardSet(tmp_path / "set")) == pinned


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_a_bake_is_the_golden_files_byte_for_byte(dtype: str, tmp_path: Path) -> None:
    bake_golden(dtype, tmp_path / "set")
    assert sorted(path.name for path in (HERE / dtype).iterdir()) == FILES
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "set" / name).read_bytes() == (HERE / dtype / name).read_bytes(), name


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_the_golden_files_are_those_of_format_version_1(dtype: str) -> None:
    whole = hashlib.sha256(b"".join((HERE / dtype / name).read_bytes() for name in FILES))
    assert whole.hexdigest() == SUMS[dtype]


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_the_golden_files_are_read(dtype: str) -> None:
    data = ShardSet(HERE / dtype)
    assert (data.name, data.epochs, data.classes) == ("golden", 2, ("zero", "one", "two"))
    images, labels = next(data.batches("test", batch_size=2))
    pixels = (np.arange(5 * 48, 7 * 48) * 37 % 256).reshape(2, 4, 4, 3)
    mean, std = np.array(data.plan.source.mean), np.array(data.plan.source.std)
    np.testing.assert_allclose(data.normalize(images), (pixels / 255 - mean) / std, rtol=1e-3, atol=1e-3)
    assert labels.tolist() == [2, 1]
    for epoch, order in ((0, [4, 1, 3, 2, 0]), (1, [0, 3, 1, 4, 2])):
        assert [index_N.tolist() for _, _, index_N in data.records("train", epoch)] == [order]
