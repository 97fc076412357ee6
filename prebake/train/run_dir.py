"""The directory of one run, and the files that it writes there."""

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
from prebake.storage.atomic import write_atomic
from prebake.storage.files import Location
from prebake.train.checkpoint import Checkpoints
from prebake.train.run_record import LOG, SUMMARY, RunRecord, read_events, read_summary
from prebake.train.state import EpochReport

__all__ = ["LOCK", "RunDir", "versions"]

LOCK = "run.lock"


def versions(world_size: int = 1) -> dict[str, str]:
    """Return software versions and hardware, and the number of processes if there are several."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    several = {} if world_size == 1 else {"processes": str(world_size)}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": gpu,
        **several,
    }


class RunDir:
    """The directory of one run, and the files in it.

    Attributes:
        path: the directory.
        settings: everything that the outcome depends on, as plain JSON values.
        checkpoints: the states that an unfinished run resumes from.
        weights: file of the trained weights.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.checkpoints = Checkpoints(path / "checkpoint", settings)
        self.weights = path / "weights.safetensors"
        self._log = path / LOG

    @classmethod
    def named(cls, root: Path, settings: Mapping[str, Any]) -> "RunDir":
        """Return the directory of these settings: `runs/<data set>-<recipe>-s<seed>-<8 hex of all settings>/`."""
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return cls(root / f"{settings['dataset']}-{settings['recipe']['name']}-s{settings['seed']}-{digest}", settings)

    @classmethod
    def open(cls, path: Path) -> "tuple[RunDir, Location]":
        """Return a run that was started in a directory, and the location of its shards.

        Raises:
            DataError: the directory holds no such run.
        """
        record = RunRecord.read(path)
        if record.shards is None:
            raise DataError(f"{path / LOG}: does not name the shards of this run; train it again with --overwrite")
        return cls(path, record.settings), record.shards

    def read(self) -> RunRecord:
        """Read what the run has written so far."""
        return RunRecord.read(self.path)

    def refuse_existing(self) -> None:
        """Raise UsageError if a run with these settings exists, finished or not."""
        if (self.path / SUMMARY).exists():
            raise UsageError(
                f"{self.path}: this run is finished; --overwrite (overwrite=True) repeats it, --out DIR (out=DIR) "
                "keeps both, --resume auto (resume=True) returns its result"
            )
        if self._log.exists():
            raise UsageError(
                f"{self.path}: this run was started; --resume auto (resume=True) resumes it, --overwrite "
                "(overwrite=True) starts it anew"
            )

    def refuse_diverged(self) -> None:
        """Raise DivergedError if this run has diverged, since it would diverge again."""
        for event in read_events(self._log):
            if event["event"] == "diverged":
                raise DivergedError(
                    f"{self.path}: this run has diverged and would diverge again ({event.get('message')}). "
                    "Change --lr for another run, or start this one anew with --overwrite"
                )

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a finished run, or None.

        Raises:
            DataError: the summary is damaged.
        """
        return read_summary(self.path / SUMMARY)

    def clear(self) -> None:
        """Remove everything in the directory but its lock."""
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def begin(
        self, shards: Location, reports: Sequence[EpochReport] = (), step: int = 0, *, world_size: int = 1
    ) -> None:
        """Write the log of a run that starts, or resumes, at a step: one line for each finished epoch, no others.

        Args:
            shards: location of the shard set.
            reports: of the finished epochs.
            step: number of finished steps.
            world_size: number of processes.
        """
        events = [event for event in read_events(self._log) if step and _is_before(event, len(reports))]
        written = {event["epoch"] for event in events if event["event"] == "epoch"}
        events += [{"event": "epoch", **asdict(report)} for report in reports if report.epoch not in written]
        start = {
            "event": "resume" if step else "start",
            "step": step,
            "shards": str(shards.absolute() if isinstance(shards, Path) else shards),
            "settings": self.settings,
            "versions": versions(world_size),
        }
        write_atomic(self._log, b"".join(map(_line, [*events, start])))

    def log(self, event: str, **content: object) -> None:
        """Append one line to `log.jsonl`."""
        with self._log.open("ab") as file:
            file.write(_line({"event": event, **content}))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which marks the run as finished, and remove the checkpoints."""
        self.log("end", **summary)
        write_atomic(self.path / SUMMARY, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
        self.drop_checkpoints()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints, which a finished run no longer needs."""
        if self.checkpoints.directory.exists():
            shutil.rmtree(self.checkpoints.directory)


def _is_before(event: Mapping[str, Any], epoch: int) -> bool:
    """Return whether a line of the log belongs to the time before that epoch."""
    if event["event"] == "epoch":
        return type(event.get("epoch")) is int and event["epoch"] < epoch
    return bool(event["event"] != "end")


def _line(event: Mapping[str, object]) -> bytes:
    return (json.dumps(event, allow_nan=False) + "\n").encode()
