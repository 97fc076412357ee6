"""Running `python -m train`, and reading what a run has written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ON_CPU = ("--device", "cpu", "--precision", "fp32")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def in_a_process(*arguments: object) -> Ended:
    """Run `python -m train` from the repository root."""
    done = subprocess.run(
        [sys.executable, "-m", "train", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def the_run(runs: Path, start: str = "") -> Path:
    """Return the only run there of that beginning."""
    (path,) = runs.glob(f"{start}*")
    return path


def summary_of(run: Path) -> dict[str, Any]:
    """Read a run's summary."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def log_of(run: Path) -> list[dict[str, Any]]:
    """Read a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def events_of(run: Path) -> list[str]:
    """List what a run's log tells of, in order."""
    return [line["event"] for line in log_of(run)]
