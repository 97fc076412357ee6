"""python -m train: train every data set found in the shards."""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from shards import ShardSet
from shards.errors import DataError, UsageError, listed, run_command
from shards.lock import bake_seconds
from shards.plan import MANIFEST
from train.books import Run
from train.curves import draw_curves
from train.device import PRECISIONS, choose_device, choose_precision
from train.loop import EpochReport, Settings, Trainer
from train.models import MODELS
from train.predict import main as predict_main
from train.recipes import RECIPES, Recipe, recipe_for

CHECKPOINT_SECONDS = 60.0


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m train",
        description="Train every data set found in the shards.",
        epilog="python -m train predict RUN IMAGE ... classifies image files with a run's weights.",
    )
    options.add_argument("--shards", type=Path, required=True, help="one shard set, or the root of several")
    options.add_argument("--dataset", nargs="+", metavar="NAME", help="only these of the sets found")
    options.add_argument("--recipe", metavar="NAME", help=f"of {', '.join(RECIPES)}; default what the shards suggest")
    options.add_argument("--model", metavar="NAME", help=f"of {', '.join(MODELS)}; default the recipe's")
    options.add_argument("--epochs", type=int, help="default the recipe's or the shards' number, whichever is smaller")
    options.add_argument("--replay", action="store_true", help="allow more epochs than variants: epoch e plays variant e mod V")
    options.add_argument("--batch-size", type=int, help="default the recipe's")
    options.add_argument("--lr", type=float, help="peak learning rate; default the recipe's")
    options.add_argument("--seed", type=int, default=0, help="of the initial weights; default 0")
    options.add_argument("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    options.add_argument("--precision", default="auto", help=f"auto, {', '.join(PRECISIONS)}; default auto")
    options.add_argument("--out", type=Path, default=Path("runs"), help="root of the runs; default runs")
    options.add_argument("--resume", choices=["auto"], help="auto: go on with unfinished runs of the same settings")
    options.add_argument("--overwrite", action="store_true", help="repeat runs that are there already")
    options.add_argument("--json", action="store_true", help="print the summaries as JSON lines instead of a table")
    return options


def main() -> None:
    """Train the data sets one after the other, then print one table."""
    if sys.argv[1:2] == ["predict"]:
        predict_main(sys.argv[2:])
        return
    arguments = parser().parse_args()
    # Everything is checked before the first step is taken.
    planned = [(data, _settings(data, arguments)) for data in find(arguments.shards, arguments.dataset)]
    summaries = [_train(data, settings, arguments) for data, settings in planned]
    if arguments.json:
        for summary in summaries:
            print(json.dumps(summary))
    else:
        print(table(summaries))


def find(root: Path, names: list[str] | None) -> list[ShardSet]:
    """Open the shard set at `root`, or those in it.

    Raises:
        DataError: none there, or none of a name.
    """
    if (root / MANIFEST).is_file():
        sets = [ShardSet(root)]
    elif root.is_dir():
        sets = [ShardSet(path.parent) for path in sorted(root.glob(f"*/{MANIFEST}"))]
    else:
        raise DataError(f"--shards: {root} is not there. Bake first: python -m precompute --epochs 25 --out {root}")
    if not sets:
        raise DataError(f"--shards: {root} holds no shard set. Bake first: python -m precompute --epochs 25 --out {root}")
    there = {data.name: data for data in sets}
    unknown = [name for name in names or [] if name not in there]
    if unknown:
        raise DataError(f"--dataset: {root} holds no shards of {', '.join(unknown)}; there are {', '.join(there)}")
    return [there[name] for name in names] if names else sets


def _settings(data: ShardSet, arguments: argparse.Namespace) -> Settings:
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
    if missing:
        raise DataError(
            f"{data.path}: unfinished, {len(missing)} shards are missing ({listed(missing, 3)}). Run the command that "
            f"bakes it again, it goes on where it stopped: python -m precompute --dataset {data.name} --epochs {data.epochs}"
        )
    if recipe.batch_size > data.samples("train"):
        raise UsageError(
            f"{data.path}: batches of {recipe.batch_size} are larger than the {data.samples('train')} training images; "
            "take a smaller --batch-size"
        )
    return Settings(
        replace(recipe, epochs=epochs), epochs, arguments.seed, str(device), choose_precision(arguments.precision, device)
    )


def _epochs(data: ShardSet, recipe: Recipe, arguments: argparse.Namespace) -> int:
    asked: int | None = arguments.epochs
    if asked is None:
        epochs = recipe.epochs if arguments.replay else min(recipe.epochs, data.epochs)
        _say(f"{data.name}: {epochs} epochs (recipe {recipe.name}: {recipe.epochs}, shards: {data.epochs})")
        return epochs
    if asked > data.epochs and not arguments.replay:
        raise DataError(
            f"{data.path}: {asked} epochs asked for, the shards hold {data.epochs}. Bake more: python -m precompute "
            f"--dataset {data.name} --epochs {asked}; or --replay, which plays variant e mod {data.epochs} in epoch e"
        )
    return asked


def _train(data: ShardSet, settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    described = {"dataset": data.name, "shards": data.plan.identity, **asdict(settings)}
    run = Run(arguments.out, described)
    trainer = Trainer(data, settings)
    if run.open(overwrite=arguments.overwrite, resume=arguments.resume is not None):
        trainer.restore(torch.load(run.checkpoint, map_location=settings.device))
    _say(f"{data.name}: {settings.recipe.name} on {settings.device} in {settings.precision}, into {run.path}")
    saved = time.monotonic()
    for report in trainer.run():
        run.log("epoch", **asdict(report))
        _say(_line(data.name, report, settings.epochs))
        if time.monotonic() - saved > CHECKPOINT_SECONDS and report.epoch + 1 < settings.epochs:
            part = run.checkpoint.with_suffix(".part")
            torch.save(trainer.save(), part)
            part.replace(run.checkpoint)
            saved = time.monotonic()
    return _finish(run, trainer)


def _finish(run: Run, trainer: Trainer) -> dict[str, Any]:
    data, settings = trainer.data, trainer.settings
    started = time.perf_counter()
    mirrors = data.plan.augmentation.get("flip", "none") != "none"
    score = trainer.evaluate("test", tta=mirrors) if "test" in data.splits else None
    evaluated = time.perf_counter() - started
    reports = trainer.state.reports
    train_seconds = sum(report.train_seconds for report in reports)
    wait_seconds = sum(report.wait_seconds for report in reports)
    images = settings.epochs * trainer.steps_per_epoch * settings.recipe.batch_size
    summary = {
        "dataset": data.name,
        "recipe": settings.recipe.name,
        "model": settings.recipe.model,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "epochs": settings.epochs,
        "seed": settings.seed,
        "device": settings.device,
        "precision": settings.precision,
        "test_accuracy": score.accuracy if score else None,
        "test_accuracy_tta": score.accuracy_tta if score else None,
        "val_accuracy": reports[-1].test_accuracy if trainer.held_out == "val" else None,
        "first_loss": trainer.state.first_loss,
        "seconds": {
            "precompute": bake_seconds(data.path),
            "compile": 0.0,
            "train": train_seconds,
            "wait": wait_seconds,
            "evaluate": evaluated + sum(report.evaluate_seconds for report in reports),
        },
        "images_per_second": images / train_seconds,
        "utilization": 1 - wait_seconds / train_seconds,
        "stalls": {"count": len(trainer.state.stalls), "p99_seconds": float(np.percentile(trainer.state.stalls, 99))},
        "run": str(run.path),
    }
    _save_weights(run, trainer)
    draw_curves(run.path / "curves.png", data.name, settings.recipe, reports, trainer.steps)
    run.finish(summary)
    return summary


def _save_weights(run: Run, trainer: Trainer) -> None:
    source, recipe = trainer.data.plan.source, trainer.settings.recipe
    about = {
        "recipe": asdict(recipe),
        "classes": list(source.classes),
        "mean": list(source.mean),
        "deviation": list(source.deviation),
        "image_shape": list(trainer.data.image_shape("train")),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trainer.model.state_dict().items()}
    part = run.weights.with_suffix(".part")
    save_file(weights, part, metadata={"prebake": json.dumps(about)})
    part.replace(run.weights)


def _line(name: str, report: EpochReport, epochs: int) -> str:
    return (
        f"{name}: epoch {report.epoch + 1}/{epochs}: train loss {report.train_loss:.4f} accuracy {report.train_accuracy:.4f}, "
        f"{report.held_out} loss {report.test_loss:.4f} accuracy {report.test_accuracy:.4f}, lr {report.lr:.4f}, "
        f"{report.images_per_second:,.0f} images/s, {report.train_seconds + report.evaluate_seconds:.1f} s "
        f"(waiting {report.wait_seconds:.2f}, training {report.train_seconds - report.wait_seconds:.1f}, "
        f"evaluating {report.evaluate_seconds:.1f})"
    )


def table(summaries: list[dict[str, Any]]) -> str:
    """Lay the summaries out for people."""

    def percent(fraction: float | None) -> str:
        return "-" if fraction is None else f"{100 * fraction:.2f} %"

    rows = [["data set", "epochs", "test accuracy", "with flip TTA", "training", "waiting for data"]]
    for summary in summaries:
        seconds = summary["seconds"]
        rows.append(
            [
                summary["dataset"],
                str(summary["epochs"]),
                percent(summary["test_accuracy"]),
                percent(summary["test_accuracy_tta"]),
                f"{seconds['train']:.1f} s",
                percent(seconds["wait"] / seconds["train"]),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
