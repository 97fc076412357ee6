"""What the files of a run say: its settings, its epochs and its summary."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from prebake.errors import DataError
from prebake.storage.files import Location, parse_path
from prebake.train.state import EpochReport

__all__ = ["LOG", "SCORES", "SEEDS", "SUMMARY", "RunRecord", "read_events", "read_summary"]

LOG = "log.jsonl"
SUMMARY = "summary.json"
SECONDS = ("precompute", "compile", "train", "wait", "evaluate")  # keys of `seconds`; the first may be None
MAX_SUMMARY_BYTES = 1024 * 1024  # a hundred times the usual size

# Settings in which repeated runs may differ.
SEEDS = ("seed", "shuffle_seed")
# Accuracies in a summary, with their titles. Older runs lack the third; the last needs a validation split.
SCORES = {
    "test_accuracy": "test accuracy",
    "test_accuracy_tta": "with flip TTA",
    "test_accuracy_shift_tta": "with shift TTA",
    "val_accuracy": "validation accuracy",
}


@dataclass(frozen=True)
class RunRecord:
    """A run as its files describe it.

    Attributes:
        path: directory of the run.
        settings: everything that the outcome depends on, as plain JSON values.
        versions: software versions and hardware of the last start or resume.
        shards: location of the shard set at that time; None in the logs of older runs.
        epochs: one report per finished epoch, in order.
        summary: content of `summary.json`; empty while the run is unfinished.
    """

    path: Path
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    shards: Location | None
    epochs: Sequence[EpochReport]
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read a run that was started, finished or not.

        Raises:
            DataError: the directory holds no such run, or its summary is damaged.
        """
        events = read_events(path / LOG)
        starts = [event for event in events if isinstance(event.get("settings"), dict)]
        if not starts:
            raise DataError(f"{path}: holds no run (no settings in {LOG}); name the directory of a run, runs/...")
        start = starts[-1]
        versions, shards = start.get("versions"), start.get("shards")
        reports = {report.epoch: report for event in events if (report := _epoch_report(event)) is not None}
        return cls(
            path,
            start["settings"],
            versions if isinstance(versions, dict) else {},
            parse_path(shards) if isinstance(shards, str) else None,
            [reports[epoch] for epoch in sorted(reports)],
            read_summary(path / SUMMARY) or {},
        )

    @classmethod
    def read_finished(cls, path: Path) -> "RunRecord":
        """Read a finished run.

        Raises:
            DataError: the directory holds no finished run, or its files are damaged.
        """
        if not (path / SUMMARY).is_file():
            raise DataError(
                f"{path}: no finished run here (no {SUMMARY}); name the directory of one, runs/..., "
                "or finish it with --resume auto"
            )
        record = cls.read(path)
        record.check_epochs()
        return record

    def check_epochs(self) -> None:
        """Raise DataError if the log lacks the line of an epoch, or has none."""
        found = [report.epoch for report in self.epochs]
        if not found or found != list(range(len(found))):
            raise DataError(
                f"{self.path / LOG}: expected one line for each epoch from 0 on, found epochs {found}; "
                "train the run again with --overwrite"
            )

    @property
    def held_out(self) -> str | None:
        """The split that each epoch was evaluated on; None if the shards have none."""
        return self.epochs[-1].held_out if self.epochs else None

    @property
    def held_out_accuracy(self) -> list[float]:
        """Accuracy on that split after each epoch, 0 to 1."""
        return [report.held_out_accuracy for report in self.epochs if report.held_out_accuracy is not None]

    @property
    def elapsed_seconds(self) -> list[float]:
        """Training time up to the end of each epoch, without evaluation."""
        seconds = [report.train_seconds for report in self.epochs]
        return [sum(seconds[: number + 1]) for number in range(len(seconds))]

    @property
    def settings_but_seeds(self) -> dict[str, Any]:
        """Flat settings and versions, with the value of each seed replaced; equal for repetitions of one setting."""
        nested = {**self.settings, "versions": self.versions}
        there = {name: value for name, value in _flatten(nested).items() if value is not None}
        return {name: "any" if name in SEEDS else value for name, value in there.items()}

    def seconds_to(self, accuracy: float) -> float | None:
        """Return the training time to the end of the first epoch that reached an accuracy; None if none did."""
        for found, seconds in zip(self.held_out_accuracy, self.elapsed_seconds, strict=False):
            if found >= accuracy - 1e-12:  # a percentage that was typed is rounded
                return seconds
        return None


def read_events(log: Path) -> list[dict[str, Any]]:
    """Return the events of a log; a line that was cut off by a crash is skipped."""
    events = []
    for line in log.read_bytes().splitlines() if log.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
    return events


def _epoch_report(event: Mapping[str, Any]) -> EpochReport | None:
    """Return the report that a line of the log holds; None for other lines and incomplete ones."""
    names = [field.name for field in fields(EpochReport)]
    if event["event"] != "epoch" or not set(names) <= set(event):
        return None
    numbers = [event[name] for name in names if name != "held_out" and not name.startswith("held_out_")]
    scores = [event["held_out_loss"], event["held_out_accuracy"]]
    split = event["held_out"]
    scored = all(map(_is_number, scores)) if isinstance(split, str) else [split, *scores] == [None] * 3
    return EpochReport(**{name: event[name] for name in names}) if scored and all(map(_is_number, numbers)) else None


def read_summary(path: Path) -> dict[str, Any] | None:
    """Read and check a summary; None if there is none."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            summary = json.loads(file.read(MAX_SUMMARY_BYTES))
        wrong = _wrong_keys(summary) if isinstance(summary, dict) else f"a {type(summary).__name__}, not an object"
    except (ValueError, RecursionError) as error:
        wrong = f"not JSON: {error}"
    if wrong:
        raise DataError(f"{path}: not the summary of a run ({wrong}); train the run again with --overwrite")
    return dict(summary)


def _wrong_keys(summary: Mapping[str, Any]) -> str:
    """Name the keys of a summary that are missing, or have a value of the wrong type."""
    seconds = summary.get("seconds")
    seconds = seconds if isinstance(seconds, dict) else {}
    wrong = [key for key in ("dataset", "recipe", "model", "run") if not isinstance(summary.get(key), str)]
    numbers = ("epochs", "seed", "first_loss", "images_per_second", "utilization", "stalls", "wait_p99_seconds")
    wrong += [key for key in numbers if not _is_number(summary.get(key))]
    wrong += [key for key in ("test_accuracy", "test_accuracy_tta") if key not in summary]
    optional = {key: summary.get(key) for key in (*SCORES, "test_samples")}
    wrong += [key for key, value in optional.items() if value is not None and not _is_number(value)]
    spent = {"precompute": 0.0, **{key: value for key, value in seconds.items() if value is not None}}
    wrong += [f"seconds.{key}" for key in SECONDS if not _is_number(spent.get(key))]
    return ", ".join(wrong)


def _is_number(value: object) -> bool:
    """Return whether a JSON value is a finite number that fits a float64."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings in one level, with names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
