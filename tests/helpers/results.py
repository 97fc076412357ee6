"""Directories of finished runs with given results, as `prebake train` writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prebake.train.state import EpochReport

SETTINGS = {"dataset": "digits", "shards": "12ab", "seed": 0, "recipe": {"name": "digits", "peak_lr": 0.1}}
SUMMARY: dict[str, Any] = {
    "dataset": "digits",
    "recipe": "digits",
    "model": "davidnet",
    "epochs": 2,
    "seed": 0,
    "test_accuracy": 0.9,
    "test_accuracy_tta": None,
    "test_samples": 1000,
    "first_loss": 2.3,
    "seconds": {"precompute": 10.0, "compile": 5.0, "train": 40.0, "wait": 1.0, "evaluate": 4.0},
    "images_per_second": 1000.0,
    "utilization": 0.975,
    "stalls": 0,
    "wait_p99_seconds": 1e-5,
    "run": "runs/digits",
}


def epoch_report(epoch: int, held_out_accuracy: float | None = None) -> EpochReport:
    """Return the report of an epoch that took 20 s, evaluated on the test split if an accuracy is given."""
    split, loss = (None, None) if held_out_accuracy is None else ("test", 0.5)
    return EpochReport(epoch, 1 / 3, 0.5, split, loss, held_out_accuracy, 0.1, 1e3, 20.0, 0.5, 2.0)


def write_run(
    path: Path,
    accuracy: float | None,
    *,
    settings: Mapping[str, Any] | None = None,
    curve: Sequence[float] = (0.5, 0.9),
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run; `settings` and `summary` replace the defaults, `curve` is the held-out accuracy of each epoch."""
    chosen = {**SETTINGS, **(settings or {})}
    about = {"dataset": chosen["dataset"], "recipe": chosen["recipe"]["name"], "seed": chosen["seed"]}
    content = {**SUMMARY, **about, "epochs": len(curve), "test_accuracy": accuracy, "run": str(path), **(summary or {})}
    lines: list[dict[str, Any]] = [{"event": "start", "settings": chosen, "versions": {"torch": "2.6"}}]
    lines += [{"event": "epoch", **asdict(epoch_report(*scored))} for scored in enumerate(curve)]
    lines.append({"event": "end", **content})
    path.mkdir(parents=True)
    (path / "summary.json").write_text(json.dumps(content))
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_runs(
    root: Path, accuracies: Sequence[float], *, settings: Mapping[str, Any] | None = None, first_seed: int = 0
) -> list[Path]:
    """Write a run for each accuracy, with consecutive seeds."""
    return [
        write_run(root / f"s{seed}", accuracy, settings={**(settings or {}), "seed": seed})
        for seed, accuracy in enumerate(accuracies, first_seed)
    ]
