"""The summary of a run, and the lines and tables that show its results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prebake.loader.data_wait import STALL_SECONDS
from prebake.storage.lock import bake_seconds
from prebake.train.evaluate import Score
from prebake.train.recipes import hyperparameters
from prebake.train.run_record import SCORES
from prebake.train.state import EpochReport
from prebake.train.trainer import Trainer

__all__ = ["cost", "epoch_line", "format_table", "percent", "results_table", "summarize", "utilization_line"]


def epoch_line(name: str, report: EpochReport, epochs: int) -> str:
    """Return the results of one epoch as a line of text."""
    seconds = report.train_seconds + report.evaluate_seconds
    held_out = ""
    if report.held_out is not None:
        held_out = f"{report.held_out} loss {report.held_out_loss:.4f} accuracy {report.held_out_accuracy:.4f}, "
    return (
        f"{name}: epoch {report.epoch + 1}/{epochs}: "
        f"train loss {report.train_loss:.4f} accuracy {report.train_accuracy:.4f}, "
        f"{held_out}"
        f"lr {report.lr:.4f}, {report.images_per_second:,.0f} images/s, {seconds:.1f} s "
        f"(waiting {report.wait_seconds:.2f}, training {report.train_seconds - report.wait_seconds:.1f}, "
        f"evaluating {report.evaluate_seconds:.1f})"
    )


def utilization_line(summary: Mapping[str, Any]) -> str:
    """Return a line that says how long a run waited for data."""
    return (
        f"{summary['dataset']}: utilization {percent(summary['utilization'])}, {summary['stalls']} stalls (waits for "
        f"data over {1000 * STALL_SECONDS:g} ms), 99 % of waits under {1000 * summary['wait_p99_seconds']:.2g} ms"
    )


def summarize(trainer: Trainer, path: Path, score: Score | None, evaluate_seconds: float) -> dict[str, Any]:
    """Return the content of `summary.json`.

    Args:
        trainer: after its last epoch.
        path: directory of the run.
        score: on the test split; None if the shards have none.
        evaluate_seconds: time that this score took.
    """
    data, settings, state = trainer.data, trainer.settings, trainer.state
    train_seconds = sum(report.train_seconds for report in state.reports)
    wait_seconds = sum(state.waits)
    images = settings.recipe.epochs * trainer.steps_per_epoch * settings.recipe.batch_size
    return {
        "dataset": data.name,
        "recipe": settings.recipe.name,
        "model": settings.recipe.model,
        "parameters": sum(parameter.numel() for parameter in trainer.learner.model.parameters()),
        "epochs": settings.recipe.epochs,
        "seed": settings.seed,
        "device": settings.device,
        "precision": settings.precision,
        "compiled": settings.compiled,
        "shuffle_seed": settings.shuffle_seed,
        "sync_batchnorm": settings.sync_batchnorm,
        "world_sizes": state.world_sizes,
        "hyperparameters": hyperparameters(settings.recipe),
        "test_accuracy": score.accuracy if score else None,
        "test_accuracy_tta": score.accuracy_tta if score else None,
        "test_accuracy_shift_tta": score.accuracy_shift_tta if score else None,
        "test_samples": data.samples("test") if "test" in data.splits else None,
        "val_accuracy": state.reports[-1].held_out_accuracy if trainer.held_out == "val" else None,
        "first_loss": state.first_loss,
        "seconds": {
            "precompute": bake_seconds(data.location) if isinstance(data.location, Path) else None,
            "compile": state.compile_seconds,
            "train": train_seconds,
            "wait": wait_seconds,
            "evaluate": evaluate_seconds + sum(report.evaluate_seconds for report in state.reports),
        },
        "images_per_second": images / train_seconds,
        "utilization": 1 - wait_seconds / train_seconds,
        "stalls": sum(wait > STALL_SECONDS for wait in state.waits),
        "wait_p99_seconds": float(np.percentile(state.waits, 99)),
        "run": str(path),
    }


def cost(seconds_of_runs: Sequence[Mapping[str, float | None]], usd_per_hour: float) -> dict[str, Any]:
    """Return the cost of runs on the same shards.

    The bake counts once, since all runs use it. Waiting for data is a part of training.

    Args:
        seconds_of_runs: `seconds` of their summaries.
        usd_per_hour: price of the machine.
    """
    seconds = {"precompute": seconds_of_runs[0]["precompute"]}
    seconds |= {name: sum(run[name] or 0.0 for run in seconds_of_runs) for name in ("compile", "train", "evaluate")}
    total = sum(value or 0.0 for value in seconds.values())
    return {"usd": total / 3600 * usd_per_hour, "usd_per_hour": usd_per_hour, "seconds": seconds}


def results_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of text with one row for each summary."""
    validated = any(summary.get("val_accuracy") is not None for summary in summaries)
    scores = {name: title for name, title in SCORES.items() if validated or name != "val_accuracy"}
    rows = [["data set", "epochs", *scores.values(), "training", "waiting for data"]]
    for summary in summaries:
        found = [percent(summary.get(name)) for name in scores]  # older runs lack the last one
        took = [f"{summary['seconds']['train']:.1f} s", percent(1 - summary["utilization"])]
        rows.append([summary["dataset"], str(summary["epochs"]), *found, *took])
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns; the first row holds the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def percent(fraction: float | None) -> str:
    """Return a fraction in percent; `-` for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"
