"""python -m train: train every data set found in the shards."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from shards import ShardSet
from shards.command import run_command, say
from shards.errors import DataError, MachineError, UsageError, listed
from shards.plan import MANIFEST, MOST_SEED
from train.board import check_tensorboard, noted
from train.books import Run
from train.checkpoint import load_checkpoint, save_checkpoint
from train.compile import check_compiler
from train.device import PRECISIONS, choose_device, choose_precision
from train.evaluate import final_split, predict
from train.heatmap import main as heatmap_main
from train.loop import Settings, Trainer
from train.models import MODELS, SMALLEST_SIDE
from train.predict import main as predict_main
from train.recipes import RECIPES, Recipe, recipe_for
from train.report import write_report
from train.report.command import main as report_main
from train.report.record import Record
from train.summary import epoch_line, summarize, table, utilization_line
from train.weights import Trained, save_weights

CHECKPOINT_SECONDS = 60.0
PLAN_SECONDS = 20.0


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m train",
        description="Train every data set found in the shards.",
        epilog="python -m train predict RUN IMAGE ... classifies image files with a run's weights; "
        "report RUN --shards DIR writes a run's report again; heatmap RUN --shards DIR shows where a model looks.",
    )
    add = options.add_argument
    add("--shards", type=Path, required=True, help="one shard set, or the root of several")
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
    add("--seed", type=int, default=0, help="of the initial weights; default 0")
    add("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add("--precision", default="auto", help=f"auto, {', '.join(PRECISIONS)}; default auto")
    add("--compile", action="store_true", help="compile the step first: takes about a minute, pays on a GPU")
    add("--out", type=Path, default=Path("runs"), help="root of the runs; default runs")
    again = options.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", choices=["auto"], help="auto: go on with unfinished runs of the same settings, keep finished ones"
    )
    again.add_argument("--overwrite", action="store_true", help="repeat runs that are there already")
    add("--tensorboard", action="store_true", help="write each epoch's figures for TensorBoard, too")
    add("--json", action="store_true", help="print the summaries as JSON lines instead of a table")
    return options


def main() -> None:
    """Train the data sets one after the other, then print one table."""
    others = {"predict": predict_main, "report": report_main, "heatmap": heatmap_main}
    if len(sys.argv) > 1 and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
        return
    arguments = parser().parse_args()
    # Everything is checked before the first step is taken.
    if arguments.tensorboard:
        check_tensorboard()
    if arguments.follow:
        _wait_for_manifest(arguments.shards, arguments.dataset)
    planned = [_plan(data, arguments) for data in find(arguments.shards, arguments.dataset)]
    try:
        summaries = [_train(*each, arguments) for each in planned]
    except RuntimeError as error:
        # CUDA has a class for it; the CPU's and MPS's allocators have only words.
        if not re.search("out of memory|can't allocate memory", str(error)):
            raise
        raise MachineError(f"the device's memory is full; a smaller --batch-size may help ({error})") from None
    print("\n".join(map(json.dumps, summaries)) if arguments.json else table(summaries))


def _wait_for_manifest(root: Path, names: Sequence[str] | None) -> None:
    """Give a bake that was started together with this command the time to load its data and plan."""
    wanted = [f"{name}/{MANIFEST}" for name in names or []] or [f"*/{MANIFEST}"]
    deadline = time.monotonic() + PLAN_SECONDS
    while time.monotonic() < deadline:
        if (root / MANIFEST).is_file() or all(any(root.glob(pattern)) for pattern in wanted):
            return
        time.sleep(0.1)


def find(root: Path, names: Sequence[str] | None) -> list[ShardSet]:
    """Open the shard set at `root`, or those in it.

    Raises:
        DataError: none there, or none of a name.
    """
    bake_first = f"Bake first: python -m precompute --epochs 25 --out {root}"
    if not root.is_dir():
        raise DataError(f"--shards: no directory named {root}. {bake_first}")
    one = (root / MANIFEST).is_file()
    sets = [ShardSet(root)] if one else [ShardSet(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}"))]
    if not sets:
        raise DataError(f"--shards: {root} holds no shard set. {bake_first}")
    there = {data.name: data for data in sets}
    if len(there) < len(sets):
        raise DataError(f"--shards: several sets in {root} bear one name; name the directory of one of them")
    unknown = [name for name in names or [] if name not in there]
    if unknown:
        raise DataError(f"--dataset: {root} holds no shards of {', '.join(unknown)}; there are {', '.join(there)}")
    return [there[name] for name in dict.fromkeys(names)] if names else sets


def _plan(data: ShardSet, arguments: argparse.Namespace) -> tuple[ShardSet, Settings, Run]:
    settings = _settings(data, arguments)
    run = Run(arguments.out, {"dataset": data.name, "shards": data.plan.identity, **asdict(settings)})
    if not (arguments.overwrite or arguments.resume):
        run.refuse_existing()
    return data, settings, run


def _settings(data: ShardSet, arguments: argparse.Namespace) -> Settings:
    if not 0 <= arguments.seed <= MOST_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {arguments.seed}")
    device = choose_device(arguments.device)
    recipe = recipe_for(
        arguments.recipe or data.plan.source.recipe,
        model=arguments.model,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        peak_lr=arguments.lr,
    )
    if recipe.model not in MODELS:
        raise UsageError(f"--model: no model named {recipe.model!r}; there are {', '.join(MODELS)}")
    epochs = _epochs(data, recipe, arguments)
    missing = [name for epoch in range(min(epochs, data.epochs)) for name in data.missing("train", epoch)]
    missing += [name for split in data.splits if split != "train" for name in data.missing(split)]
    if missing and not arguments.follow:
        raise DataError(
            f"{data.path}: unfinished, {len(missing)} shards are missing ({listed(missing, 3)}). {data.plan.remedy}"
        )
    if recipe.batch_size > data.samples("train"):
        raise UsageError(
            f"{data.path}: batches of {recipe.batch_size} are larger than the {data.samples('train')} training images; "
            "take a smaller --batch-size"
        )
    if min(data.image_shape("train")[:2]) < SMALLEST_SIDE:
        raise UsageError(
            f"{data.path}: {recipe.model} needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, "
            f"found {data.image_shape('train')}"
        )
    precision = choose_precision(arguments.precision, device)
    if arguments.compile:
        check_compiler(device)
    return Settings(replace(recipe, epochs=epochs), arguments.seed, str(device), precision, arguments.compile)


def _epochs(data: ShardSet, recipe: Recipe, arguments: argparse.Namespace) -> int:
    asked: int | None = arguments.epochs
    if asked is None:
        epochs = recipe.epochs if arguments.replay else min(recipe.epochs, data.epochs)
        say(f"{data.name}: {epochs} epochs (recipe {recipe.name}: {recipe.epochs}, shards: {data.epochs})")
        return epochs
    if asked > data.epochs and not arguments.replay:
        raise DataError(
            f"{data.path}: {asked} epochs asked for, the shards hold {data.epochs}. Bake more: python -m precompute "
            f"--dataset {data.name} --epochs {asked}; or --replay, which plays variant e mod {data.epochs} in epoch e"
        )
    return asked


def _train(data: ShardSet, settings: Settings, run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.overwrite:
        run.remove()
    finished = run.finished()
    if finished is not None:
        say(f"{data.name}: finished already, in {run.path}")
        return finished
    if settings.compiled:
        torch.compiler.reset()  # else it gives up on the ninth set of other shapes, and keeps the memory of all
    trainer = Trainer(data, settings, follow=arguments.follow)
    if run.checkpoint.exists():
        trainer.restore(load_checkpoint(run.checkpoint, settings.device))
    run.begin(trainer.state.epoch)
    say(f"{data.name}: {settings.recipe.name} on {settings.device} in {settings.precision}, into {run.path}")
    saved = time.monotonic()
    reports = noted(trainer.run(), run.path / "tensorboard") if arguments.tensorboard else trainer.run()
    for report in reports:
        run.log("epoch", **asdict(report))
        say(epoch_line(data.name, report, settings.recipe.epochs))
        if time.monotonic() - saved > CHECKPOINT_SECONDS and report.epoch + 1 < settings.recipe.epochs:
            save_checkpoint(run.checkpoint, trainer.save())
            saved = time.monotonic()
    return _finish(run, trainer)


def _finish(run: Run, trainer: Trainer) -> dict[str, Any]:
    data = trainer.data
    started = time.perf_counter()
    mirrors = data.plan.augmentation.get("flip", "none") != "none"
    split = final_split(data)
    settings = trainer.settings
    predictions = (
        predict(trainer.model, data, split, trainer.device, settings.precision, tta=mirrors) if split else None
    )
    score = predictions.score() if predictions and split == "test" else None
    summary = summarize(trainer, run.path, score, time.perf_counter() - started)
    say(utilization_line(summary))
    source = data.plan.source
    shape = data.image_shape("train")
    save_weights(
        run.weights, Trained(trainer.model, settings.recipe, source.classes, shape, source.mean, source.deviation)
    )
    write_report(Record.read(run.path, summary), data, trainer.model, predictions)
    run.finish(summary)
    return summary


if __name__ == "__main__":
    run_command(main, "--resume auto goes on after the last checkpoint")
