"""The number of CPU threads that PyTorch computes with."""

import os
import sys
from pathlib import Path

import torch

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import UsageError

__all__ = ["busy_elsewhere", "use_threads"]


def use_threads(threads: int | None) -> None:
    """Let PyTorch compute with that many threads, and warn where other processes need the cores for themselves.

    Args:
        threads: None: `OMP_NUM_THREADS` where it is set, else the cores that this process may use, at most PyTorch's
            own choice, which counts a core with two hardware threads once.

    Raises:
        UsageError: less than 1.
    """
    cores = usable_cores()
    if threads is None:
        chosen = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(cores, torch.get_num_threads())
    elif threads < 1:
        raise UsageError(f"--threads: expected at least 1, found {threads}")
    else:
        chosen = threads
    if chosen != torch.get_num_threads():
        torch.set_num_threads(chosen)
    others = busy_elsewhere() if cores == os.cpu_count() else 0  # the load is the whole machine's
    if chosen > 1 and chosen + others > cores:
        log(
            f"{chosen} threads on {cores} cores, and other processes keep about {others} of them busy. Threads that "
            f"wait for a core delay all others: --threads {max(1, cores - others)} may train faster"
        )


def busy_elsewhere(root: Path = Path("/")) -> int:
    """Return about how many threads of other processes are running.

    Args:
        root: where `proc` is mounted.
    """
    load, *_ = os.getloadavg()  # over the last minute, in which this process may have been the only one
    if not sys.platform.startswith("linux"):
        return round(load)
    running = (root / "proc/loadavg").read_text().split()[3].split("/")[0]
    return min(round(load), int(running) - 1)  # now, this thread included
