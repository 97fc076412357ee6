"""python -m benchmarks.bake: what does baking cost beside writing its bytes, do workers help, how much memory?

CIFAR-10 in float16, augmented as by default. The whole command, start to exit, beside a plain loop that writes
as many bytes to as many files on the same disk; the writing of shards alone, to memory, by one worker and by two;
the most memory that the command and its children have at once, for few epochs and for more.
"""

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Fact, compared, interleaved, machine, report_facts, spread
from prebake.cli.run import run_command
from prebake.console import log
from prebake.errors import MachineError
from prebake.format.manifest import Plan
from prebake.precompute.augment import augmentation_for
from prebake.precompute.augmenters import LookupAugmenter
from prebake.precompute.bake import write_manifest
from prebake.precompute.images import SourceData
from prebake.precompute.plan import make_plan
from prebake.precompute.progress import gigabytes
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources import load
from prebake.precompute.workers import imap_threads

ROOT = Path(__file__).parent.parent
CHUNK_BYTES = 1 << 20
SCALING_EPOCHS = 8
MEMORY_EPOCHS = (2, 8)
SAMPLE_SECONDS = 0.05


def main() -> None:
    """Bake, write, measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.bake", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--epochs", type=int, default=25, help="of the whole command; default 25")
    options.add_argument("--work-dir", type=Path, help="on the disk to bake to; default the system's temporary one")
    options.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a directory in memory; default /dev/shm")  # noqa: S108 - the files go to a directory of their own
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "torchvision", "xxhash")
    source = load("cifar10", arguments.data_dir)
    plan = make_plan(source, augmentation_for(), max(arguments.epochs, *MEMORY_EPOCHS), "float16", seed=0)
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
        check_space(plan, Path(name), "--work-dir")
        bake = Command(arguments.data_dir.resolve(), Path(name) / "baked")
        facts = {
            f"whole command, {arguments.epochs} epochs": _beside_writing(bake, arguments.epochs, arguments.repetitions),
            f"memory, {MEMORY_EPOCHS[0]} and {MEMORY_EPOCHS[1]} epochs": _memory(bake, arguments.repetitions),
        }
    facts["writing to memory, 2 workers"] = _scaling(source, arguments.tmpfs, arguments.repetitions)
    report_facts("bake", facts, about, as_json=arguments.json)


def check_space(plan: Plan, directory: Path, option: str) -> None:
    """Say how much space a plan takes, once; raise MachineError where it is not free."""
    needed, free = sum(shard.size_bytes for shard in plan.shards()), shutil.disk_usage(directory).free
    if needed > free:
        raise MachineError(
            f"{directory}: {gigabytes(needed)} are to be written, {gigabytes(free)} are free; "
            f"free some space, or name a directory on another disk with {option}"
        )
    log(f"{directory}: takes {gigabytes(needed)}, which is deleted again; {gigabytes(free)} are free")


class Command:
    """`python -m precompute` for CIFAR-10 in float16."""

    def __init__(self, data_dir: Path, out: Path) -> None:
        self.out = out
        self._arguments = ["--dataset", "cifar10", "--data-dir", str(data_dir), "--out", str(out)]

    def start(self, epochs: int) -> subprocess.Popen[str]:
        """Start it, its stderr in a pipe: a few lines, which a pipe holds."""
        command = [sys.executable, "-m", "precompute", "--epochs", str(epochs), *self._arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def end(self, process: subprocess.Popen[str]) -> None:
        """Wait for its end; raise MachineError where it failed."""
        _, said = process.communicate()
        if process.returncode:
            raise MachineError(f"python -m precompute ended with code {process.returncode}: {said.strip()}")

    def clear(self) -> None:
        """Delete what it baked."""
        shutil.rmtree(self.out, ignore_errors=True)


def _beside_writing(command: Command, epochs: int, repetitions: int) -> Fact:
    plain = command.out.with_name("plain")
    sizes: list[int] = []
    chunk = os.urandom(CHUNK_BYTES)

    def bake() -> int:
        command.end(command.start(epochs))
        sizes[:] = [path.stat().st_size for path in sorted(command.out.rglob("*")) if path.is_file()]
        return sum(sizes)

    def write() -> int:
        for number, size in enumerate(sizes):
            write_plainly(plain / str(number), size, chunk)
        return sum(sizes)

    def clear() -> None:
        command.clear()
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir()
        os.sync()  # else the next one to write waits for what the last one left

    try:
        rates = interleaved({"bake": bake, "write": write}, repetitions, unit="bytes", prepare=clear)
    finally:
        clear()
    seconds = {name: [sum(sizes) / rate for rate in values] for name, values in rates.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return Fact(
        "at most 1.25 of the time that writing the bytes takes",
        f"{median['bake'] / median['write']:.3g} "
        f"({median['bake']:.1f} against {median['write']:.1f} s for {gigabytes(sum(sizes))})",
        repetitions,
        {f"{name}, seconds": spread(values) for name, values in seconds.items()} | {"bytes": sum(sizes)},
    )


def write_plainly(path: Path, size: int, chunk: bytes) -> None:
    """Write so many bytes, one chunk again and again, and see them reach the disk."""
    view = memoryview(chunk)
    with path.open("wb", buffering=0) as file:
        for left in range(size, 0, -len(view)):
            file.write(view[:left])
        os.fsync(file.fileno())


def _memory(command: Command, repetitions: int) -> Fact:
    goal = "under 2 GB, and the same for more epochs"
    if sys.platform != "linux":
        return Fact(goal, "skipped: needs Linux, which tells how much memory is whose")
    peaks: dict[int, list[float]] = {epochs: [] for epochs in MEMORY_EPOCHS}
    for _ in range(repetitions):
        for epochs, found in peaks.items():
            command.clear()
            process = command.start(epochs)
            found.append(peak_bytes(process))
            command.end(process)
            log(f"{epochs} epochs: {gigabytes(found[-1])} at most")
    command.clear()
    most = {epochs: max(found) for epochs, found in peaks.items()}
    return Fact(
        goal,
        " and ".join(gigabytes(size) for size in most.values()),
        repetitions,
        {f"{epochs} epochs, most bytes": spread(found) for epochs, found in peaks.items()},
    )


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """Return the most memory that a process and its children have at once, until it ends; shared pages count once."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional_bytes, family(process.pid))))
        time.sleep(SAMPLE_SECONDS)
    return peak


def family(pid: int) -> list[int]:
    """List a process and all that descend from it."""
    children: list[int] = []
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        try:
            children += map(int, path.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has just ended
    return [pid, *(member for child in children for member in family(child))]


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _scaling(source: SourceData, tmpfs: Path, repetitions: int) -> Fact:
    goal = "at least 1.6 times one worker"
    augmentation = augmentation_for()
    plan = make_plan(source, augmentation, SCALING_EPOCHS, "float16", seed=0)
    if not tmpfs.is_dir():
        return Fact(goal, "skipped: needs a directory in memory; name one with --tmpfs")
    with tempfile.TemporaryDirectory(dir=tmpfs) as name:
        directory = Path(name)
        check_space(plan, directory, "--tmpfs")
        write = writer(LookupAugmenter(source.splits["train"], augmentation, plan), plan, directory)

        def clear() -> None:
            for path in directory.glob("*-*"):
                path.unlink()

        contestants = {"2 workers": lambda: write(2), "1 worker": lambda: write(1)}
        rates = interleaved(contestants, repetitions, prepare=clear)
    return compared(goal, rates, "images/s")


def writer(augmenter: LookupAugmenter, plan: Plan, directory: Path) -> Callable[[int], int]:
    """Return a function that writes the training shards with a number of workers, and returns their images."""
    shards = plan.shards("train")
    write_manifest(plan, directory, "")
    write = functools.partial(ShardWriter(directory, plan.identity).write, augmenter)

    def work(workers: int) -> int:
        return sum(shard.samples for shard in imap_threads(write, shards, workers))

    return work


if __name__ == "__main__":
    run_command(main)
