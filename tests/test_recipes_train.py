"""Recipes train: on digits, 1,500 images of 8x8, they beat a stated accuracy. `.ci/run` runs these, two at a time."""

from pathlib import Path

import pytest

import prebake
from prebake.precompute.augment import augmentation_for
from prebake.precompute.images import SourceData
from prebake.train.recipes import RECIPES
from tests.helpers.commands import Command, summary_of, the_run

# Epochs, batch size, peak learning rate and what is beaten. Batches are small, since 1,500 images make few steps else.
TRAINED = {
    "default": (4, 64, 0.1, 0.90),
    "page2018": (4, 64, 0.1, 0.90),
    "digits": (4, 64, 0.1, 0.90),
    "cnn94": (4, 64, 0.1, 0.90),
    "resnet20": (6, 64, 0.1, 0.90),
    "wrn22": (4, 64, 0.1, 0.90),
    "resnet18-concat": (4, 64, 0.1, 0.90),
    "fast": (6, 64, 0.5, 0.95),
    "resnet50": (5, 32, 0.02, 0.50),
    "resnet34-wide": (3, 64, 0.02, 0.50),  # three minutes of work already: 85 million parameters
}


def bake(digits: SourceData, augment: str, epochs: int, out: Path) -> Path:
    train, test = digits.splits["train"], digits.splits["test"]
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
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
def eight(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight epochs of digits; read only."""
    return bake(digits, "standard", 8, tmp_path_factory.mktemp("eight") / "digits")


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
def test_a_recipe_trains_on_digits(recipe: str, eight: Path, tmp_path: Path, command: Command) -> None:
    epochs, batch_size, rate, least = TRAINED[recipe]
    options = ("--recipe", recipe, "--epochs", epochs, "--batch-size", batch_size, "--lr", rate, "--device", "cpu")
    ended = command("--shards", eight, "--out", tmp_path, *options)
    assert ended.code == 0, ended.err
    summary = summary_of(the_run(tmp_path))
    assert summary["test_accuracy"] > least
    assert abs(summary["first_loss"] - 2.303) < 1
