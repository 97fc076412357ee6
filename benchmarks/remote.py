"""python -m benchmarks.remote: how fast do shards come from elsewhere, and does a training wait for them?

Noise of CIFAR-10's shape in uint8, streamed from this disk, from nginx and from an S3 server (moto's) on loopback:
with nothing in the cache, and with everything. Then the utilization of a training of DavidNet from each, its cache
empty and just large enough. The servers take the same cores, and moto is no fast one: these are lower bounds.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Fact, compared, interleaved, machine, report
from prebake.cli.run import run_command
from prebake.errors import MachineError
from prebake.loader.cache_room import shards_held
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.bake import bake
from prebake.storage.cache import Cache
from prebake.storage.remote import Remote
from prebake.train.device import choose_device, choose_precision
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.servers import environment, nginx, s3

BATCH_SIZE = 512


def main() -> None:
    """Bake, serve, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    options.add_argument("--images", type=int, default=50_000, help="of an epoch; default 50000")
    options.add_argument("--epochs", type=int, default=4, help="of a stream and of a training; default 4")
    options.add_argument("--train-images", type=int, default=2048, help="of an epoch of the training; default 2048")
    options.add_argument("--batch-size", type=int, default=256, help="of the training; default 256")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("torch", "numpy", "xxhash", "obstore", "botocore")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        work, skipped = Path(name), {}
        _bake(work / "here" / "stream", arguments.images, arguments.epochs)
        _bake(work / "here" / "training", arguments.train_images, arguments.epochs)
        roots = {"this disk": str(work / "here")}
        for name, start in (("HTTP", _http), ("S3", _s3)):
            try:
                roots[name] = servers.enter_context(start(work))
            except MachineError as error:
                skipped[name] = str(error)
        contestants: dict[str, Callable[[], int]] = {}
        for name, root in roots.items():
            if name == "this disk":
                contestants[name] = _streaming(root, None, arguments.epochs, empty=False)
                continue
            for state in ("nothing cached", "all cached"):
                cache = Cache(work / "caches" / f"{name} {state}", 10**12)
                contestants[f"{name}, {state}"] = _streaming(
                    root, cache, arguments.epochs, empty=state == "nothing cached"
                )
        rates = interleaved(contestants, arguments.repetitions)
        facts = {
            f"{name} / this disk": compared(
                "to be known", {name: rates[name], "this disk": rates["this disk"]}, "images/s"
            )
            for name in contestants
            if name != "this disk"
        }
        for name, root in roots.items():
            facts[f"utilization of a training from {name}"] = _utilization(root, work / "training", arguments)
    report("remote", rates, "this disk", about, as_json=arguments.json, skipped=skipped, facts=facts)


def _bake(out: Path, images: int, epochs: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), np.uint8)
    bake(pixels, rng.integers(0, 10, images), name="cifar10", dtype="uint8", epochs=epochs, out=out)


@contextlib.contextmanager
def _http(work: Path) -> Iterator[str]:
    with nginx(work / "here", work / "nginx") as (port, _):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _s3(work: Path) -> Iterator[str]:
    with s3(work / "moto") as port:
        os.environ.update(environment(port))
        for path in (work / "here").glob("*/*[rn]"):
            Remote(f"s3://bucket/{path.parent.name}/{path.name}").upload(path)
        yield "s3://bucket"


def _streaming(root: str, cache: Cache | None, epochs: int, *, empty: bool) -> Callable[[], int]:
    def work() -> int:
        if cache is not None and empty:
            shutil.rmtree(cache.directory, ignore_errors=True)
        with Stream(ShardSet(f"{root}/stream", cache), "train", range(epochs), BATCH_SIZE) as stream:
            return sum(len(labels) for _, labels in stream)

    return work


def _utilization(root: str, work: Path, arguments: argparse.Namespace) -> Fact:
    """Train with a cache that is empty, and as small as one may be."""
    found = []
    for repetition in range(arguments.repetitions):
        data = ShardSet(f"{root}/training", Cache(work / f"{root.rpartition('/')[2]}{repetition}", 10**12))
        size_bytes = shards_held(data.plan) * max(shard.size_bytes for shard in data.plan.shards())
        if data.cache is not None:
            data = ShardSet(data.location, Cache(data.cache.directory, size_bytes))
        device = choose_device("auto")
        rate = 0.01 if arguments.train_images < 1000 else None  # noise in small batches diverges at the recipe's own
        recipe = recipe_for("page2018", epochs=arguments.epochs, batch_size=arguments.batch_size, peak_lr=rate)
        trainer = Trainer(data, Settings(recipe, 0, str(device), choose_precision("auto", device)))
        seconds = sum(report.train_seconds for report in trainer.run())
        found.append(1 - sum(trainer.state.waits) / seconds)
    median = statistics.median(found)
    return Fact("at least 0.9", f"{median:.3f}", len(found), {"utilization": found})


if __name__ == "__main__":
    run_command(main)
