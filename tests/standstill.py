"""python -m tests.standstill COMMAND...: run a command, and pause all its processes at random times. Linux only.

A busy or migrated machine pauses processes like this. A test that fails under it depends on the clock.
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
PAUSE_SECONDS = (0.3, 3.0)


def descendants(first: int) -> list[int]:
    """Return a process and all its descendants."""
    started: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            # proc(5): state and parent follow the name, which may hold any character.
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            started.setdefault(int(parent), []).append(int(path.name))
    found = [first]
    for process in found:
        found += started.get(process, [])
    return found


def pause(first: int, seconds: float) -> None:
    """Pause a process and its descendants for that many seconds."""
    stopped: set[int] = set()
    while new := set(descendants(first)) - stopped:  # a process may have started another one meanwhile
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
    options.add_argument("--seed", type=int, default=0, help="seed of the times; default 0")
    options.add_argument("command", nargs=argparse.REMAINDER)
    arguments = options.parse_args()
    rng, times, still = random.Random(arguments.seed), 0, 0.0  # noqa: S311 - no secret
    running = subprocess.Popen(arguments.command)
    while running.poll() is None:
        time.sleep(rng.uniform(*BETWEEN_SECONDS))
        seconds = rng.uniform(*PAUSE_SECONDS)
        pause(running.pid, seconds)
        times, still = times + 1, still + seconds
    log(f"paused {times} times, for {still:.0f} s in total")
    sys.exit(running.returncode)


if __name__ == "__main__":
    main()
