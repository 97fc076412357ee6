"""Format version 2, byte for byte."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prebake
from prebake.errors import UsageError
from prebake.format.verify import damage
from prebake.loader.describe import digest
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.loader.soft_labels import SoftLabels
from prebake.precompute.augment import Augmentation
from tests.golden.make import HERE, SETS

# SHA-256 over all files, in the order of their names. They stay the same if somebody writes the golden files again.
SUMS = {
    "columns": "4999665a1aa610da1db5a7b6e5b625629c40c6d362e32612e573d6e3dc9e5d1f",
    "float16": "69f4d0bd76fa40e9ad86732b9ea146b21bb0eaa82846d64e0f436efdef56d29e",
    "uint8": "ce691389f2d4d19d3df691c8f2e5ede63a54176fccffe4e890d7cc6885017947",
}
# Digests of larger sets: several records per shard, the last one short, a validation split, each way to pad and to
# flip, each dtype.
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


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of all files by their names."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", PINNED)
def test_a_larger_bake_has_the_pinned_digest(name: str, tmp_path: Path) -> None:
    options, pinned = PINNED[name]
    pixels = (np.arange(700 * 9 * 8 * 3) * 37 % 251).astype(np.uint8).reshape(700, 9, 8, 3)
    labels = np.arange(700) % 7
    test = pixels[600:], labels[600:]
    prebake.bake(pixels[:600], labels[:600], test=test, epochs=3, out=tmp_path / "set", **options)
    assert digest(ShardSet(tmp_path / "set")) == pinned


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_written_to_the_golden_bytes(name: str, tmp_path: Path) -> None:
    SETS[name](tmp_path / "set")
    assert files(tmp_path / "set") == files(HERE / name)


@pytest.mark.parametrize("name", SETS)
def test_the_golden_files_are_those_of_version_2(name: str) -> None:
    whole = hashlib.sha256(b"".join(content for _, content in sorted(files(HERE / name).items())))
    assert whole.hexdigest() == SUMS[name]


@pytest.mark.parametrize("name", SETS)
def test_the_golden_files_are_verified_and_read(name: str) -> None:
    data = ShardSet(HERE / name)
    assert (data.name, data.epochs, data.classes) == ("golden", 2, ("zero", "one", "two"))
    assert [damage(data.path, shard, data.plan) for shard in data.plan.shards()] == [None] * len(data.plan.shards())


@pytest.mark.parametrize("name", ["float16", "uint8"])
def test_the_golden_views_have_their_order_and_pixels(name: str) -> None:
    data = ShardSet(HERE / name)
    images, labels = next(data.batches("test", batch_size=2))
    pixels = (np.arange(5 * 48, 7 * 48) * 37 % 256).reshape(2, 4, 4, 3)
    mean, std = np.array(data.plan.source.mean), np.array(data.plan.source.std)
    np.testing.assert_allclose(data.normalize(images), (pixels / 255 - mean) / std, rtol=1e-3, atol=1e-3)
    assert labels.tolist() == [2, 1]
    for epoch, order in ((0, [4, 1, 3, 2, 0]), (1, [0, 3, 1, 4, 2])):
        assert [record.index_N.tolist() for record in data.records("train", epoch)] == [order]


def test_golden_columns_are_read_by_name() -> None:
    data = ShardSet(HERE / "columns")
    assert data.columns == {
        "images": ("float32", (2, 3, 2)),
        "index": ("uint32", ()),
        "labels": ("int64", ()),
        "mask": ("bool", (2, 3)),
        "target": ("float64", ()),
    }
    ((images, mask, target, index),) = data.batches(
        "train", 1, batch_size=3, columns=("images", "mask", "target", "index")
    )
    assert np.array_equal(images, np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2))
    assert np.array_equal(mask, np.arange(18).reshape(3, 2, 3) % 2 == 1)
    assert mask.dtype.name == "bool"
    assert (target.tolist(), index.tolist()) == ([0.0, 1.0, 2.0], [0, 1, 2])
    (record,) = data.records("train", 0)
    assert np.array_equal(record["mask"], mask)
    assert data.normalize(record.images_NHWC).tolist() == record.images_NHWC.tolist()
    with SoftLabels(data, "teacher", epochs=1).open(data.plan.shards("train", 0)[0]) as reader:
        assert np.array_equal(reader.read(0), np.arange(9).reshape(3, 3) / 8)


def test_the_loader_hands_out_golden_columns() -> None:
    with Loader(HERE / "columns", batch_size=3, columns=("mask", "target", "index")) as loader:
        (mask, target, index) = next(iter(loader))
    assert torch.equal(mask, torch.arange(18).reshape(3, 2, 3) % 2 == 1)
    assert torch.equal(target, torch.arange(3, dtype=torch.float64))
    assert torch.equal(index, torch.arange(3))


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(UsageError, match="no column named 'depth'; there are images, index, labels, mask, target"):
        ShardSet(HERE / "columns").batches("train", batch_size=1, columns=["depth"])
