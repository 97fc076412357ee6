"""`prebake train`: train a model on shard sets."""

import argparse
import json
from dataclasses import fields

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser
from prebake.console import log
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
    options = CommandParser(prog="prebake train", description="Train a model on each shard set found.")
    add = options.add_argument
    add(
        "--shards",
        type=parse_path,
        help="shard set, root of several, or URL; default shards, or with --resume RUN the run's own",
    )
    add("--dataset", nargs="+", metavar="NAME", help="train on these shard sets only")
    add("--recipe", choices=RECIPES, metavar="NAME", help=f"one of {', '.join(RECIPES)}; default: named in the shards")
    add(
        "--model",
        metavar="NAME",
        help=f"one of {', '.join(MODELS)}; timm:NAME for a model of timm; FILE.py:NAME or package.module:NAME for your "
        "own model; default the recipe's",
    )
    add("--epochs", type=int, help="number of epochs; default the smaller of the recipe's and the shards' numbers")
    add("--replay", action="store_true", help="allow more epochs than views: epoch e reads view e mod views")
    add(
        "--follow",
        action="store_true",
        help="start while the shards are still being baked, and wait for missing shards",
    )
    add("--batch-size", type=int, help="images per step, in all processes together; default the recipe's")
    add("--lr", type=float, help="peak learning rate; default the recipe's")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help=f"other hyperparameters: {', '.join(SETTABLE)}, and the options of the model; default the recipe's",
    )
    add("--seed", type=int, help="seed of the initial weights; default 0")
    add("--shuffle-seed", type=int, metavar="S", help="seed to shuffle the records by; default the baked order")
    add(
        "--runs", type=int, default=1, metavar="N", help="number of runs, with the seeds SEED, SEED + 1, ...; default 1"
    )
    add("--target", type=float, metavar="PERCENT", help="also report the time to this held-out accuracy")
    add("--usd-per-hour", type=float, metavar="X", help="price of the machine, to report the cost of the run")
    add("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add(
        "--precision",
        default="auto",
        choices=("auto", *PRECISIONS),
        help="precision of forward and backward passes; default auto",
    )
    add("--threads", type=int, metavar="N", help="number of CPU threads; default OMP_NUM_THREADS, or all usable cores")
    add(
        "--compile",
        action="store_true",
        help="compile the training step with torch.compile, which takes about a minute",
    )
    add("--cache", type=user_path, metavar="DIR", help="cache for remote shards; default ~/.cache/prebake")
    add(
        "--cache-size",
        metavar="50GB",
        help="size limit of the cache; default 50GB, or half of the free space if that is less",
    )
    add(
        "--sync-batchnorm",
        action="store_true",
        help="under torchrun on CUDA, compute batch norm statistics over all processes",
    )
    add("--out", type=user_path, help="root of the run directories; default runs")
    again = options.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        type=lambda text: str(user_path(text)),
        metavar="auto|RUN",
        help="auto: resume unfinished runs with the same settings, and keep finished ones; RUN: resume the run in this "
        "directory with its own settings",
    )
    again.add_argument("--overwrite", action="store_true", help="train again if a run exists already")
    add("--tensorboard", action="store_true", help="also write the metrics of each epoch for TensorBoard")
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
        results = train_all(_options(arguments), processes)
    summaries = [summary for _, summary in results]
    if not processes.is_main:
        return
    print("\n".join(map(json.dumps, summaries)) if arguments.json else results_table(summaries))
    for summary in summaries:
        log(f"{summary['dataset']}: the run is in {summary['run']}")
    if arguments.runs > 1 or arguments.target or arguments.usd_per_hour:
        for first in range(0, len(summaries), arguments.runs):
            runs = [RunRecord.read_finished(run.path) for run, _ in results[first : first + arguments.runs]]
            summed = aggregate(runs, arguments.target, arguments.usd_per_hour)
            print(json.dumps({"aggregate": summed}) if arguments.json else f"\n{describe(summed)}")


def _options(arguments: argparse.Namespace) -> TrainOptions:
    given = vars(arguments)
    same = {field.name: given[field.name] for field in fields(TrainOptions) if field.name in given}
    return TrainOptions(**same, datasets=arguments.dataset, changes=read_changes(arguments.set))
