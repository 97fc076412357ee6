"""The command `python -m train`: its options, and what they ask for."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from shards.command import say
from shards.errors import UsageError
from shards.files import place
from train.board import check_tensorboard
from train.books import Run
from train.device import PRECISIONS
from train.jobs import Job, job_of, jobs
from train.models import MODELS
from train.recipes import RECIPES, SETTABLE
from train.repeats import aggregate, check_cost, check_target, describe
from train.results import read_result
from train.session import train
from train.summary import table
from train.world import World

__all__ = ["main", "parser"]

# Modules with a command of their own.
OTHERS = {
    "predict": "train.predict",
    "compare": "train.compare",
    "report": "train.report.command",
    "heatmap": "train.heatmap",
}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m train",
        description="Train every data set found in the shards.",
        epilog="python -m train predict RUN IMAGE ... classifies image files with a run's weights; "
        "compare RUN RUN ... holds finished runs against each other; report RUN writes a run's report again; "
        "heatmap RUN shows where a model looks.",
    )
    add = options.add_argument
    add("--shards", type=place, help="one shard set, or the root of several, or its URL; --resume RUN knows its own")
    add("--dataset", nargs="+", metavar="NAME", help="only these of the sets found")
    add("--recipe", metavar="NAME", help=f"of {', '.join(RECIPES)}; default what the shards suggest")
    add("--model", metavar="NAME", help=f"of {', '.join(MODELS)}; default the recipe's")
    add("--epochs", type=int, help="default the recipe's or the shards' number, whichever is smaller")
    add("--replay", action="store_true", help="allow more epochs than variants: epoch e plays e mod variants")
    add(
        "--follow",
        action="store_true",
        help="begin while the shards are still being baked, and wait for what is missing",
    )
    add("--batch-size", type=int, help="default the recipe's")
    add("--lr", type=float, help="peak learning rate; default the recipe's")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help=f"other hyperparameters, default the recipe's: {', '.join(SETTABLE)}",
    )
    add("--seed", type=int, help="of the initial weights; default 0")
    add("--order-seed", type=int, metavar="S", help="of an order of the records of one's own; default as baked")
    add("--runs", type=int, default=1, metavar="N", help="repeat with the seeds SEED, SEED + 1 and so on; default 1")
    add("--target", type=float, metavar="PERCENT", help="also say how long it took to this held-out accuracy")
    add("--usd-per-hour", type=float, metavar="X", help="also say what it cost")
    add("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add("--precision", default="auto", help=f"auto, {', '.join(PRECISIONS)}; default auto")
    add("--compile", action="store_true", help="compile the step first: takes about a minute")
    add("--cache", type=Path, metavar="DIR", help="keeps shards that come by URL; default ~/.cache/prebake")
    add("--cache-size", metavar="50GB", help="of it at most; default 50GB, or half the space if less")
    add(
        "--sync-batchnorm",
        action="store_true",
        help="under torchrun, normalize by the whole batch and not each process's slice by itself; on CUDA",
    )
    add("--out", type=Path, help="root of the runs; default runs")
    again = options.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        metavar="auto|RUN",
        help="auto: go on with unfinished runs of the same settings, keep finished ones; RUN, the directory of a run: "
        "go on with that one, whose settings are its own",
    )
    again.add_argument("--overwrite", action="store_true", help="repeat runs that are there already")
    add("--tensorboard", action="store_true", help="write each epoch's figures for TensorBoard, too")
    add("--json", action="store_true", help="print the summaries as JSON lines instead of a table")
    return options


def main() -> None:
    """Train the data sets one after the other, then print one table; under torchrun, in all its processes."""
    if len(sys.argv) > 1 and sys.argv[1] in OTHERS:
        importlib.import_module(OTHERS[sys.argv[1]]).main(sys.argv[2:])
        return
    world = World.of_torchrun()
    with world.quiet():
        _train(world)


def _train(world: World) -> None:
    arguments = parser().parse_args()
    check_target(arguments.target)
    check_cost(arguments.usd_per_hour)
    if arguments.tensorboard:
        check_tensorboard()
    with world.joined():
        if arguments.resume not in (None, "auto"):
            summaries = _one_run(arguments, world)
        else:
            summaries = _all_sets(arguments, world)
    if not world.leads:
        return
    print("\n".join(map(json.dumps, summaries)) if arguments.json else table(summaries))  # noqa: T201 - the result
    if arguments.runs > 1 or arguments.target or arguments.usd_per_hour:
        for first in range(0, len(summaries), arguments.runs):
            runs = [read_result(Path(summary["run"])) for summary in summaries[first : first + arguments.runs]]
            summed = aggregate(runs, arguments.target, arguments.usd_per_hour)
            print(json.dumps({"aggregate": summed}) if arguments.json else f"\n{describe(summed)}")  # noqa: T201


def _one_run(arguments: argparse.Namespace, world: World) -> list[dict[str, Any]]:
    run, shards = world.led(lambda: Run.open(Path(arguments.resume)))
    summary = world.led(run.finished)
    if summary is not None:
        say(f"{summary['dataset']}: finished already, in {run.path}")
        return [summary]
    job = world.together(lambda: job_of(run, shards, arguments, world))
    return [_trained(job, arguments, world)]


def _all_sets(arguments: argparse.Namespace, world: World) -> list[dict[str, Any]]:
    if arguments.shards is None:
        raise UsageError("--shards: needed; it names one shard set or the root of several (--resume RUN knows its own)")
    return [_trained(job, arguments, world) for job in world.together(lambda: jobs(arguments, world))]


def _trained(job: Job, arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    return train(
        job,
        overwrite=arguments.overwrite,
        resume=arguments.resume is not None,
        follow=arguments.follow,
        board=arguments.tensorboard,
        usd_per_hour=arguments.usd_per_hour,
        world=world,
    )
