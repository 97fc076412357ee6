"""Time several contestants in turn on an idle machine, and print and keep the results."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from prebake.errors import MachineError

__all__ = [
    "RESULTS",
    "Fact",
    "Peer",
    "compared",
    "held_to",
    "interleaved",
    "machine",
    "peer_option",
    "report",
    "report_facts",
    "spread",
]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Fact:
    """One measured result with a goal.

    Attributes:
        goal: the goal as text.
        measured: the result as text; without one, "skipped: " and the reason.
        n: number of measurements.
        values: the measurements, by name.
    """

    goal: str
    measured: str
    n: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)


def interleaved(
    contestants: Mapping[str, Callable[[], int]],
    repetitions: int,
    *,
    unit: str = "images",
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Time the contestants in turn; return the images/s of each, without the first round.

    Args:
        contestants: each does its work and returns the number of images.
        repetitions: number of rounds after the first.
        unit: name of the unit, if it is not images.
        prepare: called before each contestant, outside of the timing.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repetitions + 1):
        for name, work in contestants.items():
            prepare()
            started = time.perf_counter()
            count = work()
            seconds = time.perf_counter() - started
            if turn:
                rates[name].append(count / seconds)
            print(f"round {turn}: {name}: {count / seconds:,.0f} {unit}/s", file=sys.stderr, flush=True)
    return rates


def machine(*packages: str) -> dict[str, Any]:
    """Return processor, cores, load, system, versions of Python and packages, and the commit."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    commit = "unknown"
    if shutil.which("git"):
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "commit": commit,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compared(goal: str, rates: Mapping[str, list[float]], unit: str) -> Fact:
    """Return the ratio of the first contestant's median rate to the second's as a fact; `unit` is that of both."""
    first, second = (statistics.median(values) for values in rates.values())
    return Fact(
        goal,
        f"{first / second:.3g} ({first:,.0f} against {second:,.0f} {unit})",
        len(next(iter(rates.values()))),
        {f"{name}, {unit}": spread(values) for name, values in rates.items()},
    )


def held_to(goals: Sequence[tuple[str, str, str]], rates: Mapping[str, list[float]]) -> dict[str, Fact]:
    """Return a fact for each goal (contestant, peer, goal as text) whose peer was not skipped."""
    return {
        f"{name} / {peer}": compared(goal, {name: rates[name], peer: rates[peer]}, "images/s")
        for name, peer, goal in goals
        if peer in rates
    }


def report(
    question: str,
    rates: Mapping[str, list[float]],
    against: str,
    about: Mapping[str, Any],
    *,
    as_json: bool,
    skipped: Mapping[str, str] | None = None,
    facts: Mapping[str, Fact] | None = None,
) -> None:
    """Print medians, their ratios to one contestant, and facts; write all to `results/QUESTION.json`."""
    limit = statistics.median(rates[against])
    result: dict[str, Any] = {
        "question": question,
        "machine": dict(about),
        "unit": "images/s",
        "n": len(rates[against]),
        "against": against,
        "rates": {
            name: {**spread(values), "ratio": statistics.median(values) / limit} for name, values in rates.items()
        },
        "skipped": dict(skipped or {}),
    }
    if facts:
        result["facts"] = {name: asdict(fact) for name, fact in facts.items()}
    _publish(result, as_json=as_json)


def report_facts(question: str, facts: Mapping[str, Fact], about: Mapping[str, Any], *, as_json: bool) -> None:
    """Print facts that are not about rates; write them to `results/QUESTION.json`."""
    answers = {name: asdict(fact) for name, fact in facts.items()}
    _publish({"question": question, "machine": dict(about), "facts": answers}, as_json=as_json)


def _publish(result: dict[str, Any], *, as_json: bool) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['question']}.json").write_text(json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    about = result["machine"]
    print(f"{result['question']}: {about['cpu']}, {about['cores']} cores, load before {about['load_before']:.2f}")
    for name, figures in result.get("rates", {}).items():
        ratio = f"{figures['ratio']:8.3f} of {result['against']}, n = {result['n']}"
        print(f"  {name:45s} {figures['median']:>12,.0f} images/s  {ratio}")
    for name, reason in result.get("skipped", {}).items():
        print(f"  {name:45s} skipped: {reason}")
    for name, fact in result.get("facts", {}).items():
        print(f"  {name}: {fact['measured']}; goal: {fact['goal']}; n = {fact['n']}")


class Peer:
    """A contestant in its own Python environment: runs `INTERPRETER SCRIPT DIRECTORY`, and talks over pipes.

        with Peer(interpreter, script, directory) as peer:
            images = peer()

    The script prints `ready` and its version when it has started; lines before that are ignored. Each line on its
    stdin starts one round, and the script answers with the number of images.

    Attributes:
        version: version of the measured package.

    Raises:
        MachineError: it could not be started (the message is the last line of its stderr), or it ended later.
    """

    def __init__(self, interpreter: Path, script: Path, directory: Path) -> None:
        self._command = [interpreter, script, directory]
        self._script = script
        self.version = ""

    def __enter__(self) -> "Peer":
        self._stderr = tempfile.TemporaryFile()  # a pipe without a reader would fill
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._stderr, text=True)
        except OSError as error:
            self._stderr.close()
            raise MachineError(f"{error.filename}: {error.strerror}") from None
        self._questions, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            for line in self._answers:
                if line.startswith("ready"):
                    self.version = line.removeprefix("ready").strip()
                    return self
            raise MachineError(self._last_words())
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self) -> int:
        try:
            self._questions.write("\n")
            self._questions.flush()
        except BrokenPipeError:
            pass  # the next read finds the end of the file
        answer = self._answers.readline()
        if not answer:
            raise MachineError(
                f"{self._script.name}: ended while it was measured ({self._last_words()}); "
                "repair its environment, or leave out its --peer option"
            )
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()  # closes the pipes
        self._stderr.close()

    def _last_words(self) -> str:
        self._process.kill()  # in case it closed only its stdout
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}, nothing on stderr")


def peer_option(known: Collection[str]) -> Callable[[str], tuple[str, Path]]:
    """Return the argparse type of `--peer NAME=PYTHON`, for a known name and an existing interpreter."""

    def parse(text: str) -> tuple[str, Path]:
        name, _, interpreter = text.partition("=")
        if name not in known or not interpreter:
            raise argparse.ArgumentTypeError(
                f"expected NAME=PYTHON with NAME one of {', '.join(known)}, found {text!r}"
            )
        if not Path(interpreter).is_file():
            raise argparse.ArgumentTypeError(
                f"{interpreter}: no such file; name the Python of an environment in which {name} is installed"
            )
        return name, Path(interpreter)

    return parse
