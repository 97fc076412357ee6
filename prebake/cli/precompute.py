"""`prebake precompute`: bake data sets into shard sets."""

import argparse
import functools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from prebake.cli.options import (
    add_memory_option,
    add_source_options,
    add_transform_options,
    decoding,
    memory_of,
    transforms_of,
)
from prebake.cli.parser import CommandParser
from prebake.console import log
from prebake.errors import UsageError
from prebake.format.columns import IMAGE_DTYPES
from prebake.format.manifest import Plan
from prebake.precompute.augment import (
    AUGMENTATIONS,
    FLIPS,
    PAD_MODES,
    Augmentation,
    augmentation_for,
)
from prebake.precompute.bake import Pool, bake_source
from prebake.precompute.dask import SharedSet, check_scheduler, imap_cluster
from prebake.precompute.images import SourceData, hold_out
from prebake.precompute.pixels import nearest_directory
from prebake.precompute.plan import Estimate, check_choices, check_space, estimate, make_plan
from prebake.precompute.progress import gigabytes
from prebake.precompute.remote import check_writable
from prebake.precompute.resume import reconcile
from prebake.precompute.sources import check_name, load, sources
from prebake.precompute.sources.registry import absolute_name
from prebake.precompute.task import Task, bake_task
from prebake.storage.files import Location, parse_path


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake precompute",
        description="Compute every augmented view of an image data set, and write them to shards.",
        epilog="prebake list prints the data sets that --dataset accepts.",
    )
    add = options.add_argument
    names = ", ".join(map(str, sources().values()))
    add("--epochs", type=int, required=True, help="number of views of each training image")
    add("--dataset", nargs="+", default=["cifar10"], metavar="NAME", help=f"any of {names}; default cifar10")
    add_source_options(options)
    add(
        "--out",
        type=parse_path,
        default=Path("shards"),
        help="directory or URL to write the shard sets in; default shards",
    )
    add(
        "--augment",
        choices=AUGMENTATIONS,
        metavar="NAME",
        help=f"one of {', '.join(AUGMENTATIONS)}; default standard, or plain with --transform",
    )
    add_transform_options(options)
    add("--pad", type=int, help="padding in pixels on each side before the crop")
    add("--pad-mode", choices=PAD_MODES, help="how the padding is filled")
    add("--flip", choices=FLIPS, help="when images are mirrored")
    add("--cutout", type=int, help="side in pixels of the cutout square; 0 for none")
    add(
        "--resize",
        metavar="SIDE:EPOCHS,...",
        help="image sides and the number of epochs of each, such as 16:5,24:10,32:10",
    )
    add("--dtype", default="float16", choices=IMAGE_DTYPES, help="dtype of the stored images; default float16")
    add(
        "--val-fraction",
        type=float,
        default=0.0,
        help="fraction of the training images held out for validation; default 0",
    )
    add("--seed", type=int, default=0, help="seed of all random draws; default 0")
    add("--workers", type=int, help="number of threads, or of processes for a transform; default one per core")
    add(
        "--task",
        metavar="I/N",
        help="bake only the shards of task I of N, counted from 0; the tasks may run at the same time",
    )
    add("--dask", metavar="ADDRESS", help="bake on the workers of a Dask scheduler, such as tcp://HOST:8786")
    add_memory_option(options)
    add("--overwrite", action="store_true", help="replace an existing shard set")
    add("--dry-run", action="store_true", help="print what would be written, and write nothing")
    add("--json", action="store_true", help="print the result as JSON")
    return options


def main() -> None:
    """Bake the data sets one after the other."""
    arguments = parser().parse_args()
    task = _task(arguments)
    _check(arguments)
    # Everything is checked before the first byte is written.
    jobs = [_plan(name, arguments) for name in dict.fromkeys(arguments.dataset)]
    twice = [name for name, times in Counter(job.plan.source.name for job in jobs).items() if times > 1]
    if twice:
        raise UsageError(f"--dataset: {len(jobs)} sets, of which several are named {twice[0]}; give each an --out")
    estimates = [
        estimate(job.plan, job.directory, overwrite=arguments.overwrite, share=task.share(job.plan) if task else None)
        for job in jobs
    ]
    if arguments.dry_run:
        for job, left in zip(jobs, estimates, strict=True):
            _report(job, left, arguments.json)
    check_space(estimates, arguments.out)
    if not arguments.dry_run:
        for job in jobs:
            if task:
                _bake_task(job, task, arguments)
                continue
            bake_source(
                job.source,
                job.plan,
                job.augmentation,
                job.directory,
                workers=arguments.workers,
                memory=memory_of(arguments),
                overwrite=arguments.overwrite,
                pool=_cluster(job, arguments),
            )
            _report_baked(job, arguments.json)


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for wrong options before images are decoded, which may take hours."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {arguments.workers}")
    check_writable(arguments.out)
    for name in arguments.dataset:
        check_name(name, decoding(arguments, None))
    memory_of(arguments)
    for transform in transforms_of(arguments):
        if transform is not None:
            _ = transform.transform  # import it before images are decoded
    check_choices(arguments.epochs, arguments.dtype, arguments.seed)
    if not 0 <= arguments.val_fraction < 1:
        raise UsageError(f"--val-fraction: expected a fraction between 0 and 1, found {arguments.val_fraction}")
    if arguments.dask and not arguments.dry_run:
        check_scheduler(arguments.dask)


@dataclass(frozen=True)
class Job:
    """One data set to bake; `name` is as the user gave it."""

    name: str
    source: SourceData
    augmentation: Augmentation
    plan: Plan
    directory: Location


def _plan(name: str, arguments: argparse.Namespace) -> Job:
    changes = {key: getattr(arguments, key) for key in ("pad", "pad_mode", "flip", "cutout")}
    changes["resize"] = _resize(arguments.resize, arguments.epochs)
    preset = arguments.augment or ("plain" if arguments.transform else "standard")
    augmentation_for(preset, **changes)  # refuses wrong values before images are decoded
    how = decoding(arguments, nearest_directory(arguments.out))
    source = hold_out(load(name, arguments.data_dir, how), arguments.val_fraction)
    log(source.summary())
    augmentation = source.augmentation(preset, **changes).with_transforms(*transforms_of(arguments))
    plan = make_plan(source, augmentation, arguments.epochs, arguments.dtype, arguments.seed)
    directory = arguments.out / source.name
    return Job(name, source, augmentation, reconcile(plan, directory, overwrite=arguments.overwrite), directory)


def _task(arguments: argparse.Namespace) -> Task | None:
    if arguments.task is None:
        return None
    for option in ("overwrite", "dask"):
        if getattr(arguments, option):
            raise UsageError(f"--{option}: not with --task, which bakes beside others; bake once without --task")
    return Task.parse(arguments.task)


def _resize(text: str | None, epochs: int) -> str | None:
    """Compare --resize with the number of epochs; return it without the epochs of the last side, as in a manifest."""
    if text is None or ":" not in text.rpartition(",")[2]:
        return text
    counts = [part.partition(":")[2] for part in text.split(",")]
    if all(count.isdecimal() for count in counts) and sum(map(int, counts)) != epochs:
        raise UsageError(f"--resize: {text} names {sum(map(int, counts))} epochs, --epochs {epochs}")
    return text.rpartition(":")[0]


def _cluster(job: Job, arguments: argparse.Namespace) -> Pool | None:
    """Return the pool of --dask, or None."""
    if not arguments.dask:
        return None
    # Workers have other working directories, and decode images into temporary directories of their own.
    shared = SharedSet(
        absolute_name(job.name),
        arguments.data_dir.absolute(),
        decoding(arguments, None),
        job.directory.absolute() if isinstance(job.directory, Path) else job.directory,
        job.plan.identity,
        memory_of(arguments),
        *transforms_of(arguments),
    )
    return functools.partial(imap_cluster, arguments.dask, shared)


def _report_baked(job: Job, as_json: bool) -> None:
    epochs, images = job.plan.epochs, job.plan.splits["train"][0].samples
    if as_json:
        print(json.dumps({"dataset": job.plan.source.name, "directory": str(job.directory), "epochs": epochs}))
    else:
        print(f"{job.plan.source.name}: {epochs} epoch{'s' * (epochs != 1)} of {images} images in {job.directory}")


def _bake_task(job: Job, task: Task, arguments: argparse.Namespace) -> None:
    workers, memory = arguments.workers, memory_of(arguments)
    missing = bake_task(job.source, job.plan, job.augmentation, job.directory, task, workers=workers, memory=memory)
    if arguments.json:
        found = {"dataset": job.plan.source.name, "directory": str(job.directory), "epochs": job.plan.epochs}
        print(json.dumps({**found, "task": str(task), "missing": missing}))
    else:
        others = f"{len(missing)} shards of other tasks are still missing" if missing else "the set is whole"
        print(f"{job.plan.source.name}: task {task} has its share in {job.directory}; {others}")


def _report(job: Job, left: Estimate, as_json: bool) -> None:
    name = job.plan.source.name
    if as_json:
        print(json.dumps({"dataset": name, "directory": str(job.directory), **asdict(left)}))
    else:
        free = "no end known" if left.free_bytes is None else f"{left.free_bytes} bytes ({gigabytes(left.free_bytes)})"
        print(
            f"{name}: {left.shards} of {left.planned_shards} shards to write into {job.directory}, "
            f"{left.size_bytes} of {left.planned_bytes} bytes ({gigabytes(left.size_bytes)}); "
            f"{free} free; each epoch more takes {gigabytes(left.epoch_bytes)}, and what train --replay repeats none"
        )
