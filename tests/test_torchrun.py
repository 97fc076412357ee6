"""Runs under torchrun itself: stopped, killed and started again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from prebake.train.tensors import read_tensors
from tests.helpers.commands import ON_CPU, ROOT, events_of, log_of, summary_of, the_run

pytestmark = pytest.mark.slow
PATIENCE = 180.0


class Torchrun:
    """A job of two processes.

    Args:
        arguments: torchrun's own, then those of the command after `train`.
    """

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)

    def wait_for_epochs(self, root: Path, count: int) -> None:
        """Wait until the log of the only run tells of so many epochs."""
        deadline = time.monotonic() + PATIENCE
        while not any(log.read_text().count('"event": "epoch"') >= count for log in root.glob("*/log.jsonl")):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ranks(self) -> dict[int, int]:
        """Return the process ids of its ranks."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == self.process.pid:
                    match = re.search(r"\0RANK=(\d+)\0", (path / "environ").read_text())
                    found.update({int(match[1]): int(path.name)} if match else {})
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def ended(self) -> tuple[int, str, str]:
        """Wait for its end; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def options(shards: Path, root: Path) -> tuple[object, ...]:
    """Return what trains the tiny digits for ten epochs of ten steps, and goes on with that."""
    choices = ("--batch-size", 20, "--epochs", 10, "--replay", "--resume", "auto")
    return ("-m", "train", "--shards", shards / "digits", "--out", root, *ON_CPU, *choices)


def test_sigterm_leaves_a_checkpoint_and_a_restart_resumes(shards: Path, tmp_path: Path) -> None:
    stopped = Torchrun(*options(shards, tmp_path))
    stopped.wait_for_epochs(tmp_path, 1)
    stopped.process.send_signal(signal.SIGTERM)
    code, _, err = stopped.ended()
    assert code != 0
    assert err.count("resumes this run") == 1, err
    run = the_run(tmp_path)
    (checkpoint,) = (run / "checkpoint").iterdir()
    step = int(checkpoint.stem[5:])
    assert 10 <= step < 100

    restarted = Torchrun("--max-restarts", 1, *options(shards, tmp_path))
    restarted.wait_for_epochs(tmp_path, step // 10 + 1)
    os.kill(restarted.ranks()[0], signal.SIGKILL)
    code, out, err = restarted.ended()
    assert code == 0, err
    assert err.count(f"resuming after step {step} of 100") == 2, err
    assert out.count("digits") == 1
    assert events_of(run)[-1] == "end"
    assert [line["epoch"] for line in log_of(run) if line["event"] == "epoch"] == list(range(10))
    assert summary_of(run)["world_sizes"] == [2]
    tensors, _ = read_tensors(run / "weights.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_job_within_30_seconds(shards: Path, tmp_path: Path, rank: int) -> None:
    job = Torchrun(*options(shards, tmp_path))
    job.wait_for_epochs(tmp_path, 1)
    ranks, killed = job.ranks(), time.monotonic()
    os.kill(ranks[rank], signal.SIGKILL)
    code, _, err = job.ended()
    assert time.monotonic() - killed < 30
    assert code != 0
    assert "Signal 9 (SIGKILL)" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
