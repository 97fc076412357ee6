"""Directories of finished runs with results of one's own, as `python -m train` leaves them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETTINGS = {"dataset": "digits", "shards": "12ab", "seed": 0, "recipe": {"name": "digits", "peak_lr": 0.1}}
SECONDS = {"precompute": 10.0, "compile": 5.0, "train": 40.0, "wait": 1.0, "evaluate": 4.0}


def write_run(
    path: Path,
    accuracy: float | None,
    *,
    settings: Mapping[str, Any] | None = None,
    curve: Sequence[float] = (0.5, 0.9),
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run whose epochs took 20 s each; `settings` and `summary` change what is there otherwise."""
    chosen = {**SETTINGS, **(settings or {})}
    content = {
        "dataset": chosen["dataset"],
        "recipe": chosen["recipe"]["name"],
        "epochs": len(curve),
        "seed": chosen["seed"],
        "test_accuracy": accuracy,
        "test_accuracy_tta": None,
        "test_samples": 1000,
        "seconds": SECONDS,
        "utilization": 0.975,
        "run": str(path),
        **(summary or {}),
    }
    lines: list[dict[str, Any]] = [{"event": "start", "settings": chosen, "versions": {"torch": "2.6"}}]
    for epoch, held_out in enumerate(curve):
        line = {"held_out": "test", "held_out_accuracy": held_out, "train_seconds": 20.0}
        lines.append({"event": "epoch", "epoch": epoch, **line})
    lines.append({"event": "end", **content})
    path.mkdir(parents=True)
    (path / "summary.json").write_text(json.dumps(content))
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_runs(
    root: Path, accuracies: Sequence[float], *, settings: Mapping[str, Any] | None = None, first_seed: int = 0
) -> list[Path]:
    """Write a run for each accuracy, seed after seed."""
    return [
        write_run(root / f"s{seed}", accuracy, settings={**(settings or {}), "seed": seed})
        for seed, accuracy in enumerate(accuracies, first_seed)
    ]
