"""python -m benchmarks.many: do time, memory and opening grow as they should with the number of pictures?

Folders of synthetic 64x64 PNGs, baked by the whole command in uint8 under a limit of memory that is far below what
all prepared images would take: its seconds, the most memory it held, the bytes that it wrote, and the time that it
takes to open the set. This process imports no torch: what it holds counts as held by a process that it starts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Fact, machine, report_facts
from prebake.cli.run import run_command
from prebake.console import log
from prebake.errors import MachineError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.progress import gigabytes

ROOT = Path(__file__).parent.parent
CLASSES = 10
QUARTERS = 4
OPENINGS = 50


@dataclass(frozen=True)
class Bake:
    """What one bake took; memory is the most that the process held."""

    images: int
    seconds: float
    memory_bytes: int
    written_bytes: int
    opening_ms: float


def main() -> None:
    """Write pictures, bake a quarter, half and all of them, and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    options.add_argument("--images", type=int, default=100_000, help="of the largest set; default 100000")
    options.add_argument("--side", type=int, default=64, help="of the pictures, in pixels; default 64")
    options.add_argument("--epochs", type=int, default=2, help="to bake; default 2")
    options.add_argument("--memory", default="300MB", help="limit of the command; default 300MB")
    options.add_argument("--work-dir", type=Path, help="takes some GB; default the system's temporary directory")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "pillow", "xxhash")
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
        root = Path(name)
        write_pictures(root, arguments.images, arguments.side)
        found = []
        for quarters in (1, 2, 4):
            command = ["--epochs", str(arguments.epochs), "--memory", arguments.memory]
            found.append(_bake(root, arguments.images * quarters // QUARTERS, quarters, command))
    report_facts("many", _facts(found, arguments.memory), about, as_json=arguments.json)


def write_pictures(root: Path, count: int, side: int) -> None:
    """Write so many pictures as `root/quarter-<number>/<class>/<number>.png`: noise in squares, soon packed."""
    log(f"{root}: {count:,} pictures are written")
    rng = np.random.default_rng(0)
    for number in range(count):
        directory = root / f"quarter-{number * QUARTERS // count}" / f"class {number % CLASSES}"
        if not directory.is_dir():
            directory.mkdir(parents=True)
        squares = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        squares.resize((side, side), Image.Resampling.NEAREST).save(directory / f"{number}.png", compress_level=1)


def _bake(root: Path, images: int, quarters: int, command: list[str]) -> Bake:
    folder, out = root / f"many-{quarters}", root / "out"
    for label in range(CLASSES):
        directory = folder / "train" / f"class {label}"
        directory.mkdir(parents=True)
        for quarter in range(quarters):
            (directory / str(quarter)).symlink_to(root / f"quarter-{quarter}" / f"class {label}")
    arguments = ["-m", "precompute", "--dataset", f"folder:{folder}", "--dtype", "uint8", "--out", str(out), *command]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise MachineError(f"python -m precompute ended with code {process.returncode}")
    baked = out / folder.name
    written = sum(path.stat().st_size for path in baked.glob("*.tar"))
    unit = 1 if sys.platform == "darwin" else 1024
    return Bake(images, seconds, usage.ru_maxrss * unit, written, _opening_ms(baked))


def _opening_ms(baked: Path) -> float:
    found = []
    for _ in range(OPENINGS):
        started = time.perf_counter()
        ShardSet(baked)
        found.append((time.perf_counter() - started) * 1e3)
    return statistics.median(found)


def _facts(found: list[Bake], memory: str) -> dict[str, Fact]:
    first, last = found[0], found[-1]
    grown = last.images / first.images

    def words(each: list[str]) -> str:
        return ", ".join(f"{text} ({bake.images:,} images)" for bake, text in zip(found, each, strict=True))

    return {
        "seconds": Fact(
            f"in proportion: at most {1.2 * grown:.1f} times for {grown:.0f} times the images",
            f"{last.seconds / first.seconds:.2f} times: {words([f'{bake.seconds:.1f} s' for bake in found])}",
            1,
        ),
        "memory": Fact(
            f"under --memory {memory}",
            words([f"{bake.memory_bytes / 1e6:.0f} MB" for bake in found]),
            1,
        ),
        "bytes": Fact("in proportion", words([gigabytes(bake.written_bytes) for bake in found]), 1),
        "opening": Fact("under 50 ms", words([f"{bake.opening_ms:.2f} ms" for bake in found]), OPENINGS),
    }


if __name__ == "__main__":
    run_command(main)
