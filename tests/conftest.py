"""What all tests share: real data, and a bake of it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import precompute
from precompute.sources import SourceData, load
from shards import ShardSet

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


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)
