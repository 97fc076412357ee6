"""Memory: how much of it a bake may take."""

import os
import resource
import sys
from pathlib import Path

__all__ = ["resident_bytes", "usual_bytes"]

STATM = Path("/proc/self/statm")
# What a container may take at most, as cgroups of version 2 and 1 have it.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usual_bytes() -> int:
    """Return half of what this machine, or this container, has."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in LIMITS:
        text = limit.read_text().strip() if limit.is_file() else ""
        if text.isdecimal():
            most = min(most, int(text))
    return most // 2


def resident_bytes() -> int:
    """Return what this process holds in memory; on macOS, which does not tell, the most that it ever did."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
