"""Books: the files of a run."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from prebake.errors import DataError, DivergedError, UsageError
from prebake.storage.atomic import write_whole
from prebake.storage.files import Location, parse_path
from prebake.train.checkpoint import Checkpoints
from prebake.train.state import EpochReport
from prebake.train.summary import table

__all__ = ["LOCK", "Run", "versions"]

LOCK = "run.lock"
SUMMARY_BYTES = 1024 * 1024  # a hundred times what one has


def versions(world_size: int = 1) -> dict[str, str]:
    """Return what a figure depends on: versions and hardware, and where there are several the number of processes."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    several = {} if world_size == 1 else {"processes": str(world_size)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": gpu,
        **several,
    }


class Run:
    """The directory of one run, and the files in it.

    Attributes:
        settings: all that the outcome depends on, plain JSON values.
        checkpoints: the state that an unfinished run goes on from.
        weights: file of the trained weights.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.checkpoints = Checkpoints(path / "checkpoint", settings)
        self.weights = path / "weights.safetensors"
        self._summary = path / "summary.json"
        self._log = path / "log.jsonl"

    @classmethod
    def named(cls, root: Path, settings: Mapping[str, Any]) -> "Run":
        """Return the run of these settings: `runs/<data set>-<recipe>-s<seed>-<8 hex of all settings>/`."""
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return cls(root / f"{settings['dataset']}-{settings['recipe']['name']}-s{settings['seed']}-{digest}", settings)

    @classmethod
    def open(cls, path: Path) -> "tuple[Run, Location]":
        """Return the run that was begun in a directory, and where its shards were.

        Raises:
            DataError: no run was begun there.
        """
        for line in reversed(cls(path, {})._lines()):
            settings, shards = line.get("settings"), line.get("shards")
            if line["event"] in ("start", "resume") and isinstance(settings, dict) and isinstance(shards, str):
                return cls(path, settings), parse_path(shards)
        raise DataError(
            f"--resume: {path} holds no run that was begun (log.jsonl would say so); "
            "name the directory of one, runs/..., or auto"
        )

    def refuse_existing(self) -> None:
        """Raise UsageError where a run of the same settings is there already, finished or not."""
        if self._summary.exists():
            raise UsageError(f"{self.path}: this run is finished already; --overwrite repeats it, --out keeps both")
        if self._log.exists():
            raise UsageError(f"{self.path}: this run was begun; --resume auto goes on with it, --overwrite starts anew")

    def refuse_diverged(self) -> None:
        """Raise DivergedError where this run has diverged, since it would do so again."""
        for line in self._lines():
            if line["event"] == "diverged":
                raise DivergedError(
                    f"{self.path}: this run has diverged, and would again ({line.get('message')}). "
                    "Another --lr is another run; --overwrite starts this one anew"
                )

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None.

        Raises:
            DataError: a summary that is none.
        """
        if not self._summary.exists():
            return None
        try:
            with self._summary.open("rb") as file:
                summary = json.loads(file.read(SUMMARY_BYTES))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._summary}: not JSON ({error}); --overwrite repeats the run") from None
        try:
            table([summary])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            raise DataError(f"{self._summary}: no summary of a run ({reason}); --overwrite repeats the run") from None
        return dict(summary)

    def clear(self) -> None:
        """Remove all that the directory holds but its lock."""
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def begin(
        self, shards: Location, reports: Sequence[EpochReport] = (), step: int = 0, *, world_size: int = 1
    ) -> None:
        """Open the books at a step: of the epochs, those that are done have their line, and no others.

        Args:
            shards: where the shard set is.
            reports: of the epochs that are done.
            step: how many steps are done.
            world_size: how many processes take the others.
        """
        kept = [line for line in self._lines() if step and _is_before(line, len(reports))]
        written = {line["epoch"] for line in kept if line["event"] == "epoch"}
        kept += [{"event": "epoch", **asdict(report)} for report in reports if report.epoch not in written]
        event = "resume" if step else "start"
        where = str(shards.absolute() if isinstance(shards, Path) else shards)
        kept.append({"event": event, "step": step, "shards": where, "settings": self.settings})
        kept[-1]["versions"] = versions(world_size)
        write_whole(self._log, b"".join(_line(line) for line in kept))

    def _lines(self) -> list[dict[str, Any]]:
        """Return the log's events; a line that was cut off while it was written is none."""
        events = []
        for line in self._log.read_bytes().splitlines() if self._log.is_file() else []:
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict) and isinstance(event.get("event"), str):
                    events.append(event)
        return events

    def log(self, event: str, **content: object) -> None:
        """Add one line to `log.jsonl`."""
        with self._log.open("ab") as file:
            file.write(_line({"event": event, **content}))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which says that the run is finished, and drop the checkpoints."""
        self.log("end", **summary)
        write_whole(self._summary, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints, which a finished run needs no more."""
        if self.checkpoints.directory.exists():
            shutil.rmtree(self.checkpoints.directory)


def _is_before(line: Mapping[str, Any], epoch: int) -> bool:
    """Say whether a line of the log tells of something before that epoch."""
    if line["event"] == "epoch":
        return type(line.get("epoch")) is int and line["epoch"] < epoch
    return bool(line["event"] != "end")


def _line(event: Mapping[str, object]) -> bytes:
    return (json.dumps(event, allow_nan=False) + "\n").encode()
