"""Format version 2, byte for byte."""

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
    "float16": "69f4d0bd76fa40e9ad86732b9ea146b21bb0eaa82846d64e0f436efdef56d29e",
    "uint8": "ce691389f2d4d19d3df691c8f2e5ede63a54176fccffe4e890d7cc6885017947",
}
# What the golden files are too small for, as digests of whole sets: several records a shard, the last one short,
# a validation split, each way to pad and to flip, each encoding.
PINNED: dict[str, tuple[dict[str, Any], str]] = {
    "float32, zero, alternate": (
        {"dtype": "float32", "augment": Augmentation("pinned", 3, "zero", "alternate", 3)},
        "59242727c7f7bf50520738834c96f5722ac783e43f5a225dcdeeba051bb12097",
    ),
    "float16, black, none": (
        {"dtype": "float16", "augment": Augmentation("pinned", 1, "black", "none", 0), "seed": 2**63 - 1},
        "58296256ab3762419d1dfc95fc14825986e40fcfbeb082734cecd322170463c8",
    ),
    "uint8, zero, random": (
        {"dtype": "uint8", "augment": Augmentation("pinned", 2, "zero", "random", 5), "val_fraction": 0.25},
        "d30e3c75e326d6557b862792ba84bc05c1a35936ec65c15d40c7488f25dec0e7",
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_a_larger_bake_has_the_digest_of_format_version_2(name: str, tmp_path: Path) -> None:
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
def test_the_golden_files_are_those_of_format_version_2(dtype: str) -> None:
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
        assert [record.index_N.tolist() for record in data.records("train", epoch)] == [order]
