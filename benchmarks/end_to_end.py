"""python -m benchmarks.end_to_end: from a cold start to a trained model, whole commands, start to exit.

One after the other: bake, then train. Together: train with --follow, started with the bake and waiting for it
where it must. Together should cost little more than the slower of the two.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Fact, machine, report_facts, spread
from prebake.cli.run import run_command
from prebake.console import log
from prebake.errors import MachineError
from prebake.precompute.sources import dataset_names

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Round:
    """Seconds of one round: the bake and the training one after the other, and both together."""

    bake: float
    train: float
    together: float


def main() -> None:
    """Bake and train, apart and together; print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--dataset", default="digits", choices=dataset_names(), help="default digits")
    options.add_argument("--epochs", type=int, default=25, help="to bake and to train; default 25")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--work-dir", type=Path, help="to bake in; default the system's temporary directory")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "xxhash")
    with tempfile.TemporaryDirectory(dir=arguments.work_dir) as name:
        commands = Commands(arguments.dataset, arguments.data_dir.resolve(), arguments.epochs, Path(name))
        rounds = []
        for turn in range(arguments.repetitions + 1):
            found = commands.round()
            log(f"round {turn}: {found}")
            rounds += [found] if turn else []  # the first one warms the page cache
    facts = {f"{arguments.dataset}, {arguments.epochs} epochs, together": fact(rounds)}
    report_facts(f"end_to_end-{arguments.dataset}", facts, about, as_json=arguments.json)


def fact(rounds: list[Round]) -> Fact:
    """Hold the median seconds of both together against those of the slower one alone."""
    values = {
        "bake": [found.bake for found in rounds],
        "train": [found.train for found in rounds],
        "together": [found.together for found in rounds],
    }
    median = {name: statistics.median(seconds) for name, seconds in values.items()}
    slower = max(median["bake"], median["train"])
    return Fact(
        "little more than the slower of the two",
        f"{median['together'] / slower:.3g} of it ({median['together']:.1f} s; "
        f"alone the bake took {median['bake']:.1f} s, the training {median['train']:.1f} s)",
        len(rounds),
        {f"{name}, seconds": spread(seconds) for name, seconds in values.items()},
    )


class Commands:
    """The two commands for one data set, in a directory of their own."""

    def __init__(self, dataset: str, data_dir: Path, epochs: int, directory: Path) -> None:
        self._shards, self._runs = directory / "shards", directory / "runs"
        named = ["--dataset", dataset, "--epochs", str(epochs)]
        self._bake = ["precompute", *named, "--data-dir", str(data_dir), "--out", str(self._shards)]
        self._train = ["train", *named, "--shards", str(self._shards), "--out", str(self._runs)]

    def round(self) -> Round:
        """Run them one after the other, then together, from nothing each time."""
        self._clear()
        bake = _seconds(self._bake)
        train = _seconds(self._train)
        self._clear()
        return Round(bake, train, _seconds(self._bake, [*self._train, "--follow"]))

    def _clear(self) -> None:
        for path in (self._shards, self._runs):
            shutil.rmtree(path, ignore_errors=True)
        self._shards.mkdir()
        os.sync()


def _seconds(*commands: list[str]) -> float:
    """Start the commands at once; return the seconds until the last one has ended."""
    started = time.perf_counter()
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
        for command in commands
    ]
    for command, process in zip(commands, running, strict=True):
        _, said = process.communicate()
        if process.returncode:
            raise MachineError(f"python -m {command[0]} ended with code {process.returncode}: {said.strip()}")
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
