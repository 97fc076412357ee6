"""What all tests share: real data, and a bake of it."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

import prebake
import prebake.cli.main
import prebake.storage.store
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU, Command, Ended, in_a_process
from tests.helpers.fake_s3 import FakeS3, serving
from tests.helpers.small import bake

# The nets here are tiny: a second thread would cost more than it gives.
torch.set_num_threads(1)
# Time is no part of what a property says, and a machine may stand still for a moment.
settings.register_profile("prebake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prebake")
# A shell that starts the tests in the background lets them ignore SIGINT, and with them every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits() -> SourceData:
    """scikit-learn's digits, real data that is always at hand."""
    return load("digits", Path("unused"))


@pytest.fixture(scope="session")
def baked(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of digits in float16, with a validation split; read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("baked") / "digits"
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
        test=(test.images_NHWC, test.labels_N),
        classes=digits.classes,
        name="digits",
        recipe="digits",
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
    prebake.bake(
        train.images_NHWC[:200],
        train.labels_N[:200],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        classes=digits.classes,
        name="digits",
        recipe="digits",
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


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that OPTIONS bake; read only."""
    return bake(tmp_path_factory.mktemp("done") / "set").path


@pytest.fixture
def there(done: Path, tmp_path: Path) -> Path:
    """A copy of it, times and all."""
    return Path(shutil.copytree(done, tmp_path / "there"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """An S3 server in this process, as the environment names it; failed requests are repeated at once."""
    monkeypatch.setattr(prebake.storage.store, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(prebake.storage.store, "MAX_PAUSE_SECONDS", 0.02)
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `prebake train`, or the command that the first argument names, in this process: torch is imported once."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", sys.argv)  # restored after the test
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            prebake.cli.main.run("train", list(map(str, arguments)))
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def shards(tiny: ShardSet, digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of two sets: the tiny digits, and `mirrored`, in uint8 with flips; read only."""
    root = tmp_path_factory.mktemp("shards")
    shutil.copytree(tiny.path, root / "digits")
    train, test = digits.splits["train"], digits.splits["test"]
    prebake.bake(
        train.images_NHWC[:100],
        train.labels_N[:100],
        test=(test.images_NHWC[:50], test.labels_N[:50]),
        augment=Augmentation("mirrored", pad=1, pad_mode="zero", flip="random", cutout=0),
        name="mirrored",
        dtype="uint8",
        epochs=1,
        out=root / "mirrored",
    )
    return root


@pytest.fixture(scope="session")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """The first run of a user: two epochs of the tiny digits in a process of their own; and its root, read only."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    return in_a_process("--shards", shards / "digits", "--out", runs, *ON_CPU), runs
