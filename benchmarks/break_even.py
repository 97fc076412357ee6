"""python -m benchmarks.break_even: after how many runs has baking paid?

For the same augmentation: the bake as a whole command, once; then training steps fed from shards, beside the
same steps fed by torchvision's transforms on line, with some numbers of workers, and, where there is a GPU, from
images that lie on it and are augmented there. A run is as many epochs as were baked. "never" where augmenting
on line is as fast.
"""

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.baselines import ResidentAugmenter, online_transform, torchvision_batches
from benchmarks.bench import FULL, Batches, rates_of_steps
from benchmarks.measure import Fact, machine, report_facts, spread
from prebake.cli.run import run_command
from prebake.console import log
from prebake.errors import MachineError
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import Images
from prebake.precompute.sources import load
from prebake.train.device import PRECISIONS, choose_device, choose_precision
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer

ROOT = Path(__file__).parent.parent
SHARDS = "from shards"
AUGMENTATIONS = ("standard", "trivial-augment-wide")


def main() -> None:
    """Bake, train a little, and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.break_even", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--epochs", type=int, default=25, help="baked, and of a run; default 25")
    options.add_argument("--augment", nargs="+", default=AUGMENTATIONS, help=f"default {' '.join(AUGMENTATIONS)}")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of torchvision; default 0 2")
    options.add_argument("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    options.add_argument("--batch-size", type=int, default=256, help="default 256")
    options.add_argument("--steps", type=int, default=4, help="of one contestant in one round; default 4")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--work-dir", type=Path, help="to bake in; default the system's temporary directory")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "torchvision", "pillow", "xxhash")
    facts: dict[str, Fact] = {}
    for augment in arguments.augment:
        with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
            facts |= _measure(augment, Path(name), arguments)
    report_facts("break_even", facts, about, as_json=arguments.json)


def _measure(augment: str, directory: Path, arguments: argparse.Namespace) -> dict[str, Fact]:
    bake_seconds = _bake(augment, directory, arguments)
    log(f"{augment}: baked in {bake_seconds:.1f} s")
    data = ShardSet(directory / "cifar10")
    device = choose_device(arguments.device)
    precision = choose_precision("auto", device)
    recipe = recipe_for("page2018", batch_size=arguments.batch_size, epochs=arguments.epochs)
    trainer = Trainer(data, Settings(recipe, 0, str(device), precision))
    train = load("cifar10", arguments.data_dir).splits["train"]
    # As many steps again come first, for what workers had prepared while others trained.
    size = replace(FULL, steps=arguments.steps, settling=arguments.steps, rounds=arguments.repetitions)
    loader = Loader(
        data,
        batch_size=recipe.batch_size,
        device=device,
        dtype=PRECISIONS[precision],
        drop_last=True,
        replay=True,
        reuse_buffers=True,
    )
    with loader:
        contestants: dict[str, Batches] = {SHARDS: itertools.chain.from_iterable(itertools.repeat(loader))}
        contestants |= _on_line(train, data, augment, trainer, arguments)
        rates = rates_of_steps(trainer, contestants, size)
    images = trainer.steps * recipe.batch_size
    return {
        f"{augment}, against {name}": fact(bake_seconds, images, rates[SHARDS], values)
        for name, values in rates.items()
        if name != SHARDS
    }


def _bake(augment: str, directory: Path, arguments: argparse.Namespace) -> float:
    """Bake by the command, start to exit; return its seconds."""
    options = ["--augment", augment, "--epochs", str(arguments.epochs), "--dataset", "cifar10"]
    paths = ["--data-dir", str(arguments.data_dir.resolve()), "--out", str(directory)]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "precompute", *options, *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MachineError(f"the bake ended with code {done.returncode}: {done.stderr.strip()}")
    return time.perf_counter() - started


def _on_line(
    train: Images, data: ShardSet, augment: str, trainer: Trainer, arguments: argparse.Namespace
) -> dict[str, Batches]:
    source, device, batch_size = data.plan.source, trainer.device, arguments.batch_size
    dtype = PRECISIONS[trainer.settings.precision]
    transform = online_transform(augment, source.mean, source.std)
    found: dict[str, Batches] = {}
    for workers in arguments.workers:
        batches = torchvision_batches(train.images_NHWC, train.labels_N, transform, batch_size, workers, device, dtype)
        found[f"torchvision, {workers} workers"] = batches
    if device.type == "cuda" and augment == "standard":
        resident = ResidentAugmenter(
            train.images_NHWC, train.labels_N, source.mean, source.std, device, batch_size, dtype
        )
        found["images on the GPU, augmented there"] = resident.forever()
    return found


def fact(bake_seconds: float, images: int, shards: list[float], on_line: list[float]) -> Fact:
    """Say after how many runs of so many images a bake has paid, from the rates (images/s) of both ways."""
    baked, other = images / statistics.median(shards), images / statistics.median(on_line)
    count = runs(bake_seconds, baked, other) if other > baked else 0
    paid = f"after {count} run{'s' if count > 1 else ''}" if count else "never"
    return Fact(
        "to be known",
        f"{paid} (bake {bake_seconds:.1f} s; a run {baked:,.0f} s from shards, {other:,.0f} s on line)",
        len(shards),
        {"bake, seconds": bake_seconds, "from shards, images/s": spread(shards), "on line, images/s": spread(on_line)},
    )


def runs(bake_seconds: float, baked: float, on_line: float) -> int:
    """Return the number of runs after which the bake and all runs from it took less than as many on line."""
    return math.floor(bake_seconds / (on_line - baked)) + 1


if __name__ == "__main__":
    run_command(main)
