"""Interrupted runs resume, and end as uninterrupted runs do."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import ON_CPU, Command, Ended, events_of, log_of, summary_of, the_run
from tests.helpers.runs import interrupted_at

SMALL = ("--model", "resnet20", *ON_CPU)


def test_a_run_interrupted_in_its_second_epoch_resumes_exactly(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)
    monkeypatch.setattr("prebake.train.session.CHECKPOINT_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(4))
        assert command(*options).code == 130
    run = the_run(tmp_path)
    assert events_of(run) == ["start", "epoch"]
    assert not (run / "summary.json").exists()

    refused = command(*options)
    assert refused.code == 2
    assert f"{run}: this run was started; --resume auto (resume=True) resumes it" in refused.err

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


def test_resume_continues_unfinished_and_keeps_finished_runs(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards, "--dataset", "digits", "--recipe", "digits", "--out", runs, "--resume", "auto")
    ended = command(*options, *ON_CPU)
    assert ended.code == 0
    assert "digits: finished already" in ended.err
    assert ended.out.splitlines()[1].startswith("digits")


def test_a_truncated_log_does_not_prevent_resuming(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    with monkeypatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(0))
        assert command(*options).code == 130
    with (the_run(tmp_path) / "log.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert command(*options, "--resume", "auto").code == 0
    for line in (the_run(tmp_path) / "log.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.fixture
def begun(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:
    """A run on the tiny digits that was interrupted after its first epoch."""
    copied = shutil.copytree(shards / "digits", tmp_path / "shards" / "digits")
    with monkeypatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(3))
        ended = command("--shards", copied, "--out", tmp_path / "my rüns", "--lr", 0.05, "--seed", 7, *SMALL)
    assert ended.code == 130
    return the_run(tmp_path / "my rüns")


def test_a_run_goes_on_from_its_directory_alone(begun: Path, command: Command) -> None:
    ended = command("--resume", begun, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == summary_of(begun)
    assert summary_of(begun)["seed"] == 7
    assert events_of(begun) == ["start", "epoch", "resume", "epoch", "end"]
    assert not (begun / "checkpoint").exists()


def test_a_finished_run_prints_its_summary_without_shards(begun: Path, command: Command) -> None:
    first = command("--resume", begun)
    shutil.rmtree(begun.parent.parent / "shards")
    again = command("--resume", begun)
    assert (again.code, again.out) == (0, first.out)
    assert again.err == f"digits: finished already, in {begun}\ndigits: the run is in {begun}\n"


def test_shards_that_were_moved_are_named_again_once(begun: Path, tmp_path: Path, command: Command) -> None:
    shutil.move(tmp_path / "shards", tmp_path / "moved")
    ended = command("--resume", begun)
    assert ended.code == 3
    assert f"no directory named {tmp_path / 'shards' / 'digits'}" in ended.err
    ended = command("--resume", begun, "--shards", tmp_path / "moved")
    assert ended.code == 0, ended.err
    assert log_of(begun)[-3]["shards"] == str(tmp_path / "moved" / "digits")


def test_options_that_say_what_the_run_is_are_no_contradiction(begun: Path, command: Command) -> None:
    options = ("--dataset", "digits", "--lr", 0.05, "--seed", 7, "--epochs", 2, "--batch-size", 64, "--replay")
    ended = command("--resume", begun, *options, "--out", begun.parent, "--recipe", "digits", *ON_CPU)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("option", "value", "noted"),
    [
        ("--dataset", "mnist", "['digits']"),
        ("--recipe", "default", "digits"),
        ("--model", "davidnet", "resnet20"),
        ("--epochs", 3, "2"),
        ("--batch-size", 32, "64"),
        ("--lr", 0.1, "0.05"),
        ("--seed", 0, "7"),
        ("--device", "cuda", "cpu"),
        ("--precision", "bf16", "fp32"),
        ("--compile", None, "False"),
        ("--out", "elsewhere", ""),
    ],
)
def test_an_option_that_contradicts_the_run_is_refused(
    option: str, value: object, noted: str, begun: Path, command: Command
) -> None:
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    ended = command("--resume", begun, option, *([] if value is None else [value]))
    assert ended.code == 2
    assert ended.err.startswith(f"error: {option}: {begun} was begun with {noted}")
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_a_hyperparameter_that_contradicts_the_run_is_refused(begun: Path, command: Command) -> None:
    ended = command("--resume", begun, "--set", "ema=0.9")
    assert ended.code == 2
    assert ended.err.startswith(f"error: --set ema: {begun} was begun with 0.0, found 0.9")


def test_resume_and_overwrite_exclude_each_other(begun: Path, command: Command) -> None:
    assert command("--resume", begun, "--overwrite").code == 2
