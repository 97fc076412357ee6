"""python -m benchmarks.soak: does a set's size cost anything to open it, and does a long run keep its memory?

Noise of CIFAR-10's shape in uint8. Opening: sets of more epochs, of more images, of larger images. Memory: what
the process has resident after each of 200 epochs of a `Stream`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import Fact, machine, report_facts, spread
from prebake.cli.run import run_command
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.bake import bake
from prebake.precompute.progress import gigabytes

SIZES = {  # images, side of an image, epochs
    "few epochs": (1000, 32, 2),
    "few images": (1000, 32, 25),
    "large images": (1000, 96, 2),
    "many images": (10_000, 32, 25),
}
PLAYED = "many images"
SETTLED_EPOCHS = 10  # until then buffers are first touched, and modules loaded
BATCH = 512


def main() -> None:
    """Bake noise, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    options.add_argument("--work-dir", type=Path, help="takes 0.9 GB; default the system's temporary directory")
    options.add_argument("--epochs", type=int, default=200, help="to play; default 200")
    options.add_argument("--repetitions", type=int, default=200, help="times that each set is opened; default 200")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    if arguments.epochs <= SETTLED_EPOCHS:
        options.error(f"argument --epochs: expected more than {SETTLED_EPOCHS}, found {arguments.epochs}")
    about = machine("numpy", "torch", "xxhash")
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
        sets = {title: Path(name) / title.replace(" ", "-") for title in SIZES}
        for title, path in sets.items():
            _bake_noise(path, *SIZES[title])
        facts = {
            "opening a set": _opening(sets, arguments.repetitions),
            f"resident memory over {arguments.epochs} epochs": _memory(sets[PLAYED], arguments.epochs),
        }
    report_facts("soak", facts, about, as_json=arguments.json)


def _bake_noise(path: Path, count: int, side: int, epochs: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    bake(images, rng.integers(0, 10, count), epochs=epochs, dtype="uint8", out=path)


def _opening(sets: dict[str, Path], repetitions: int) -> Fact:
    milliseconds = opening_milliseconds(sets, repetitions)
    median = {title: statistics.median(values) for title, values in milliseconds.items()}
    size = {title: sum(file.stat().st_size for file in path.iterdir()) for title, path in sets.items()}
    return Fact(
        "under 50 ms, however many bytes it has",
        ", ".join(f"{median[title]:.2g} ms for {gigabytes(size[title])} ({title})" for title in sets),
        repetitions,
        {f"{title}, ms": {**spread(values), "bytes": size[title]} for title, values in milliseconds.items()},
    )


def opening_milliseconds(sets: dict[str, Path], repetitions: int) -> dict[str, list[float]]:
    """Open the sets in turn, so many times each; return what each took."""
    found: dict[str, list[float]] = {title: [] for title in sets}
    for _ in range(repetitions):
        for title, path in sets.items():
            started = time.perf_counter()
            ShardSet(path)
            found[title].append((time.perf_counter() - started) * 1e3)
    return found


def _memory(path: Path, epochs: int) -> Fact:
    goal = f"within 2 % from epoch {SETTLED_EPOCHS} on"
    if sys.platform != "linux":
        return Fact(goal, "skipped: needs Linux, which tells what is resident now")
    sizes = resident_bytes(ShardSet(path), epochs)[SETTLED_EPOCHS:]
    growth = max(sizes) / min(sizes) - 1
    return Fact(
        goal,
        f"{growth:.2%} ({min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB)".replace("%", " %"),
        len(sizes),
        {"bytes": spread([float(size) for size in sizes])},
    )


def resident_bytes(data: ShardSet, epochs: int) -> list[int]:
    """Play so many epochs, the set's own again and again; return what the process has resident after each."""
    sizes: list[int] = []
    images = 0
    with Stream(data, "train", [epoch % data.epochs for epoch in range(epochs)], BATCH) as stream:
        for _, labels in stream:
            images += len(labels)
            if images == (len(sizes) + 1) * data.samples("train"):
                sizes.append(_resident_bytes())
    return sizes


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    run_command(main)
