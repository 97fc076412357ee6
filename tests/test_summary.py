"""The summary of a run: its keys and values, and the lines and tables made from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prebake.train.evaluate import Score
from prebake.train.recipes import recipe_for
from prebake.train.summary import epoch_line, results_table, summarize, utilization_line
from prebake.train.trainer import Trainer

KEYS = {
    "dataset",
    "recipe",
    "model",
    "parameters",
    "epochs",
    "seed",
    "device",
    "precision",
    "compiled",
    "test_accuracy",
    "test_accuracy_tta",
    "test_accuracy_shift_tta",
    "first_loss",
    "seconds",
    "images_per_second",
    "utilization",
    "stalls",
    "wait_p99_seconds",
}
SECONDS = {"precompute", "compile", "train", "wait", "evaluate"}


SCORE = Score(loss=0.2, accuracy=0.91, accuracy_tta=0.93, accuracy_shift_tta=0.94)


@pytest.fixture(scope="module")
def summary(trained: Trainer) -> dict[str, Any]:
    """The summary of the tiny run, with a score for flips."""
    return summarize(trained, Path("runs/mine"), SCORE, 0.25)


def test_summary_has_every_key_that_scripts_rely_on(summary: dict[str, Any]) -> None:
    assert set(summary) >= KEYS
    assert set(summary["seconds"]) >= SECONDS
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_describes_the_run(summary: dict[str, Any], trained: Trainer) -> None:
    recipe = recipe_for("digits")
    wanted = {
        "dataset": "digits",
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": 6_571_968,
        "epochs": 2,
        "seed": 0,
        "device": "cpu",
        "precision": "fp32",
        "first_loss": trained.state.first_loss,
        "run": "runs/mine",
    }
    assert {key: summary[key] for key in wanted} == wanted


def test_accuracies_and_utilization_are_fractions(summary: dict[str, Any]) -> None:
    found = [summary[key] for key in ("test_accuracy", "test_accuracy_tta", "test_accuracy_shift_tta")]
    assert found == [0.91, 0.93, 0.94]
    assert 0 <= summary["utilization"] <= 1


def test_seconds_are_sums_over_all_epochs(summary: dict[str, Any], trained: Trainer) -> None:
    reports, seconds = trained.state.reports, summary["seconds"]
    assert seconds["train"] == sum(report.train_seconds for report in reports)
    assert seconds["wait"] == pytest.approx(sum(report.wait_seconds for report in reports))
    assert seconds["evaluate"] == 0.25 + sum(report.evaluate_seconds for report in reports)
    assert seconds["precompute"] > 0
    assert seconds["compile"] == 0
    assert summary["images_per_second"] == pytest.approx(2 * 3 * 64 / seconds["train"])
    assert summary["utilization"] == pytest.approx(1 - seconds["wait"] / seconds["train"])


def test_stall_is_a_wait_over_one_millisecond(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [0.0] * 95 + [0.0009, 0.001, 0.0011, 0.002, 3.0]
    monkeypatch.setattr(trained.state, "waits", waits)
    summary = summarize(trained, Path("runs/mine"), None, 0.0)
    assert summary["stalls"] == 3
    assert summary["wait_p99_seconds"] == pytest.approx(np.percentile(waits, 99))


def test_utilization_line_has_stalls_and_percentile_of_waits() -> None:
    summary = {"dataset": "digits", "utilization": 0.99984, "stalls": 12, "wait_p99_seconds": 0.0000214}
    assert utilization_line(summary) == (
        "digits: utilization 99.98 %, 12 stalls (waits for data over 1 ms), 99 % of waits under 0.021 ms"
    )


def test_without_a_test_split_there_are_no_accuracies(trained: Trainer) -> None:
    summary = summarize(trained, Path("runs/mine"), None, 0.0)
    assert summary["test_accuracy"] is None
    assert summary["test_accuracy_tta"] is None
    assert summary["test_accuracy_shift_tta"] is None
    assert "-" in results_table([summary]).splitlines()[1].split()


def test_without_flips_there_is_shift_tta_but_no_flip_tta(trained: Trainer) -> None:
    score = trained.evaluate("test", tta=True)
    summary = summarize(trained, Path("runs/mine"), score, 0.0)
    assert summary["test_accuracy"] == score.accuracy
    assert summary["test_accuracy_tta"] is None
    # 100 test images: the fraction is a whole number of them.
    found = summary["test_accuracy_shift_tta"]
    assert 0 < found <= 1
    assert found * 100 == pytest.approx(round(found * 100))


def test_epoch_line_has_scores_and_seconds(trained: Trainer) -> None:
    report = trained.state.reports[1]
    line = epoch_line("digits", report, 2)
    assert line.startswith("digits: epoch 2/2: train loss ")
    assert f"test loss {report.held_out_loss:.4f} accuracy {report.held_out_accuracy:.4f}" in line
    assert all(word in line for word in ("images/s", "waiting", "training", "evaluating"))
    assert "\n" not in line


def test_table_has_aligned_columns_and_a_row_for_each_summary() -> None:
    def row(name: str, epochs: int, accuracy: float | None, tta: float | None, **more: float) -> dict[str, Any]:
        return {
            "dataset": name,
            "epochs": epochs,
            "test_accuracy": accuracy,
            "test_accuracy_tta": tta,
            "seconds": {"train": 200.0},
            "utilization": 0.985,
            **more,
        }

    older = row("digits", 5, 0.98765, None)  # without shift TTA
    lines = results_table([older, row("fashion-mnist", 25, 1.0, 0.5, test_accuracy_shift_tta=0.25)]).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["data set", "digits", "fashion-mnist"]
    header, *rows = lines
    for title, cells in {
        "epochs": ("5", "25"),
        "test accuracy": ("98.77 %", "100.00 %"),
        "with flip TTA": ("-", "50.00 %"),
        "with shift TTA": ("-", "25.00 %"),
        "training": ("200.0 s", "200.0 s"),
        "waiting for data": ("1.50 %", "1.50 %"),
    }.items():
        at = header.index(title)
        for line, cell in zip(rows, cells, strict=True):
            assert line[at:].split("  ")[0] == cell
            assert line[at - 2 : at] == "  "
    assert all(line == line.rstrip() for line in lines)
