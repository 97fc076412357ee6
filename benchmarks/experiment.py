"""Experiments: bake or train the same data in several ways with several seeds, and compare the accuracies.

Each way is baked and trained with the seeds 0 to N - 1. Differences are paired by seed and have a 95 % interval
(Student's t). Shards and runs of an earlier call of the same experiment are reused.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import prebake
from benchmarks.measure import Fact, machine, report_facts
from prebake.console import log
from prebake.errors import MachineError
from prebake.precompute.images import SourceData
from prebake.precompute.sources import dataset_names, load
from prebake.train.statistics import SampleStats, sample_stats

__all__ = ["Way", "experiment", "options"]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Way:
    """One way to get to a trained model.

    Attributes:
        bake: changed fields of the experiment's augmentation, see `prebake.precompute.augment.Augmentation`.
        train: options of the training command.
    """

    name: str
    bake: Mapping[str, Any] = field(default_factory=dict)
    train: Sequence[str] = ()


def options(prog: str, description: str | None, *, dataset: str, epochs: int, seeds: int) -> argparse.ArgumentParser:
    """Return the options that all experiments have, with the defaults of this one."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add = parser.add_argument
    add("--dataset", default=dataset, choices=dataset_names(), help=f"default {dataset}")
    add("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    add("--images", type=int, help="number of training images; default all")
    add("--augment", default="standard", metavar="NAME", help="augmentation that the ways change; default standard")
    add("--recipe", default="default", metavar="NAME", help="default default")
    add("--epochs", type=int, default=epochs, help=f"default {epochs}")
    add("--seeds", type=int, default=seeds, help=f"of each way; default {seeds}")
    add("--work-dir", type=Path, required=True, help="directory for shards and runs, which are kept")
    add("--json", action="store_true", help="print JSON")
    return parser


def experiment(
    question: str,
    ways: Sequence[Way],
    arguments: argparse.Namespace,
    goal: str,
    *,
    score: str = "test_accuracy",
    val_fraction: float = 0.0,
    timed: bool = False,
) -> None:
    """Bake and train all ways with all seeds, compare them with the first way, and print the results.

    Args:
        question: the results are written to `results/QUESTION-DATASET.json`.
        ways: at least two.
        arguments: of `options`.
        goal: the goal as text.
        score: key in the summary of a run.
        val_fraction: fraction of the training images for validation.
        timed: also report the training time, which is meaningful on an idle machine only.
    """
    about = machine("torch", "numpy", "torchvision")
    source = _source(arguments.dataset, arguments.data_dir, arguments.images)
    found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    for seed in range(arguments.seeds):
        for way in ways:
            shards = _baked(source, way, arguments, seed, val_fraction)
            given = ("--recipe", arguments.recipe, "--epochs", str(arguments.epochs), "--seed", str(seed), *way.train)
            found[way.name].append(_trained(shards, given, arguments.work_dir / "runs"))
            log(f"seed {seed}: {way.name}: {found[way.name][-1][score]:.4f}")
    facts = _facts(found, score, goal, timed=timed)
    images = len(source.splits["train"].labels_N)
    about |= {
        "experiment": f"{arguments.dataset}, {images} images, {arguments.epochs} epochs, {arguments.augment}, "
        f"recipe {arguments.recipe}, {score}"
    }
    report_facts(f"{question}-{arguments.dataset}", facts, about, as_json=arguments.json)


def _source(dataset: str, data_dir: Path, images: int | None) -> SourceData:
    source = load(dataset, data_dir)
    train = source.splits["train"]
    count = len(train.labels_N) if images is None else images
    splits = {**source.splits, "train": type(train)(train.images_NHWC[:count], train.labels_N[:count])}
    return replace(source, splits=splits)


def _baked(source: SourceData, way: Way, arguments: argparse.Namespace, seed: int, val_fraction: float) -> Path:
    asked = [arguments.dataset, arguments.images, arguments.augment, arguments.epochs, seed, val_fraction]
    name = hashlib.sha256(json.dumps([asked, dict(way.bake)]).encode()).hexdigest()[:12]
    path: Path = arguments.work_dir / "shards" / name
    train, test = source.splits["train"], source.splits["test"]
    prebake.bake(
        train.images_NHWC,
        train.labels_N,
        test=(test.images_NHWC, test.labels_N),
        classes=source.classes,
        name=arguments.dataset,
        augment=source.augmentation(arguments.augment, **way.bake),
        epochs=arguments.epochs,
        seed=seed,
        val_fraction=val_fraction,
        dtype="uint8",
        out=path,
    )
    return path


def _trained(shards: Path, given: Sequence[str], out: Path) -> dict[str, Any]:
    command = ["-m", "train", "--shards", str(shards), "--out", str(out), "--resume", "auto", "--json", *given]
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise MachineError(f"python {' '.join(command)} ended with code {ended.returncode}: {ended.stderr.strip()}")
    summary: dict[str, Any] = json.loads(ended.stdout)
    return summary


def _facts(found: Mapping[str, list[dict[str, Any]]], score: str, goal: str, *, timed: bool) -> dict[str, Fact]:
    scores = {name: [100 * summary[score] for summary in summaries] for name, summaries in found.items()}
    seconds = {name: [summary["seconds"]["train"] for summary in summaries] for name, summaries in found.items()}
    first = next(iter(found))
    facts = {}
    for name, values in scores.items():
        whole = sample_stats(values)
        text = f"{_words(whole)} %"
        kept: dict[str, Any] = {score: values, "spread": asdict(whole)}
        if timed:
            text += f"; {sample_stats(seconds[name]).mean:,.1f} s of training"
            kept["train seconds"] = seconds[name]
        if name != first:
            apart = sample_stats([b - a for a, b in zip(scores[first], values, strict=True)])
            text += f"; {_words(apart, signed=True)} points against {first}"
            kept["difference"] = asdict(apart)
        facts[name] = Fact(goal if name != first else "", text, len(values), kept)
    return facts


def _words(found: SampleStats, *, signed: bool = False) -> str:
    mean = f"{found.mean:+.2f}" if signed else f"{found.mean:.2f}"
    return mean if found.low is None or found.high is None else f"{mean} [{found.low:.2f}, {found.high:.2f}]"
