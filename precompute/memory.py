"""Memory: how much of it a bake may take."""

import os
import re
import resource
import sys
from pathlib import Path

from shards.errors import UsageError

__all__ = ["memory_bytes", "resident_bytes", "usual_bytes"]

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)(i?)B?", re.IGNORECASE)
STATM = Path("/proc/self/statm")
# What a container may take at most, as cgroups of version 2 and 1 have it.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes(text: str) -> int:
    """Read a size such as 500MB, 4GB or 2GiB.

    Raises:
        UsageError: not of that form, or nothing.
    """
    found = SIZE.fullmatch(text.strip())
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ") if found else 0
    if size < 1:
        raise UsageError(f"--memory: expected a size such as 500MB or 4GB, found {text!r}")
    return int(size)


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
