"""python -m tests.standstill COMMAND...: run a command on a machine that seems to stand still, again and again.

All its processes are stopped at random times, and go on some seconds later, as on a machine that others use too or
that is moved. A test that fails then holds the clock against something else than it means to. Linux only.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from prebake.console import log

BETWEEN_SECONDS = (1.0, 4.0)
STILL_SECONDS = (0.3, 3.0)


def descendants(first: int) -> list[int]:
    """Return a process and all that it has started, and these in turn."""
    started: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            # Behind the name, which may hold anything: state, then the parent. Source: proc(5).
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            started.setdefault(int(parent), []).append(int(path.name))
    found = [first]
    for process in found:
        found += started.get(process, [])
    return found


def stand_still(first: int, seconds: float) -> None:
    """Stop a process with all that it has started, and let them go on after so many seconds."""
    stopped: set[int] = set()
    while new := set(descendants(first)) - stopped:  # one may have started another meanwhile
        for process in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        stopped |= new
    time.sleep(seconds)
    for process in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def main() -> None:
    """Run the command, and exit as it does."""
    options = argparse.ArgumentParser(prog="python -m tests.standstill", description=__doc__)
    options.add_argument("--seed", type=int, default=0, help="of the times (default 0)")
    options.add_argument("command", nargs=argparse.REMAINDER)
    arguments = options.parse_args()
    rng, times, still = random.Random(arguments.seed), 0, 0.0  # noqa: S311 - no secret
    running = subprocess.Popen(arguments.command)
    while running.poll() is None:
        time.sleep(rng.uniform(*BETWEEN_SECONDS))
        seconds = rng.uniform(*STILL_SECONDS)
        stand_still(running.pid, seconds)
        times, still = times + 1, still + seconds
    log(f"stood still {times} times, for {still:.0f} s")
    sys.exit(running.returncode)


if __name__ == "__main__":
    main()
