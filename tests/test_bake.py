"""A bake: the same bytes with any number of workers, and every sample as drawn."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import prebake
from prebake.errors import UsageError
from prebake.format.columns import IMAGE_DTYPES
from prebake.loader.describe import digest
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, augmentation_for, draw
from prebake.precompute.images import SourceData
from tests.helpers.small import AUGMENTATION, IMAGES, LABELS, TEST, bake, files
from tests.helpers.views import choices_at, view


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
def test_one_worker_and_three_write_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    one = bake(tmp_path / "one", dtype=dtype, workers=1)
    three = bake(tmp_path / "three", dtype=dtype, workers=3)
    assert len(files(one.path)) == 1 + 2 * 5
    assert files(one.path) == files(three.path)
    assert digest(one) == digest(three)


def test_every_epoch_has_each_image_once_in_a_new_order(baked: ShardSet) -> None:
    orders, labels_of = [], []
    for epoch in range(2):
        records = [(record.index_N.copy(), record.labels_N.copy()) for record in baked.records("train", epoch)]
        order = np.concatenate([index for index, _ in records])
        assert sorted(order.tolist()) == list(range(1350))
        orders.append(order.tolist())
        labels_of.append(dict(zip(order.tolist(), np.concatenate([labels for _, labels in records]), strict=True)))
    assert labels_of[0] == labels_of[1]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_every_sample_is_the_view_of_its_draw(done: Path) -> None:
    data = ShardSet(done)
    source = data.plan.source
    kept = np.concatenate([record.index_N for record in data.records("val")])
    assert kept.tolist() == list(range(30))
    train_images, train_labels = held_in()
    for epoch in range(3):
        drawn = draw(AUGMENTATION, 0, epoch, 0, 270, (6, 7, 3))
        for record in data.records("train", epoch):
            images, labels, index = record.images_NHWC, record.labels_N, record.index_N
            assert labels.tolist() == train_labels[index].tolist()
            for image, i in zip(images, index, strict=True):
                choices = choices_at(drawn, int(i))
                made = view(train_images[i], AUGMENTATION, choices, source.mean, source.std, "float16")
                assert image.tobytes() == made.tobytes()


def held_in() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the training images that the validation split leaves, and check that it takes the others."""
    from prebake.precompute.images import Images, hold_out

    cut = hold_out(SourceData("images", ("a",), {"train": Images(IMAGES, LABELS)}), 0.1).splits
    assert len(cut["val"].labels_N) == 30
    return cut["train"].images_NHWC, cut["train"].labels_N


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
def test_the_test_split_is_the_source_in_its_order(dtype: str, tmp_path: Path) -> None:
    data = bake(tmp_path / "set", dtype=dtype, epochs=1)
    ((images, labels),) = data.batches("test", batch_size=100)
    pixels, expected_labels = TEST
    if dtype == "uint8":
        assert np.array_equal(images, pixels)
    else:
        mean, std = np.array(data.plan.source.mean), np.array(data.plan.source.std)
        assert images.tobytes() == ((pixels / 255 - mean) / std).astype(dtype).tobytes()
    assert labels.tolist() == expected_labels.tolist()
    assert np.concatenate([record.index_N for record in data.records("test")]).tolist() == list(range(40))


def test_validation_and_training_images_together_are_the_source(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", dtype="uint8", augment="plain", epochs=1)
    assert (data.samples("train"), data.samples("val")) == (270, 30)
    pairs = [pair for split in ("train", "val") for pair in data.batches(split, batch_size=300)]
    found = sorted(
        image.tobytes() + bytes([label])
        for images, labels in pairs
        for image, label in zip(images, labels, strict=True)
    )
    assert found == sorted(image.tobytes() + bytes([label]) for image, label in zip(IMAGES, LABELS, strict=True))


def test_statistics_are_of_the_training_images_alone(done: Path) -> None:
    images, _ = held_in()
    source = ShardSet(done).plan.source
    np.testing.assert_allclose(source.mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(source.std, images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_grey_images_without_a_channel_axis_get_one(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", images=IMAGES[..., 0], test=None, classes=None, val_fraction=0, epochs=1)
    assert data.image_shape("train") == (6, 7, 1)
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.splits == ("train",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "--epochs: expected at least 1, found 0"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed"),
        ({"dtype": "float64"}, "--dtype: expected one of float16, uint8, float32"),
        ({"augment": "strong"}, "--augment: no augmentation named 'strong'; there are standard, plain"),
        ({"augment": Augmentation("standard", 6, "reflect", "none", 0)}, "--pad"),
        ({"augment": Augmentation("standard", 0, "reflect", "none", 7)}, "--cutout"),
        ({"val_fraction": 1.5}, "--val-fraction"),
        ({"val_fraction": 0.0001}, "--val-fraction"),
        ({"images": IMAGES.astype(np.float32)}, "images: expected uint8"),
        ({"images": IMAGES[0, 0]}, "images: expected uint8"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images: expected uint8"),
        ({"images": IMAGES[:, :0]}, "images: expected uint8"),
        ({"labels": LABELS[:-1]}, "images: expected 300 labels, one per image, found 299"),
        ({"labels": LABELS[:, None]}, r"labels of train: expected shape \(N,\), found \(300, 1\)"),
        ({"labels": LABELS.astype(float)}, "labels of train: expected whole numbers, bool or text, found float64"),
        ({"labels": LABELS - 1}, "labels of train: expected labels from 0, found -1 to 3"),
        ({"labels": LABELS + 5}, "labels of train: found 9, but there are only 5 classes"),
        ({"test": (TEST[0][:, :5], TEST[1])}, "test images: expected"),
        ({"test": (TEST[0], TEST[1] + 5)}, "labels of test: found 9"),
        ({"test": (TEST[0], TEST[1][:3])}, "test images: expected 40 labels, one per image, found 3"),
        ({"test": (TEST[0].astype(np.int64), TEST[1])}, "test images: expected uint8"),
        ({"workers": -1}, "workers"),
        ({"workers": 0}, "workers"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**64 - 9)}, "labels"),
    ],
)
def test_arguments_outside_their_range_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        bake(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory that is too large to be kept."""
    yield tmp_path / "large"
    shutil.rmtree(tmp_path / "large", ignore_errors=True)


@pytest.mark.parametrize(("dtype", "epochs"), [pytest.param("float16", 2, marks=pytest.mark.slow), ("uint8", 1)])
def test_samples_of_cifar10_are_the_views_of_their_draws(
    dtype: str, epochs: int, cifar10: SourceData, scratch: Path, rng: np.random.Generator
) -> None:
    train = cifar10.splits["train"]
    augmentation = augmentation_for()
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
        classes=cifar10.classes,
        name="cifar10",
        mirror=True,
        dtype=dtype,
        epochs=epochs,
        out=scratch,
    )
    data = ShardSet(scratch)
    source = data.plan.source
    np.testing.assert_allclose(source.mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
    np.testing.assert_allclose(source.std, (0.2470, 0.2435, 0.2616), atol=1e-4)
    checked = 0
    for epoch in range(epochs):
        drawn = draw(augmentation, 0, epoch, 0, 50_000, (32, 32, 3))
        seen = np.zeros(50_000, bool)
        for record in data.records("train", epoch):
            images, labels, index = record.images_NHWC, record.labels_N, record.index_N
            seen[index] = True
            assert np.array_equal(labels, train.labels_N[index])
            if rng.random() < 0.9:
                at = int(rng.integers(len(index)))
                i = int(index[at])
                made = view(train.images_NHWC[i], augmentation, choices_at(drawn, i), source.mean, source.std, dtype)
                assert images[at].tobytes() == made.tobytes()
                checked += 1
        assert seen.all()
    assert checked >= 300


@pytest.mark.slow
def test_25_epochs_of_cifar10_are_25_permutations(cifar10: SourceData, scratch: Path) -> None:
    train = cifar10.splits["train"]
    prebake.bake(train.images_NHWC, train.labels_N, classes=cifar10.classes, name="cifar10", epochs=25, out=scratch)
    data = ShardSet(scratch)
    orders = set()
    for epoch in range(25):
        order = np.concatenate([record.index_N.copy() for record in data.records("train", epoch)])
        assert np.array_equal(np.sort(order), np.arange(50_000))
        orders.add(order.tobytes())
    assert len(orders) == 25


@pytest.mark.parametrize("name", ["../x", "", "a b", ".hidden", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name: expected"):
        bake(tmp_path / "set", name=name)


def test_classes_that_are_no_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classes: expected strings"):
        bake(tmp_path / "set", classes=range(10))


def test_the_number_of_workers_defaults_to_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    class Noting(ThreadPoolExecutor):
        def __init__(self, workers: int | None = None) -> None:
            asked.append(workers)
            super().__init__(workers)

    monkeypatch.setattr("prebake.precompute.augment.crop_flip_cutout.ThreadPoolExecutor", Noting)
    monkeypatch.setattr("prebake.precompute.augment.crop_flip_cutout.BLOCK_BYTES", 4096)
    monkeypatch.setattr("prebake.precompute.workers.ThreadPoolExecutor", Noting)
    bake(tmp_path / "one", epochs=1, workers=1)
    assert set(asked) == {1}
    asked.clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    bake(tmp_path / "three", epochs=1)
    assert set(asked) == {3}
