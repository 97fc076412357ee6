"""Tasks: several commands bake one shard set. Each bakes a part of the shards, and they share only the directory.

A Slurm array or a Kubernetes indexed job starts and restarts the tasks.
"""

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import UsageError
from prebake.format.manifest import Plan, Shard
from prebake.precompute.augment import Augmentation
from prebake.precompute.bake import LocalPool, has_manifest, timed_bake, write_manifest, write_shards
from prebake.precompute.images import SourceData
from prebake.precompute.plan import check_space, estimate, out_of_space
from prebake.precompute.remote import check_temp_space, claim
from prebake.precompute.resume import discard_damaged, discard_parts, reconcile
from prebake.precompute.shard_writer import ShardWriter
from prebake.storage.atomic import make_dirs
from prebake.storage.files import Location, existing
from prebake.storage.lock import LockedError, locked
from prebake.storage.remote import Remote

__all__ = ["Task", "bake_task"]

MAX_TASKS = 10**6
LOCK_TIMEOUT_SECONDS = 10.0  # tasks that start together hold the lock one after the other, each for a moment


@dataclass(frozen=True)
class Task:
    """Task `number` of `count`, from 0 to `count` - 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Task":
        """Parse a value of --task, such as `3/8`.

        Raises:
            UsageError: the form is wrong, or there is no such task.
        """
        match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or not 1 <= int(match[2]) <= MAX_TASKS:
            raise UsageError(f"--task: expected I/N, such as 0/8 for the first of eight tasks, found {text!r}")
        number, count = int(match[1]), int(match[2])
        if number >= count:
            raise UsageError(
                f"--task: tasks count from 0, so {count} of them from 0/{count} to {count - 1}/{count}; found {text}"
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, plan: Plan) -> list[Shard]:
        """Return every `count`-th shard, from `number`. So all tasks bake the first epochs first."""
        return plan.shards()[self.number :: self.count]


def bake_task(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Location,
    task: Task,
    *,
    workers: int | None = None,
    memory: int | None = None,
) -> list[str]:
    """Write the missing and damaged shards of a task. The arguments are those of `bake_source`.

    Other tasks of this bake may run at the same time. So may a second process with the same task.

    Returns:
        Names of the archives of the whole set that are still missing.

    Raises:
        DataError: the directory holds another plan, or a bake without --task is running there.
        MachineError: not enough space, or a process was killed.
    """
    workers = workers or usable_cores()
    if isinstance(directory, Remote):
        plan, missing = claim(plan, directory, overwrite=False)
        share = set(task.share(plan))
        todo = [shard for shard in missing if shard in share]
        check_temp_space(todo, workers)
        writer = ShardWriter(directory, plan.identity)
        write_shards(LocalPool(source, plan, augmentation, writer, workers, memory), plan, todo)
        return _missing(plan, directory)
    try:
        make_dirs(directory)
        with contextlib.ExitStack() as held:
            plan = _join(plan, directory, held)
            writer, share_of_task = ShardWriter(directory, plan.identity), task.share(plan)
            discard_damaged(plan, directory, workers, share_of_task)
            check_space([estimate(plan, directory, share=share_of_task)], directory)
            todo = [shard for shard in share_of_task if not writer.has(shard)]
            if not todo:
                log(f"{plan.source.name}: task {task} finds all {len(share_of_task)} shards of its share verified")
            else:
                # Temporary files with another token may belong to a running task.
                with timed_bake(directory, writer.token):
                    write_shards(LocalPool(source, plan, augmentation, writer, workers, memory), plan, todo)
        missing_tars = _missing(plan, directory)
        if not missing_tars:
            _remove_parts(directory)
        return missing_tars
    except OSError as error:
        raise out_of_space(error, plan, directory) from None


def _missing(plan: Plan, directory: Location) -> list[str]:
    there = existing(directory, [shard.index for shard in plan.shards()])
    return [shard.tar for shard in plan.shards() if shard.index not in there]


def _join(plan: Plan, directory: Path, held: contextlib.ExitStack) -> Plan:
    """Acquire the shared lock of all tasks. The first task writes the manifest under an exclusive lock."""
    ends = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            plan = reconcile(plan, directory, overwrite=False)
            if not has_manifest(plan, directory):
                with locked(directory, needed=False):
                    plan = reconcile(plan, directory, overwrite=False)
                    write_manifest(plan, directory, ShardWriter(directory, plan.identity).token)
            held.enter_context(locked(directory, shared=True, needed=False))
            return plan
        except LockedError:
            if time.monotonic() > ends:
                raise


def _remove_parts(directory: Path) -> None:
    """Remove the temporary files of killed tasks, unless another task is still running."""
    with contextlib.suppress(LockedError), locked(directory, needed=False):
        discard_parts(directory)
