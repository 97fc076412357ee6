"""Tasks: one bake dealt to several commands, which need no more of each other than the directory.

Slurm's arrays and Kubernetes' indexed jobs start them, start them again, and count them.
"""

import contextlib
import functools
import re
import time
from dataclasses import dataclass
from pathlib import Path

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import UsageError
from prebake.format.manifest import Plan, Shard
from prebake.precompute.augment import Augmentation
from prebake.precompute.bake import has_manifest, write_and_tidy, write_here, write_manifest
from prebake.precompute.plan import check_space, estimate, out_of_space
from prebake.precompute.progress import Progress
from prebake.precompute.remote import check_scratch, claim
from prebake.precompute.resume import discard_damaged, discard_parts, reconcile
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources.known import SourceData
from prebake.storage.atomic import make_directory
from prebake.storage.files import Location, present
from prebake.storage.lock import HeldError, locked
from prebake.storage.remote import Remote

__all__ = ["Task", "bake_task"]

MAX_TASKS = 10**6
PATIENCE_SECONDS = 10.0  # all tasks start at once, and one after the other looks whether it is the first


@dataclass(frozen=True)
class Task:
    """Task `number` of `count`, from 0 to `count` - 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Task":
        """Read `3/8`.

        Raises:
            UsageError: not of that form, or no such task.
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
        """Return this task's shards, dealt in turn, so that the first epochs are whole early."""
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
    """Write what is missing of a task's share, after checking every byte of what is there of it; arguments as `bake`.

    Other tasks of this bake may run beside it, this very one too.

    Returns:
        The archives of the whole set that are still missing.

    Raises:
        DataError: another plan's shards stand there, or a bake that is no task of this one is at work.
        MachineError: not enough space, or a process was killed.
    """
    workers = workers or usable_cores()
    if isinstance(directory, Remote):
        return _bake_elsewhere(source, plan, augmentation, directory, task, workers, memory)
    try:
        make_directory(directory)
        with contextlib.ExitStack() as held:
            plan = _join(plan, directory, held)
            writer, share = ShardWriter(directory, plan.identity), task.share(plan)
            discard_damaged(plan, directory, workers, share)
            check_space([estimate(plan, directory, share=share)], directory)
            todo = [shard for shard in share if not writer.has(shard)]
            if todo:
                pool = functools.partial(write_here, source, plan, augmentation, writer, workers, memory)
                # What bears another token may be another task's, which is at work.
                write_and_tidy(pool, plan, directory, todo, functools.partial(discard_parts, directory, writer.token))
            else:
                log(f"{plan.source.name}: task {task} finds all {len(share)} shards of its share, every byte checked")
        left = [shard.tar for shard in plan.shards() if not writer.has(shard)]
        if not left:
            _sweep(directory)
        return left
    except OSError as error:
        raise out_of_space(error, plan, directory) from None


def _bake_elsewhere(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Remote,
    task: Task,
    workers: int,
    memory: int | None,
) -> list[str]:
    plan, missing = claim(plan, directory, overwrite=False)
    share = set(task.share(plan))
    todo = [shard for shard in missing if shard in share]
    check_scratch(todo, workers)
    with Progress(plan.source.name, "bake", todo) as progress:
        write_here(source, plan, augmentation, ShardWriter(directory, plan.identity), workers, memory, todo, progress)
    there = present(directory, [shard.index for shard in plan.shards()])
    return [shard.tar for shard in plan.shards() if shard.index not in there]


def _join(plan: Plan, directory: Path, held: contextlib.ExitStack) -> Plan:
    """Hold the lock beside the other tasks, the manifest standing there; who comes first writes it, alone."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            plan = reconcile(plan, directory, overwrite=False)
            if not has_manifest(plan, directory):
                with locked(directory, needed=False):
                    plan = reconcile(plan, directory, overwrite=False)
                    write_manifest(plan, directory, ShardWriter(directory, plan.identity).token)
            held.enter_context(locked(directory, shared=True, needed=False))
            return plan
        except HeldError:
            if time.monotonic() > ends:
                raise


def _sweep(directory: Path) -> None:
    """Remove what killed tasks were writing, unless somebody is still at work: then the last one does it."""
    with contextlib.suppress(HeldError), locked(directory, needed=False):
        discard_parts(directory)
