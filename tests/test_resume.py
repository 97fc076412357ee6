"""Runs that were interrupted go on to the same end."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import ON_CPU, Command, Ended, events_of, log_of, summary_of, the_run
from train.device import autocast


def interrupted_at(step: int) -> Callable[..., Any]:
    """Return an `autocast` that is interrupted as by Ctrl-C when the given step begins."""
    steps = iter(range(step))

    def begin(device: torch.device, precision: str) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return autocast(device, precision)

    return begin


def test_a_run_interrupted_in_its_second_epoch_goes_on_to_the_same_end(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)
    monkeypatch.setattr("train.session.CHECKPOINT_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(4))
        assert command(*options).code == 130
    run = the_run(tmp_path)
    assert events_of(run) == ["start", "epoch"]
    assert not (run / "summary.json").exists()

    refused = command(*options)
    assert refused.code == 2
    assert f"{run}: this run was begun; --resume auto goes on with it" in refused.err

    resumed = command(*options, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert "epoch 1/2" not in resumed.err
    assert events_of(run) == ["start", "epoch", "resume", "epoch", "end"]
    uninterrupted = the_run(finished[1])
    assert (run / "weights.safetensors").read_bytes() == (uninterrupted / "weights.safetensors").read_bytes()
    for key in ("test_accuracy", "first_loss", "epochs"):
        assert summary_of(run)[key] == summary_of(uninterrupted)[key]
    losses = [[line["train_loss"] for line in log_of(r) if line["event"] == "epoch"] for r in (run, uninterrupted)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b""),
        b"no checkpoint",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_a_damaged_checkpoint_is_said_to_be_one(
    content: bytes, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(0))
        assert command(*options).code == 130
    checkpoint = the_run(tmp_path) / "checkpoint" / "last.pt"
    checkpoint.write_bytes(content)
    ended = command(*options, "--resume", "auto")
    assert ended.code == 3
    assert f"{checkpoint}: not a checkpoint" in ended.err


def test_resume_goes_on_with_the_unfinished_and_keeps_the_finished(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards, "--dataset", "digits", "--recipe", "digits", "--out", runs, "--resume", "auto")
    ended = command(*options, *ON_CPU)
    assert ended.code == 0
    assert "digits: finished already" in ended.err
    assert ended.out.splitlines()[1].startswith("digits")


def test_a_log_that_was_cut_off_does_not_stop_a_run_from_going_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(0))
        assert command(*options).code == 130
    with (the_run(tmp_path) / "log.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert command(*options, "--resume", "auto").code == 0
    for line in (the_run(tmp_path) / "log.jsonl").read_text().splitlines():
        json.loads(line)
