"""What all tests share: real data, and a bake of it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import precompute
from precompute.sources import SourceData, load
from shards import ShardSet
from train.loop import Settings, Trainer
from train.recipes import recipe_for

# The nets here are tiny: a second thread would cost more than it gives.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> SourceData:
    """scikit-learn's digits, real data that is always at hand."""
    return load("digits", Path("unused"))


@pytest.fixture(scope="session")
def baked(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of digits in float16, with a validation split; read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("baked") / "digits"
    precompute.bake(
        train.images_NHWC,
        train.labels_N,
        test=(test.images_NHWC, test.labels_N),
        classes=digits.classes,
        name="digits",
        val_fraction=0.1,
        epochs=2,
        out=out,
    )
    return ShardSet(out)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """A torchvision root with the official sets, where PREBAKE_DATA names one."""
    root = os.environ.get("PREBAKE_DATA")
    if not root:
        pytest.skip("PREBAKE_DATA names no torchvision root")
    return Path(root)


@pytest.fixture(scope="session")
def cifar10(data_dir: Path) -> SourceData:
    """CIFAR-10, loaded once."""
    return load("cifar10", data_dir)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of 200 digits, and 100 to test: three steps of 64 an epoch; read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("tiny") / "digits"
    precompute.bake(
        train.images_NHWC[:200],
        train.labels_N[:200],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        classes=digits.classes,
        name="digits",
        epochs=2,
        out=out,
    )
    return ShardSet(out)


@pytest.fixture(scope="session")
def trained(tiny: ShardSet) -> Trainer:
    """A trainer that has done its two epochs on the tiny digits; nobody may train it further."""
    trainer = Trainer(tiny, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32"))
    for _ in trainer.run():
        pass
    return trainer
