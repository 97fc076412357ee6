"""`--tensorboard`: the values of each epoch go to torch's SummaryWriter; without the package there is an error."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.commands import ON_CPU, Command, log_of, the_run


class Writer:
    """Records the calls that torch's SummaryWriter gets."""

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.directory, self.purged = Path(log_dir), purge_step
        self.scalars: dict[tuple[str, int], float] = {}
        self.open = True
        WRITERS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name, step] = value

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.open = False


WRITERS: list[Writer] = []


def test_values_of_each_epoch_are_written(
    shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    WRITERS.clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # drawing takes time
    ended = command("--shards", shards / "digits", "--tensorboard", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    (writer,) = WRITERS
    run = the_run(tmp_path)
    assert (writer.directory, writer.purged, writer.open) == (run / "tensorboard", 0, False)
    for epoch in (line for line in log_of(run) if line["event"] == "epoch"):
        for name, key in (("loss/train", "train_loss"), ("accuracy/held out", "held_out_accuracy"), ("lr", "lr")):
            assert writer.scalars.pop((name, epoch["epoch"])) == epoch[key]
    assert {step for _, step in writer.scalars} == {0, 1}


def test_without_the_package_nothing_is_trained(
    shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    ended = command("--shards", shards / "digits", "--tensorboard", "--out", tmp_path, *ON_CPU)
    assert ended.code == 4
    assert "--tensorboard needs the package tensorboard" in ended.err
    assert 'pip install -e ".[tensorboard]"' in ended.err
    assert list(tmp_path.iterdir()) == []


def test_file_of_the_real_writer_is_read_back(shards: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended = command("--shards", shards / "digits", "--tensorboard", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    run = the_run(tmp_path)
    read = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = [line["train_loss"] for line in log_of(run) if line["event"] == "epoch"]
    assert [event.value for event in read.Scalars("loss/train")] == pytest.approx(losses)
