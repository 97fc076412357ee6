"""Clusters: a Dask scheduler and its workers on loopback, as commands of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Cluster", "cluster"]

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0


@dataclass
class Cluster:
    """A scheduler and workers.

    Attributes:
        address: the scheduler's.
        path: where their logs are.
        scheduler: its process.
        workers: theirs, dead ones too.
    """

    address: str
    path: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, package: bool = True) -> None:
        """Start a worker of two threads, which nobody starts again; `package`: with ours."""
        number = len(self.workers)
        command = ["dask_worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", "2"]
        self.workers.append(_start(self.path / f"worker{number}", command, package))

    def kill_worker(self, number: int) -> None:
        """Kill a worker by SIGKILL."""
        self.workers[number].send_signal(signal.SIGKILL)
        self.workers[number].wait()

    def said(self) -> str:
        """Return all logs."""
        return "\n".join(path.read_text() for path in sorted(self.path.glob("*.log")))


@contextlib.contextmanager
def cluster(path: Path, workers: int, failures: int = 1000) -> Iterator[Cluster]:
    """Start a scheduler that lets a shard's workers die so often, and workers; kill them all in the end."""
    path.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    found = Cluster(f"tcp://127.0.0.1:{port}", path, _start(path / "scheduler", command, True, failures))
    try:
        ends = time.monotonic() + PATIENCE
        while not _answers(port):
            assert found.scheduler.poll() is None, found.said()
            assert time.monotonic() < ends
            time.sleep(0.05)
        for _ in range(workers):
            found.add_worker()
        yield found
    finally:
        for process in (found.scheduler, *found.workers):
            process.kill()
            process.wait()


def _start(path: Path, command: list[str], package: bool, failures: int = 0) -> subprocess.Popen[bytes]:
    cwd = path.with_suffix(".cwd")
    cwd.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT) if package else "",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(failures),
        "OMP_NUM_THREADS": "1",
    }
    with path.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]],
            cwd=cwd,
            env=environment,
            stdout=log,
            stderr=log,
        )


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
