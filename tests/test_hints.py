"""Hints: planted faults are found, in given results and in real training; good runs have none."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prebake
import prebake.precompute.plan
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.precompute.images import SourceData
from prebake.train.report.hints import Facts, hints
from prebake.train.report.samples import input_statistics
from prebake.train.report.scores import ClassScore
from tests.helpers.commands import ON_CPU, Command, the_run
from tests.helpers.nets import MLP

PLAIN = Augmentation("plain", pad=0, pad_mode="zero", flip="none", cutout=0)
GOOD = Facts(
    classes=tuple("0123456789"),
    first_loss=2.4,
    train_accuracy=[0.5, 0.9, 0.995],
    held_out="test",
    held_out_images=1000,
    held_out_loss=[1.2, 0.5, 0.3],
    held_out_accuracy=[0.6, 0.9, 0.95],
    utilization=0.99,
    mean=[0.1],
    std=[0.9],
    scores=[ClassScore(label, 100, 0.95, 0.95, None) for label in range(10)],
)
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"mean": [0.0, 120.0]}, "The inputs are not normalized: their channels have mean 0, 120"),
    ({"std": [0.01]}, "The inputs are not normalized"),
    ({"first_loss": 40.0}, "The first loss was 40.00; an untrained model on 10 classes should have about 2.30."),
    ({"first_loss": 0.5}, "The first loss was 0.50"),
    (
        {"held_out_accuracy": [0.1, 0.1, 0.12]},
        "the model memorizes images. The labels of train or test may be",
    ),
    (
        {"held_out_accuracy": [0.1, 0.1, 0.12], "train_accuracy": [0.1, 0.1, 0.11]},
        "The test accuracy, 12.0 %, is at chance level, and so is the training accuracy, 11.0 %",
    ),
    (
        {"classes": tuple(map(str, range(1000))), "first_loss": math.log(1000)}
        | {"held_out_accuracy": [0.001], "held_out_loss": [6.9], "train_accuracy": [0.2]},
        "the model memorizes images. The labels of train or test may be",
    ),
    (
        {"classes": tuple("01"), "first_loss": math.log(2), "train_accuracy": [0.6], "held_out_accuracy": [0.6]}
        | {"held_out_loss": [0.65]},
        "Underfitting: after 1 epochs the training accuracy is only 60.0 %.",
    ),
    ({"held_out_accuracy": [0.6, 0.8, 0.89]}, "Overfitting: the training accuracy is 99.5 %, the test accuracy 89.0 %"),
    ({"held_out_loss": [0.9, 0.4, 0.6]}, "The test loss was lowest after epoch 2 (0.400) and rose to 0.600"),
    (
        {"train_accuracy": [0.2, 0.3, 0.35], "held_out_accuracy": [0.2, 0.3, 0.4]},
        "Underfitting: after 3 epochs the training accuracy is only 35.0 %.",
    ),
    (
        {"held_out": None, "held_out_loss": [], "held_out_accuracy": [], "scores": [], "train_accuracy": [0.3]},
        "Underfitting",
    ),
    ({"scores": [ClassScore(3, 100, 0.0, None, (1, 100))]}, "No image of 3 was recognized."),
    ({"utilization": 0.62}, "The device waited for data during 38.0 % of the training time."),
]


@pytest.mark.parametrize(("changes", "sentence"), FAULTS, ids=[str(number) for number in range(len(FAULTS))])
def test_fault_gets_exactly_one_hint(changes: dict[str, Any], sentence: str) -> None:
    (hint,) = hints(replace(GOOD, **changes))
    assert sentence in hint


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"held_out": None, "held_out_loss": [], "held_out_accuracy": [], "scores": []},
        {"mean": None, "std": None},
        {"classes": tuple("01"), "first_loss": math.log(2), "held_out_accuracy": [0.8], "held_out_loss": [0.4]}
        | {"train_accuracy": [0.8]},
        {"held_out_loss": [0.3, 0.29, 0.31]},
    ],
)
def test_good_results_have_no_hints(changes: dict[str, Any]) -> None:
    assert hints(replace(GOOD, **changes)) == []


Train = Callable[..., list[str]]


@pytest.fixture
def hints_of(digits: SourceData, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Bake that many digits, train the MLP on them, and return the hints of its report."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # drawing takes time

    def run(samples: int, *options: object, shuffled: bool = False, **baking: Any) -> list[str]:
        train, test = digits.splits["train"], digits.splits["test"]
        labels = train.labels_N[:samples]
        prebake.bake(
            train.images_NHWC[:samples],
            np.random.default_rng(0).permutation(labels) if shuffled else labels,
            test=(test.images_NHWC, test.labels_N),
            classes=digits.classes,
            name="digits",
            recipe="digits",
            epochs=1,
            out=tmp_path / "set",
            **baking,
        )
        chosen = ("--shards", tmp_path / "set", "--out", tmp_path / "runs", "--replay", "--model", MLP)
        ended = command(*chosen, *options, *ON_CPU)
        assert ended.code == 0, ended.err
        page = (the_run(tmp_path / "runs") / "report.html").read_text()
        box = page.split('<div class="hints')[1].split("</div>")[0]
        found = [line.split("</p>")[0] for line in box.split("<p>")[1:]]
        # A model whose step takes a millisecond may wait for data.
        return [hint for hint in found if not hint.startswith("The device waited")]

    return run


LONG = ("--epochs", 100, "--batch-size", 50, "--lr", 0.05)


def test_good_training_has_no_hints(hints_of: Train) -> None:
    assert hints_of(1500, "--epochs", 4, "--lr", 0.05, augment=PLAIN) in ([], ["No problems found."])


def test_training_on_unnormalized_inputs_has_hints(hints_of: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    # The trainer divides by 1/255, so pixels stay in 0 to 255.
    monkeypatch.setattr(prebake.precompute.plan, "channel_statistics", lambda _: ((0.0,), (1 / 255,)))
    inputs, first_loss, *_ = hints_of(500, "--epochs", 1, "--lr", 1e-4, dtype="uint8", augment=PLAIN)
    assert inputs.startswith("The inputs are not normalized")
    assert first_loss.startswith("The first loss was ")


def test_training_on_shuffled_labels_has_a_hint(hints_of: Train) -> None:
    found = hints_of(200, *LONG, shuffled=True, augment=PLAIN)
    assert "is at chance level, but the training accuracy is" in found[0]
    assert not any("fitting:" in hint for hint in found)


def test_training_on_few_images_has_an_overfitting_hint(hints_of: Train) -> None:
    (found,) = hints_of(50, *LONG, augment=PLAIN)
    assert found.startswith("Overfitting: the training accuracy is 100.0 %")


def test_input_statistics_use_images_of_all_classes(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 200)
    images = np.where(labels == 0, 20, 230).astype(np.uint8).repeat(64).reshape(400, 8, 8)
    prebake.bake(images, labels, test=(images, labels), augment=PLAIN, name="two", epochs=2, out=tmp_path)
    for dropped in ("nothing", "train-e000-*"):
        for path in tmp_path.glob(dropped):
            path.unlink()
        found = input_statistics(ShardSet(tmp_path))
        assert found is not None
        ((mean,), (std,)) = found
        assert abs(mean) < 0.3
        assert abs(std - 1) < 0.1
    for path in tmp_path.glob("train-*"):
        path.unlink()
    assert input_statistics(ShardSet(tmp_path)) is not None
    for path in tmp_path.glob("test-*"):
        path.unlink()
    assert input_statistics(ShardSet(tmp_path)) is None


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_davidnet_gets_hints_for_few_images_or_bad_labels(hints_of: Train, shuffled: bool) -> None:
    options = ("--model", "davidnet", "--epochs", 20, "--batch-size", 20)
    found = hints_of(60, *options, shuffled=shuffled, augment=PLAIN)
    assert ("at chance level" if shuffled else "Overfitting") in found[0]
