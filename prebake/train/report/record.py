"""Record: what a run's books say, read back."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prebake.errors import DataError
from prebake.storage.files import Location, parse_path

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """A run that has trained all its epochs.

    Attributes:
        path: its directory.
        settings: all that its outcome depends on, plain JSON values.
        versions: of what it ran with.
        shards: the set that it was trained on, where that was then; None in the books of older runs.
        epochs: what the log has of each, in order, plain JSON values; never empty.
        summary: the content of `summary.json`.
    """

    path: Path
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    shards: Location | None
    epochs: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, summary: Mapping[str, Any] | None = None) -> "Record":
        """Read the log of a run, and its summary where that is not given.

        Raises:
            DataError: no finished run there, or its books are damaged.
        """
        log = path / "log.jsonl"
        if summary is None:
            summary = _summary(path)
        if not log.is_file():
            raise DataError(f"{log}: missing; a run keeps its books there")
        events = []
        for line in log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # cut off while it was written
                events.append(json.loads(line))
        events = [event for event in events if isinstance(event, dict)]
        begun = [event for event in events if isinstance(event.get("settings"), dict)]
        epochs = {event["epoch"]: event for event in events if event.get("event") == "epoch" and "epoch" in event}
        if not begun or sorted(epochs) != list(range(len(epochs))) or not epochs:
            raise DataError(f"{log}: expected the settings of a run and a line for each of its epochs; train it again")
        begin = begun[-1]
        shards = begin.get("shards")
        return cls(
            path,
            begin["settings"],
            begin.get("versions", {}),
            parse_path(shards) if isinstance(shards, str) else None,
            [epochs[epoch] for epoch in sorted(epochs)],
            summary,
        )


def _summary(path: Path) -> dict[str, Any]:
    file = path / "summary.json"
    if not file.is_file():
        raise DataError(f"{path}: no finished run here (no summary.json); name the directory of one, runs/...")
    try:
        summary = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); train the run again") from None
    if not isinstance(summary, dict):
        raise DataError(f"{file}: expected a JSON object, found {type(summary).__name__}; train the run again")
    return summary
