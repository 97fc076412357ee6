"""Books: the files of a run."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from shards.errors import DataError, UsageError
from shards.writer import write_whole

__all__ = ["Run", "versions"]


def versions() -> dict[str, str]:
    """Return what a figure depends on: versions and hardware."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": gpu,
    }


class Run:
    """The directory of one run: `runs/<data set>-<recipe>-s<seed>-<8 hex of all settings>/`.

    Attributes:
        checkpoint: file that the state is kept in between epochs.
        weights: file of the trained weights.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        self.path = root / f"{settings['dataset']}-{settings['recipe']['name']}-s{settings['seed']}-{digest}"
        self.settings = settings
        self.checkpoint = self.path / "checkpoint" / "last.pt"
        self.weights = self.path / "weights.safetensors"
        self._summary = self.path / "summary.json"
        self._log = self.path / "log.jsonl"

    def refuse_existing(self) -> None:
        """Raise UsageError where a run of the same settings is there already, finished or not."""
        if self._summary.exists():
            raise UsageError(f"{self.path}: this run is finished already; --overwrite repeats it, --out keeps both")
        if self._log.exists():
            raise UsageError(f"{self.path}: this run was begun; --resume auto goes on with it, --overwrite starts anew")

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None.

        Raises:
            DataError: a summary that is none.
        """
        if not self._summary.exists():
            return None
        try:
            summary: dict[str, Any] = json.loads(self._summary.read_text())
        except ValueError as error:
            raise DataError(f"{self._summary}: not JSON ({error}); --overwrite repeats the run") from None
        return summary

    def remove(self) -> None:
        """Remove the run's directory, where there is one."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def begin(self, epoch: int) -> None:
        """Open the books at an epoch; lines that a later epoch left are dropped, since it is done again."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self._lines() if epoch and line["event"] != "end" and line.get("epoch", -1) < epoch]
        write_whole(self._log, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        self.log("resume" if epoch else "start", settings=self.settings, versions=versions())

    def _lines(self) -> list[dict[str, Any]]:
        """Return the log's events; a line that was cut off while it was written is none."""
        events = []
        for line in self._log.read_text().splitlines() if self._log.exists() else []:
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return events

    def log(self, event: str, **content: object) -> None:
        """Add one line to `log.jsonl`."""
        with self._log.open("a") as file:
            file.write(json.dumps({"event": event, **content}, allow_nan=False) + "\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which says that the run is finished, and drop the checkpoint."""
        write_whole(self._summary, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
        self.log("end", **summary)
        shutil.rmtree(self.checkpoint.parent)
