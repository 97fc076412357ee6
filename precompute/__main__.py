"""python -m precompute: bake data sets into shards."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from precompute.audit import main as audit_main
from precompute.augment import AUGMENTATIONS, FLIPS, PAD_MODES, PLANS, Augmentation, augmentation_for
from precompute.bake import bake_source
from precompute.elsewhere import check_writable
from precompute.existing import settle
from precompute.plan import Estimate, check_space, estimate, make_plan
from precompute.progress import gigabytes
from precompute.repair import main as repair_main
from precompute.sources import DATASETS, SourceData, hold_out, load
from shards.command import run_command
from shards.errors import UsageError
from shards.files import Place, place
from shards.plan import Plan
from shards.record import ENCODINGS

COMMANDS = {"audit": audit_main, "repair": repair_main}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m precompute",
        description="Bake every augmented view of an image training set.",
        epilog="python -m precompute audit DIR holds stored records against what source and plan give; "
        "python -m precompute repair DIR bakes what is missing or damaged. Each has its --help.",
    )
    add = options.add_argument
    names = ", ".join(DATASETS)
    add("--epochs", type=int, required=True, help="variants of each training image")
    add("--dataset", nargs="+", default=["cifar10"], metavar="NAME", help=f"of {names}; default cifar10")
    add("--data-dir", type=Path, default=Path("data"), help="torchvision root, filled where empty; default data")
    add("--out", type=place, default=Path("shards"), help="root of the shard sets, or its URL; default shards")
    add("--augment", default="standard", metavar="NAME", help=f"of {', '.join(AUGMENTATIONS)}; default standard")
    add("--pad", type=int, help="pixels around the image before it is cropped")
    add("--pad-mode", help=f"of {', '.join(PAD_MODES)}")
    add("--flip", help=f"of {', '.join(FLIPS)}")
    add("--cutout", type=int, help="side in pixels of the square cut out, 0 for none")
    add("--plan", help=f"of {', '.join(PLANS)}; default independent: every epoch draws anew")
    add("--resize", metavar="SIDE:EPOCHS,...", help="sides of the images in turn, such as 16:5,24:10,32:10")
    add("--dtype", default="float16", help=f"of {', '.join(ENCODINGS)}; default float16")
    add("--val-fraction", type=float, default=0.0, help="share of the training images held out for validation")
    add("--seed", type=int, default=0, help="of all draws; default 0")
    add("--workers", type=int, help="threads, or processes for a transform that computes; default one a core")
    add("--overwrite", action="store_true", help="replace what stands there")
    add("--dry-run", action="store_true", help="say what would be written, and bake nothing")
    add("--json", action="store_true", help="print JSON")
    return options


def main() -> None:
    """Bake the data sets that are named, one after the other."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        COMMANDS[sys.argv[1]](sys.argv[2:])
        return
    arguments = parser().parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        raise UsageError(f"--workers: expected at least 1, found {arguments.workers}")
    check_writable(arguments.out)
    unknown = [name for name in arguments.dataset if name not in DATASETS]
    if unknown:
        raise UsageError(f"--dataset: no data set named {', '.join(unknown)}; there are {', '.join(DATASETS)}")
    # Everything is checked before the first byte is written.
    jobs = [_plan(name, arguments) for name in dict.fromkeys(arguments.dataset)]
    estimates = [estimate(job.plan, job.directory, overwrite=arguments.overwrite) for job in jobs]
    if arguments.dry_run:
        for job, left in zip(jobs, estimates, strict=True):
            _report(job, left, arguments.json)
    check_space(estimates, arguments.out)
    if not arguments.dry_run:
        for job in jobs:
            _bake(job, arguments)


@dataclass(frozen=True)
class Job:
    """One data set to bake."""

    source: SourceData
    augmentation: Augmentation
    plan: Plan
    directory: Place


def _plan(name: str, arguments: argparse.Namespace) -> Job:
    changes = {key: getattr(arguments, key) for key in ("pad", "pad_mode", "flip", "cutout", "plan")}
    changes["resize"] = _resize(arguments.resize, arguments.epochs)
    augmentation = augmentation_for(name, arguments.augment, **changes)
    source = hold_out(load(name, arguments.data_dir), arguments.val_fraction)
    plan = make_plan(source, augmentation, arguments.epochs, arguments.dtype, arguments.seed)
    directory = arguments.out / name
    return Job(source, augmentation, settle(plan, directory, overwrite=arguments.overwrite), directory)


def _resize(text: str | None, epochs: int) -> str | None:
    """Hold what was asked for against the number of epochs; return it as a manifest has it, whose last side is open."""
    if text is None or ":" not in text.rpartition(",")[2]:
        return text
    counts = [part.partition(":")[2] for part in text.split(",")]
    if all(count.isdecimal() for count in counts) and sum(map(int, counts)) != epochs:
        raise UsageError(f"--resize: {text} names {sum(map(int, counts))} epochs, --epochs {epochs}")
    return text.rpartition(":")[0]


def _bake(job: Job, arguments: argparse.Namespace) -> None:
    bake_source(
        job.source,
        job.plan,
        job.augmentation,
        job.directory,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    epochs, images = job.plan.epochs, job.plan.splits["train"][0].samples
    if arguments.json:
        print(json.dumps({"dataset": job.plan.source.name, "directory": str(job.directory), "epochs": epochs}))
    else:
        print(f"{job.plan.source.name}: {epochs} epochs of {images} images in {job.directory}")


def _report(job: Job, left: Estimate, as_json: bool) -> None:
    name = job.plan.source.name
    if as_json:
        print(json.dumps({"dataset": name, "directory": str(job.directory), **asdict(left)}))
    else:
        free = "no end known" if left.free_bytes is None else f"{left.free_bytes} bytes ({gigabytes(left.free_bytes)})"
        print(
            f"{name}: {left.shards} of {left.planned_shards} shards to write into {job.directory}, "
            f"{left.size_bytes} of {left.planned_bytes} bytes ({gigabytes(left.size_bytes)}); "
            f"{free} free"
        )


if __name__ == "__main__":
    run_command(main, "" if sys.argv[1:2] == ["audit"] else "the same command goes on where this one ended")
