"""What stands in the directory already: to be gone on with, refused, or replaced."""

import re
import threading
from pathlib import Path

from precompute.progress import Progress, say
from precompute.workers import each_in_threads, stop_if
from shards.errors import DataError, listed
from shards.plan import MANIFEST, Plan, Shard, differences
from shards.verify import damage

__all__ = ["discard_damaged", "discard_parts", "remove_all", "settle"]

SHARD_FILE = re.compile(r"(train-e\d{3,}|test|val)-\d{3,}\.(tar|json)")
PART_FILE = re.compile(rf"({SHARD_FILE.pattern}|{re.escape(MANIFEST)})\.part")


def settle(plan: Plan, directory: Path) -> Plan:
    """Hold the plan against what stands there; return it with the larger number of epochs.

    Raises:
        DataError: another plan's shards, or shards without a manifest.
    """
    if not (directory / MANIFEST).exists():
        strays = sorted(path.name for path in directory.iterdir() if SHARD_FILE.fullmatch(path.name))
        if strays:
            raise DataError(
                f"{directory}: holds {listed(strays, 2)}, but no {MANIFEST} to say what they are; "
                "--overwrite replaces them, or name another --out"
            )
        return plan
    there = Plan.read(directory)
    found = differences(there, plan)
    if found:
        raise DataError(
            f"{directory}: holds other shards ({'; '.join(found)}). --overwrite replaces them, or name another --out"
        )
    return plan.with_epochs(max(plan.epochs, there.epochs))


def remove_all(directory: Path) -> None:
    """Remove a shard set's files and no others, the manifest first."""
    (directory / MANIFEST).unlink(missing_ok=True)
    for path in list(directory.iterdir()):
        if SHARD_FILE.fullmatch(path.name):
            path.unlink()


def discard_parts(directory: Path) -> None:
    """Remove what an interrupted bake was writing."""
    for path in list(directory.iterdir()):
        if PART_FILE.fullmatch(path.name):
            path.unlink()


def discard_damaged(plan: Plan, directory: Path, workers: int) -> None:
    """Read what is there already, and remove the index of what is not whole: it is baked again."""
    present = [shard for shard in plan.shards() if (directory / shard.index).is_file()]
    if not present:
        return
    with Progress(plan.source.name, "check", present) as progress:

        def check(shard: Shard, stopped: threading.Event) -> None:
            stop_if(stopped)
            trouble = damage(directory, shard, plan.identity)
            progress.add(shard.samples, shard.size_bytes)
            if trouble:
                say(f"{trouble}; baking {shard.tar} again")
                (directory / shard.index).unlink()

        each_in_threads(check, present, workers)
