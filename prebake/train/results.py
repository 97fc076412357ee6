"""Results: what a finished run has written, read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prebake.errors import DataError

__all__ = ["SCORES", "SEEDS", "Result", "read_result"]

# What repetitions of one setting may differ in.
SEEDS = ("seed", "shuffle_seed")
# What summaries say of how good a run is. Older ones lack the third; the last needs a validation split.
SCORES = {
    "test_accuracy": "test accuracy",
    "test_accuracy_tta": "with flip TTA",
    "test_accuracy_shift_tta": "with shift TTA",
    "val_accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        path: of its directory.
        summary: the content of `summary.json`.
        settings: of `log.jsonl`, flat: `recipe.peak_lr`; versions and hardware as `versions.torch`.
        held_out: the split that the epochs were scored on; None where there was none.
        accuracies: on that split, 0 to 1, after each epoch.
        train_seconds: from the beginning to the end of each epoch, evaluation not counted.
    """

    path: Path
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    held_out: str | None
    accuracies: tuple[float, ...]
    train_seconds: tuple[float, ...]

    @property
    def setting(self) -> dict[str, Any]:
        """What runs must have in common to be repetitions of one another: all settings but the seeds' values."""
        there = {name: value for name, value in self.settings.items() if value is not None}
        return {name: "any" if name in SEEDS else value for name, value in there.items()}

    def seconds_to(self, target: float) -> float | None:
        """Return the seconds of training up to the end of the first epoch that reached an accuracy; None if none."""
        for accuracy, seconds in zip(self.accuracies, self.train_seconds, strict=False):
            if accuracy >= target - 1e-12:  # what was typed in percent is rounded
                return seconds
        return None


def read_result(path: Path) -> Result:
    """Read the directory of a finished run.

    Raises:
        DataError: no finished run there, or its files are not what a run writes.
    """
    if not (path / "summary.json").is_file():
        raise DataError(
            f"{path}: no finished run (no summary.json); name directories such as runs/RUN, "
            "or finish it with --resume auto"
        )
    try:
        summary = json.loads((path / "summary.json").read_text())
        lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        begun = next(line for line in lines if "settings" in line)
        epochs = [line for line in lines if line["event"] == "epoch"]
        scored = [line for line in epochs if line["held_out"] is not None]
        seconds = [float(line["train_seconds"]) for line in epochs]
        result = Result(
            path,
            summary,
            flat({**begun["settings"], "versions": begun["versions"]}),
            scored[0]["held_out"] if scored else None,
            tuple(float(line["held_out_accuracy"]) for line in scored),
            tuple(sum(seconds[: number + 1]) for number in range(len(seconds))),
        )
        _check(result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: summary.json or log.jsonl is not what a run writes ({reason})") from None
    return result


def _check(result: Result) -> None:
    """Touch all that is read later, so that it is missed here."""
    summary = result.summary
    for key in ("dataset", "recipe", "run"):
        if not isinstance(summary[key], str):
            raise TypeError(f"{key} is no text")
    for key in ("test_accuracy", "test_accuracy_tta"):
        summary[key]
    for number in (*summary["seconds"].values(), *map(summary.get, SCORES)):
        if not isinstance(number, int | float | None):
            raise TypeError(f"{number!r} is no number")
    for number in (summary["seed"], summary["epochs"], summary["utilization"], summary["seconds"]["train"]):
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r} is no number")


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
