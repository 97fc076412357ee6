"""How many CPU cores this process may use."""

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use: the machine's, its CPU affinity, or its cgroup's quota if smaller.

    Args:
        root: where `proc` and `sys` are mounted.

    Returns:
        At least 1. A quota of 1.5 cores counts as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    """Return the CPU quotas of this process's cgroups and of all above them, in cores."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version_2 = not controllers
        if not version_2 and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("" if version_2 else "cpu")
        group = mount / path.strip("/")
        # In a container the path may be the host's, and its files lie at the mount itself.
        for directory in {group, *group.parents} if group.is_relative_to(mount) else {mount}:
            if not directory.is_relative_to(mount):
                continue
            if version_2:
                quota, _, period = _read(directory / "cpu.max").partition(" ")
            else:
                quota, period = (_read(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if quota.strip().isdecimal() and period.strip().isdecimal():  # else "max", "-1" or no file
                found.append(int(quota) / int(period))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
