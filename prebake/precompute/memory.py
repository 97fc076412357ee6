"""The memory that a bake may use."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["resident_bytes", "usual_bytes"]

STATM = Path("/proc/self/statm")
GROUPS, LIMITS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usual_bytes() -> int:
    """Return half of the memory of the machine, or of the limit that a container, Slurm or systemd sets."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _limits():
        text = limit.read_text().strip() if limit.is_file() else ""
        if text.isdecimal():
            most = min(most, int(text))
    return most // 2


def _limits() -> Iterator[Path]:
    """Yield the files of memory limits: of this process's control group and its parents, in versions 2 and 1."""
    lines = GROUPS.read_text(errors="surrogateescape").splitlines() if GROUPS.is_file() else []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            top, name = LIMITS, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = LIMITS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container may see the name of its group, but its own group at the top of the tree.
        parts = [part for part in group.split("/") if part]
        yield from (top.joinpath(*parts[:depth], name) for depth in range(len(parts) + 1))


def resident_bytes() -> int:
    """Return the memory that this process uses in bytes; on macOS, the most that it has used."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
