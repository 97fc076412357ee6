"""What a directory holds already: shards to keep, to refuse or to replace."""

import re
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

from prebake.console import log
from prebake.errors import DataError, listed
from prebake.format.manifest import MANIFEST, Plan, Shard, differences
from prebake.format.verify import damage
from prebake.precompute.augment.identity import changes, without_identity
from prebake.precompute.progress import Progress
from prebake.precompute.workers import imap_threads
from prebake.storage.atomic import remove
from prebake.storage.files import Location, existing

__all__ = ["discard_damaged", "discard_parts", "files_of", "is_begun", "reconcile"]

SHARD_FILE = re.compile(r"(train-e\d{3,}|test|val)-\d{3,}\.(tar|json)")
PART_FILE = re.compile(rf"({SHARD_FILE.pattern}|{re.escape(MANIFEST)}|pixels|labels)(\.[0-9a-f]{{16}})?\.part")


def reconcile(plan: Plan, directory: Location, *, overwrite: bool) -> Plan:
    """Compare the plan with the manifest in the directory; return the one with more epochs.

    Raises:
        DataError: without `overwrite`, there are shards of another plan, or shards without a manifest.
    """
    if overwrite or (isinstance(directory, Path) and not directory.is_dir()):
        return plan
    if not (directory / MANIFEST).exists():
        names = [path.name for path in directory.iterdir()] if isinstance(directory, Path) else directory.names()
        strays = sorted(name for name in names if SHARD_FILE.fullmatch(name))
        if strays:
            raise DataError(
                f"{directory}: holds {listed(strays, 2)}, but no {MANIFEST} to say what they are; "
                "--overwrite (overwrite=True) replaces them, or name another --out (out=DIR)"
            )
        return plan
    there = Plan.read(directory)
    changed = changes(there.augmentation, plan.augmentation)
    rest = (replace(each, augmentation=without_identity(each.augmentation)) for each in (there, plan))
    found = changed + differences(*rest)
    if found:
        advice = "Restore it to add epochs or to resume. " * (len(changed) == len(found))
        raise DataError(
            f"{directory}: holds other shards ({'; '.join(found)}). {advice}"
            "--overwrite (overwrite=True) replaces them, or name another --out (out=DIR)"
        )
    return there if there.epochs > plan.epochs else plan


def is_begun(plan: Plan, directory: Location) -> bool:
    """Whether the directory holds this very plan unfinished, as an interrupted bake leaves it."""
    try:
        there = Plan.read(directory)
    except DataError:
        return False
    indexes = [shard.index for shard in plan.shards()]
    return there.to_bytes() == plan.to_bytes() and len(existing(directory, indexes)) < len(indexes)


def files_of(directory: Path) -> list[Path]:
    """List the archives and indexes in the directory, of any plan."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if SHARD_FILE.fullmatch(path.name))


def discard_parts(directory: Path, token: str = "") -> None:
    """Remove the temporary files of interrupted bakes: those with this token in their names, or all."""
    for path in list(directory.iterdir()):
        if PART_FILE.fullmatch(path.name) and token in path.name:
            remove(path)


def discard_damaged(plan: Plan, directory: Path, workers: int, shards: Sequence[Shard]) -> None:
    """Verify the shards that exist, and remove the index of each damaged one: the bake then writes it again."""
    existing = [shard for shard in shards if (directory / shard.index).is_file()]
    if not existing:
        return

    def verify(shard: Shard, stopped: threading.Event) -> tuple[Shard, str | None]:
        if stopped.is_set():
            raise CancelledError
        return shard, damage(directory, shard, plan)

    with Progress(plan.source.name, "check", existing) as progress:
        for shard, found in imap_threads(verify, existing, workers):
            progress.update(shard)
            if found:
                log(f"{found}; baking {shard.tar} again")
                remove(directory / shard.index)
