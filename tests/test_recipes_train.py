"""Recipes train: on 480 digits of 8x8, each exceeds a stated accuracy.

`.ci/run` runs all but resnet18-concat, resnet50 and resnet34-wide.
"""

from pathlib import Path

import pytest

import prebake
from prebake.precompute.augment import augmentation_for
from prebake.precompute.images import SourceData
from prebake.train.recipes import RECIPES
from tests.helpers.commands import Command, summary_of, the_run

IMAGES = 480
# Epochs, batch size, peak learning rate and the accuracy to exceed. Few images and small batches keep this short.
TRAINED = {
    "default": (3, 32, 0.1, 0.80),
    "page2018": (3, 32, 0.1, 0.80),
    "digits": (3, 32, 0.1, 0.80),
    "cnn94": (4, 32, 0.1, 0.60),
    "resnet20": (6, 32, 0.1, 0.80),
    "wrn22": (3, 32, 0.1, 0.60),
    "resnet18-concat": (5, 32, 0.02, 0.40),
    "fast": (6, 32, 0.5, 0.90),
    "resnet50": (5, 32, 0.02, 0.50),
    "resnet34-wide": (10, 32, 0.02, 0.50),  # 85 million parameters: too slow for `.ci/run`
}


def bake(digits: SourceData, augment: str, epochs: int, out: Path) -> Path:
    train, test = digits.splits["train"], digits.splits["test"]
    prebake.bake(
        train.images_NHWC[:IMAGES],
        train.labels_N[:IMAGES],
        test=(test.images_NHWC, test.labels_N),
        augment=augmentation_for(augment, mirror=False, side=8),
        classes=digits.classes,
        name="digits",
        recipe="digits",
        epochs=epochs,
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def ten(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten epochs of digits; read only."""
    return bake(digits, "standard", 10, tmp_path_factory.mktemp("ten") / "digits")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["resnet20", "fast"])
def test_shards_suggest_the_recipe_of_their_augmentation(
    recipe: str, digits: SourceData, tmp_path: Path, command: Command
) -> None:
    epochs, batch_size, rate, least = TRAINED[recipe]
    own = bake(digits, recipe, epochs, tmp_path / "digits")
    options = ("--epochs", epochs, "--batch-size", batch_size, "--lr", rate, "--device", "cpu")
    ended = command("--shards", own, "--out", tmp_path / "runs", *options)
    assert ended.code == 0, ended.err
    summary = summary_of(the_run(tmp_path / "runs"))
    assert summary["recipe"] == recipe
    assert summary["test_accuracy"] > least


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(reversed(RECIPES)))  # the longest first
def test_a_recipe_trains_on_digits(recipe: str, ten: Path, tmp_path: Path, command: Command) -> None:
    epochs, batch_size, rate, least = TRAINED[recipe]
    options = ("--recipe", recipe, "--epochs", epochs, "--batch-size", batch_size, "--lr", rate, "--device", "cpu")
    ended = command("--shards", ten, "--out", tmp_path, *options)
    assert ended.code == 0, ended.err
    summary = summary_of(the_run(tmp_path))
    assert summary["test_accuracy"] > least
    assert abs(summary["first_loss"] - 2.303) < 1
