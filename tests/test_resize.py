"""Progressive resizing: smaller images first, padding and cutout in proportion."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

import prebake
from prebake.errors import DataError, UsageError
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, at_side, resized, sides, torchvision_transform
from prebake.precompute.images import SourceData
from tests.helpers.commands import ON_CPU, Command, log_of, summary_of, the_run
from tests.helpers.small import IMAGES, LABELS, bake, files

AUGMENTATION = Augmentation("standard", pad=2, pad_mode="reflect", flip="random", cutout=2, resize="4:2,6")


@pytest.fixture(scope="module")
def grown(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Digits at 8 pixels, as they are, and then at 12; read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("grown") / "digits"
    prebake.bake(
        train.images_NHWC[:200],
        train.labels_N[:200],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        augment=Augmentation("standard", 1, "reflect", "none", 2, resize="8:1,12"),
        name="digits",
        recipe="digits",
        epochs=3,
        out=out,
    )
    return ShardSet(out)


def test_epochs_have_the_given_sides_and_then_the_last_one() -> None:
    assert sides("16:2,24:1,32", 5, 28) == [16, 16, 24, 32, 32, 32]
    assert sides("16:2,24:1,32", 2, 28) == [16, 16, 32]
    assert sides("none", 2, 28) == [28, 28, 28]
    for wrong in ("16:5", "16:5,", "a", "16:5,24:", "-1", "16:x,32", "16:0,32"):
        with pytest.raises(UsageError, match="expected SIDE:EPOCHS"):
            sides(wrong, 3, 28)


def test_padding_cutout_and_the_longer_side_change_in_proportion() -> None:
    standard = Augmentation("standard", 4, "reflect", "random", 8, resize="16:1,32")
    small, shape = at_side(standard, (32, 48, 3), 16)
    assert (small.pad, small.cutout, small.resize, shape) == (2, 4, "none", (16, 24, 3))


def test_resized_images_are_those_of_torchvision(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (5, 32, 20, 3), dtype=np.uint8)
    expected = functional.resize(torch.from_numpy(images).permute(0, 3, 1, 2), [16, 10], antialias=True)
    assert np.array_equal(resized(images, (16, 10, 3)), expected.permute(0, 2, 3, 1).numpy())
    assert resized(images, (32, 20, 3)) is images


def test_a_bake_has_the_sizes_and_the_pixels_that_were_planned(tmp_path: Path) -> None:
    data = bake(tmp_path / "set", augment=AUGMENTATION, epochs=4)
    assert [data.image_shape("train", epoch) for epoch in range(4)] == [(4, 5, 3)] * 2 + [(6, 7, 3)] * 2
    assert data.image_shape("test") == data.image_shape("val") == (6, 7, 3)
    assert [damage(data.path, shard, data.plan) for shard in data.plan.shards()] == [None] * 6
    assert "torchvision" in data.plan.augmentation["library"]
    plain = Augmentation("plain", 0, "reflect", "none", 0, resize="4:1,6")
    pixels = bake(tmp_path / "plain", augment=plain, epochs=1, dtype="uint8", val_fraction=0)
    small = resized(IMAGES, (4, 5, 3))
    for record in pixels.records("train"):
        images, labels, index = record.images_NHWC, record.labels_N, record.index_N
        assert np.array_equal(images, small[index])
        assert np.array_equal(labels, LABELS[index])


def test_added_epochs_have_their_planned_size(tmp_path: Path) -> None:
    at_once = bake(tmp_path / "at once", augment=AUGMENTATION, epochs=4)
    for epochs in (1, 3, 4, 2):
        data = bake(tmp_path / "set", augment=AUGMENTATION, epochs=epochs)
    assert files(data.path) == files(at_once.path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resize": "1:1,6", "pad": 4}, "--pad: reflecting needs fewer than 1 pixels"),
        ({"transform": torchvision_transform("RandAugment")}, "--resize: not with a transform"),
        ({"resize": "6:2"}, "--resize: expected SIDE:EPOCHS"),
    ],
)
def test_an_invalid_resize_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        bake(tmp_path / "set", augment=replace(AUGMENTATION, **changes), epochs=2)


@pytest.mark.slow
def test_training_follows_the_sizes_and_is_judged_at_the_last(
    grown: ShardSet, tmp_path: Path, command: Command
) -> None:
    options = ("--shards", grown.path, "--recipe", "digits", "--epochs", 3, *ON_CPU)
    ended = command(*options, "--out", tmp_path)
    assert ended.code == 0, ended.err
    run = the_run(tmp_path)
    assert [line["epoch"] for line in log_of(run) if line["event"] == "epoch"] == [0, 1, 2]
    assert summary_of(run)["test_accuracy"] is not None
    assert "of 12x12" not in ended.err
    few = command(*options, "--epochs", 1, "--out", tmp_path / "few")
    assert "digits: the last epoch has images of 8x8, test of 12x12\n" in few.err


def test_an_audit_finds_another_resizing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"augment": AUGMENTATION, "epochs": 3, "val_fraction": 0, "test": None, "classes": None}
    prebake.audit(IMAGES, LABELS, out=bake(tmp_path / "right", **options).path, sample=100)
    monkeypatch.setattr("prebake.precompute.images.resized", lambda images, shape: images[:, : shape[0], : shape[1]])
    wrong = bake(tmp_path / "wrong", **options)
    with pytest.raises(DataError, match="images differ from what source and plan give"):
        prebake.audit(IMAGES, LABELS, out=wrong.path, sample=100)
