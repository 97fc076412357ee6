"""python -m train: train every data set found in the shards."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from shards.command import run_command, say
from shards.errors import UsageError
from train.books import Run
from train.device import PRECISIONS
from train.jobs import job_of, jobs
from train.models import MODELS
from train.predict import main as predict_main
from train.recipes import RECIPES
from train.session import train
from train.summary import table


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m train",
        description="Train every data set found in the shards.",
        epilog="python -m train predict RUN IMAGE ... classifies image files with a run's weights.",
    )
    add = options.add_argument
    add("--shards", type=Path, help="one shard set, or the root of several; --resume RUN knows its own")
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
    add("--seed", type=int, help="of the initial weights; default 0")
    add("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add("--precision", default="auto", help=f"auto, {', '.join(PRECISIONS)}; default auto")
    add("--compile", action="store_true", help="compile the step first: takes about a minute, pays on a GPU")
    add("--out", type=Path, help="root of the runs; default runs")
    again = options.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        metavar="auto|RUN",
        help="auto: go on with unfinished runs of the same settings, keep finished ones; RUN, the directory of a run: "
        "go on with that one, whose settings are its own",
    )
    again.add_argument("--overwrite", action="store_true", help="repeat runs that are there already")
    add("--json", action="store_true", help="print the summaries as JSON lines instead of a table")
    return options


def main() -> None:
    """Train the data sets one after the other, then print one table."""
    if sys.argv[1:2] == ["predict"]:
        predict_main(sys.argv[2:])
        return
    arguments = parser().parse_args()
    summaries = _one_run(arguments) if arguments.resume not in (None, "auto") else _all_sets(arguments)
    print("\n".join(map(json.dumps, summaries)) if arguments.json else table(summaries))


def _one_run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    run, shards = Run.open(Path(arguments.resume))
    summary = run.finished()
    if summary is not None:
        say(f"{summary['dataset']}: finished already, in {run.path}")
        return [summary]
    job = job_of(run, shards, arguments)
    return [train(job, overwrite=False, resume=True, follow=arguments.follow)]


def _all_sets(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    if arguments.shards is None:
        raise UsageError("--shards: needed; it names one shard set or the root of several (--resume RUN knows its own)")
    overwrite, resume = arguments.overwrite, arguments.resume is not None
    return [train(job, overwrite=overwrite, resume=resume, follow=arguments.follow) for job in jobs(arguments)]


if __name__ == "__main__":
    run_command(main, "--resume auto goes on with a run that had begun")
