"""Sessions: a command with all the processes that it starts, as a terminal sees them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Session", "alive"]

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0  # of tests on a machine with more to do than cores


@dataclass
class Session:
    """A command of ours in a session of its own.

    Attributes:
        process: its first process, whose id is the session's too.
    """

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, module: str, *arguments: object) -> "Session":
        """Start `python -m module` from the repository root."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return cls(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
        )

    def wait_for(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is true while the command runs; what does not come so is not left to run on."""
        deadline = time.monotonic() + patience
        while not true():
            assert self.process.poll() is None, self.process.communicate()
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"not within {patience} s: {self.process.communicate()}")
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ended(self, patience: float = PATIENCE) -> tuple[int, str, str]:
        """Wait for its end and for that of all its processes; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=patience)
        deadline = time.monotonic() + PATIENCE
        while left := alive(self.process.pid):
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"left behind: {left}")
            time.sleep(0.02)
        return self.process.returncode, out, err


def alive(session: int) -> list[int]:
    """List the processes of a session which have not ended (Linux alone tells)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found
