"""What stands in the directory already: to be gone on with, refused, or replaced."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path

from prebake.console import log
from prebake.errors import DataError, listed
from prebake.format.manifest import MANIFEST, Plan, Shard, differences
from prebake.format.verify import damage
from prebake.precompute.progress import Progress
from prebake.precompute.workers import each_in_threads, stop_if
from prebake.storage.atomic import remove
from prebake.storage.files import Location, present

__all__ = ["discard_damaged", "discard_parts", "files_of", "is_begun", "reconcile"]

SHARD_FILE = re.compile(r"(train-e\d{3,}|test|val)-\d{3,}\.(tar|json)")
PART_FILE = re.compile(rf"({SHARD_FILE.pattern}|{re.escape(MANIFEST)}|pixels|labels|counts)(\.[0-9a-f]{{16}})?\.part")


def reconcile(plan: Plan, directory: Location, *, overwrite: bool) -> Plan:
    """Hold the plan against what stands there; return it with the larger number of epochs.

    Raises:
        DataError: another plan's shards, or shards without a manifest, and they are not to be overwritten.
    """
    if overwrite or (isinstance(directory, Path) and not directory.is_dir()):
        return plan
    if not (directory / MANIFEST).exists():
        names = [path.name for path in directory.iterdir()] if isinstance(directory, Path) else directory.names()
        strays = sorted(name for name in names if SHARD_FILE.fullmatch(name))
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
    return there if there.epochs > plan.epochs else plan


def is_begun(plan: Plan, directory: Location) -> bool:
    """Say whether this very plan stands there unfinished, as an interrupted bake leaves it."""
    try:
        there = Plan.read(directory)
    except DataError:
        return False
    indexes = [shard.index for shard in plan.shards()]
    return there.to_bytes() == plan.to_bytes() and len(present(directory, indexes)) < len(indexes)


def files_of(directory: Path) -> list[Path]:
    """List the archives and indexes that stand there, of whatever plan, and no other files."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if SHARD_FILE.fullmatch(path.name))


def discard_parts(directory: Path, token: str = "") -> None:
    """Remove what an interrupted bake was writing: what bears this token, or all."""
    for path in list(directory.iterdir()):
        if PART_FILE.fullmatch(path.name) and token in path.name:
            remove(path)


def discard_damaged(plan: Plan, directory: Path, workers: int, shards: Sequence[Shard]) -> None:
    """Read what is there already of these shards, and remove the index of what is not whole: it is baked again."""
    present = [shard for shard in shards if (directory / shard.index).is_file()]
    if not present:
        return
    with Progress(plan.source.name, "check", present) as progress:

        def check(shard: Shard, stopped: threading.Event) -> None:
            stop_if(stopped)
            trouble = damage(directory, shard, plan)
            progress.add(shard.samples)
            if trouble:
                log(f"{trouble}; baking {shard.tar} again")
                remove(directory / shard.index)

        each_in_threads(check, present, workers)
