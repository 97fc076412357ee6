"""`python -m train`: what it prints and writes."""

import json
import math
import shutil
from pathlib import Path

import pytest

import prebake
from prebake.precompute.images import SourceData
from prebake.train.weights import load_weights
from tests.helpers.commands import ON_CPU, Command, Ended, events_of, log_of, summary_of, the_run
from tests.helpers.small import flip_byte


def test_training_ends_with_0_and_a_table_on_stdout(finished: tuple[Ended, Path]) -> None:
    ended, _ = finished
    assert ended.code == 0, ended.err
    header, row = ended.out.splitlines()
    for title in (
        "data set",
        "epochs",
        "test accuracy",
        "with flip TTA",
        "with shift TTA",
        "training",
        "waiting for data",
    ):
        assert title in header
    assert row.split()[:2] == ["digits", "2"]
    assert "%" in row


def test_progress_is_a_line_an_epoch_on_stderr(finished: tuple[Ended, Path]) -> None:
    ended, runs = finished
    lines = ended.err.splitlines()
    assert "2 epochs" in lines[0]
    assert str(the_run(runs)) in lines[1]
    assert [line.split(": ")[1] for line in lines[2:4]] == ["epoch 1/2", "epoch 2/2"]


def test_a_run_ends_with_how_well_the_device_was_used(finished: tuple[Ended, Path]) -> None:
    ended, runs = finished
    summary, (line, place) = summary_of(the_run(runs)), ended.err.splitlines()[-2:]
    assert place.endswith(f": the run is in {the_run(runs)}")
    assert line.startswith(f"digits: utilization {100 * summary['utilization']:.2f} %, {summary['stalls']} stalls")
    assert line.endswith(f"99 % of waits under {1000 * summary['wait_p99_seconds']:.2g} ms")


def test_a_run_directory_holds_summary_log_weights_and_a_report(finished: tuple[Ended, Path]) -> None:
    run = the_run(finished[1], "digits-digits-s0-")
    there = {"summary.json", "log.jsonl", "weights.safetensors", "report.html", "pictures", "run.lock"}
    assert {path.name for path in run.iterdir()} == there
    start, *epochs, end = log_of(run)
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["settings"]["dataset"] == "digits"
    assert start["settings"]["recipe"]["name"] == "digits"
    assert [(line["event"], line["epoch"]) for line in epochs] == [("epoch", 0), ("epoch", 1)]
    summary = summary_of(run)
    assert {key: end[key] for key in summary} == summary
    assert summary["first_loss"] == pytest.approx(math.log(10), abs=0.3)
    assert summary["test_accuracy"] == epochs[-1]["held_out_accuracy"]
    assert load_weights(run / "weights.safetensors").classes == tuple("0123456789")


def test_a_finished_run_is_refused_and_untouched(finished: tuple[Ended, Path], shards: Path, command: Command) -> None:
    run = the_run(finished[1])
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ended = command("--shards", shards / "digits", "--out", finished[1], *ON_CPU)
    assert ended.code == 2
    assert f"error: {run}: this run is finished; --overwrite" in ended.err
    assert ended.out == ""
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_overwrite_keeps_a_run_if_its_shards_are_unreadable(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs, damaged = shutil.copytree(finished[1], tmp_path / "runs"), shutil.copytree(shards, tmp_path / "shards")
    flip_byte(damaged / "digits" / "train-e000-000.tar", 1000)
    kept = [path for path in runs.rglob("*") if path.is_file() and path.name != "run.lock"]
    before = [path.read_bytes() for path in kept]
    options = ("--shards", damaged, "--dataset", "digits", "--recipe", "digits", "--out", runs)
    ended = command(*options, *ON_CPU, "--overwrite")
    assert ended.code == 3
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.slow
def test_overwriting_repeats_a_run_exactly(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    ended = command("--shards", shards / "digits", "--out", runs, "--overwrite", *ON_CPU)
    assert ended.code == 0, ended.err
    first, again = the_run(finished[1]), the_run(runs)
    assert summary_of(again)["seconds"] != summary_of(first)["seconds"]
    for key in ("test_accuracy", "first_loss", "epochs", "seed"):
        assert summary_of(again)[key] == summary_of(first)[key]
    assert (again / "weights.safetensors").read_bytes() == (first / "weights.safetensors").read_bytes()
    assert events_of(again) == ["start", "epoch", "epoch", "end"]


def test_a_root_of_two_sets_trains_both_and_prints_json(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards, "--epochs", 1, "--recipe", "digits", "--json", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    digits, mirrored = map(json.loads, ended.out.splitlines())
    assert (digits["dataset"], mirrored["dataset"]) == ("digits", "mirrored")
    for summary in (digits, mirrored):
        assert summary_of(Path(summary["run"])) == summary
        assert summary["epochs"] == 1
        assert 0 <= summary["test_accuracy"] <= 1
        assert 0 <= summary["utilization"] <= 1
    assert digits["test_accuracy_tta"] is None
    assert 0 <= mirrored["test_accuracy_tta"] <= 1
    assert all(0 <= summary["test_accuracy_shift_tta"] <= 1 for summary in (digits, mirrored))
    assert len(list(tmp_path.iterdir())) == 2


def test_dataset_picks_one_set_of_a_root(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards, "--dataset", "mirrored", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    assert [line.split()[0] for line in ended.out.splitlines()] == ["data", "mirrored"]
    assert the_run(tmp_path).name.startswith("mirrored-digits-s0-")


def test_a_seed_and_a_rate_of_ones_own_make_another_run(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--epochs", 1, "--batch-size", 100, "--lr", 0.05, "--seed", 9, "--set", "ema=0.5", "train_scales=false")
    ended = command("--shards", shards / "digits", "--out", tmp_path, *options, *ON_CPU)
    assert ended.code == 0, ended.err
    settings = log_of(the_run(tmp_path, "digits-digits-s9-"))[0]["settings"]
    assert (settings["seed"], settings["recipe"]["epochs"]) == (9, 1)
    assert (settings["recipe"]["batch_size"], settings["recipe"]["peak_lr"]) == (100, 0.05)
    chosen = {"name": "digits", "epochs": 1, "batch_size": 100, "peak_lr": 0.05, "ema": 0.5, "train_scales": False}
    summary = summary_of(the_run(tmp_path, "digits-digits-s9-"))
    assert settings["recipe"].items() >= chosen.items()
    options = settings["recipe"].pop("model_options")
    assert options == {"celu_alpha": 0.075, "pool_first": True, "head_scale": 0.125}
    assert summary["hyperparameters"] == {**settings["recipe"], **options}


def test_a_finished_run_is_refused_before_others_are_trained(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards, "--dataset", "mirrored", "digits", "--recipe", "digits", "--out", runs)
    ended = command(*options, *ON_CPU)
    assert ended.code == 2
    assert "this run is finished" in ended.err
    assert [path.name.split("-")[0] for path in runs.iterdir()] == ["digits"]


def test_a_log_without_held_out_data_is_json_all_the_same(digits: SourceData, tmp_path: Path, command: Command) -> None:
    train = digits.splits["train"]
    prebake.bake(
        train.images_NHWC[:70], train.labels_N[:70], name="digits", recipe="digits", epochs=1, out=tmp_path / "digits"
    )
    ended = command("--shards", tmp_path / "digits", "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 0, ended.err
    assert "NaN" not in (the_run(tmp_path / "runs") / "log.jsonl").read_text()


def test_a_training_on_the_cpu_keeps_the_memory_that_it_frees(
    shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr("prebake.train.session.keep_freed_memory", lambda: asked.append(None))
    ended = command("--shards", shards / "digits", "--out", tmp_path, "--epochs", 1, *ON_CPU)
    assert (ended.code, len(asked)) == (0, 1), ended.err
