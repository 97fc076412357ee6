"""`prebake train`: train a model on shard sets."""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser
from prebake.storage.files import parse_path
from prebake.train.device import PRECISIONS
from prebake.train.distributed import ProcessGroup
from prebake.train.fit import train_all
from prebake.train.jobs import TrainOptions
from prebake.train.models import MODELS
from prebake.train.recipes import RECIPES, SETTABLE, read_changes
from prebake.train.repeats import aggregate, check_cost, check_target, describe
from prebake.train.run_record import RunRecord
from prebake.train.summary import results_table
from prebake.train.threads import use_threads

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(prog="prebake train", description="Train every data set found in the shards.")
    add = options.add_argument
    add(
        "--shards",
        type=parse_path,
        help="one shard set, or the root of several, or its URL; default shards, or with --resume RUN the run's own",
    )
    add("--dataset", nargs="+", metavar="NAME", help="only these of the sets found")
    add("--recipe", choices=RECIPES, metavar="NAME", help=f"one of {', '.join(RECIPES)}; default: the shards name it")
    add(
        "--model",
        metavar="NAME",
        help=f"one of {', '.join(MODELS)}; timm:NAME for a model of timm; FILE.py:NAME or package.module:NAME for your "
        "own; default the recipe's",
    )
    add("--epochs", type=int, help="default the recipe's or the shards' number, whichever is smaller")
    add("--replay", action="store_true", help="allow more epochs than views: epoch e plays e mod views")
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
        help=f"other hyperparameters, default the recipe's: {', '.join(SETTABLE)}, and the model's own options",
    )
    add("--seed", type=int, help="of the initial weights; default 0")
    add("--shuffle-seed", type=int, metavar="S", help="of an order of the records of one's own; default as baked")
    add("--runs", type=int, default=1, metavar="N", help="repeat with the seeds SEED, SEED + 1 and so on; default 1")
    add("--target", type=float, metavar="PERCENT", help="also say how long it took to this held-out accuracy")
    add("--usd-per-hour", type=float, metavar="X", help="also say what it cost")
    add("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add("--precision", default="auto", choices=("auto", *PRECISIONS), help="default auto")
    add("--threads", type=int, metavar="N", help="of the CPU; default OMP_NUM_THREADS, or all cores that may be used")
    add("--compile", action="store_true", help="compile the step first: takes about a minute")
    add("--cache", type=user_path, metavar="DIR", help="keeps shards that come by URL; default ~/.cache/prebake")
    add("--cache-size", metavar="50GB", help="of it at most; default 50GB, or half the space if less")
    add(
        "--sync-batchnorm",
        action="store_true",
        help="under torchrun, normalize by the whole batch and not each process's slice by itself; on CUDA",
    )
    add("--out", type=user_path, help="root of the runs; default runs")
    again = options.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        type=lambda text: str(user_path(text)),
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
    processes = ProcessGroup.from_torchrun()
    with processes.print_on_main():
        _train(processes)


def _train(processes: ProcessGroup) -> None:
    arguments = parser().parse_args()
    check_target(arguments.target)
    check_cost(arguments.usd_per_hour)
    use_threads(arguments.threads)
    with processes.connected():
        summaries = train_all(_options(arguments), processes)
    if not processes.is_main:
        return
    print("\n".join(map(json.dumps, summaries)) if arguments.json else results_table(summaries))
    if arguments.runs > 1 or arguments.target or arguments.usd_per_hour:
        for first in range(0, len(summaries), arguments.runs):
            paths = [Path(summary["run"]) for summary in summaries[first : first + arguments.runs]]
            runs = [RunRecord.read_finished(path) for path in paths]
            summed = aggregate(runs, arguments.target, arguments.usd_per_hour)
            print(json.dumps({"aggregate": summed}) if arguments.json else f"\n{describe(summed)}")


def _options(arguments: argparse.Namespace) -> TrainOptions:
    given = vars(arguments)
    same = {field.name: given[field.name] for field in fields(TrainOptions) if field.name in given}
    return TrainOptions(**same, datasets=arguments.dataset, changes=read_changes(arguments.set))
