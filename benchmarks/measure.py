"""Measuring: contestants in turn, on one otherwise idle machine, and what is printed of it."""

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
    """One answer that has a goal.

    Attributes:
        goal: in words.
        measured: the answer in words; where there is none, "skipped: " and why.
        n: measurements that it was made from.
        values: what they came to, by name.
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
    """Time the contestants in turn; return each one's images/s, the first round thrown away.

    Args:
        contestants: each does its work and returns how many images that was.
        repetitions: rounds that count.
        unit: what they count, where it is not images.
        prepare: called before each contestant's work, outside of the timing.
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
    """Return what the figures depend on: processor, cores, Python, versions of packages, the commit."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    # The name alone hides the generation on virtual machines.
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
    """Return what a result keeps of repeated measurements."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compared(goal: str, rates: Mapping[str, list[float]], unit: str) -> Fact:
    """Return the first contestant's median rate over the second's as a fact; the unit is one of both rates."""
    first, second = (statistics.median(values) for values in rates.values())
    return Fact(
        goal,
        f"{first / second:.3g} ({first:,.0f} against {second:,.0f} {unit})",
        len(next(iter(rates.values()))),
        {f"{name}, {unit}": spread(values) for name, values in rates.items()},
    )


def held_to(goals: Sequence[tuple[str, str, str]], rates: Mapping[str, list[float]]) -> dict[str, Fact]:
    """Return a fact for each goal (contestant, peer, goal in words); none where the peer was skipped."""
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
    """Print medians, their ratios to one contestant, and facts; keep all in `results/QUESTION.json`."""
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
    """Print the facts of a question that no contest of rates answers; keep them in `results/QUESTION.json`."""
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
    """A contestant in an environment of its own: `INTERPRETER SCRIPT DIRECTORY`, asked over a pipe.

        with Peer(interpreter, script, directory) as peer:
            images = peer()

    The script prints `ready` and its version once it can be asked (what it prints before is ignored); a
    line on its stdin then asks for a round, and it answers with the number of images.

    Attributes:
        version: of the package that is measured.

    Raises:
        MachineError: it could not be started (the message is the last line of its stderr), or died later.
    """

    def __init__(self, interpreter: Path, script: Path, directory: Path) -> None:
        self._command = [interpreter, script, directory]
        self._script = script
        self.version = ""

    def __enter__(self) -> "Peer":
        self._stderr = tempfile.TemporaryFile()  # a pipe that nobody reads would fill
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
            pass  # nor will it answer then
        answer = self._answers.readline()
        if not answer:
            raise MachineError(
                f"{self._script.name}: ended while it was measured ({self._last_words()}); "
                "mend its environment, or leave its --peer out"
            )
        return int(answer)

    def close(self) -> None:
        """End the process; all that it leaves lies in its directory."""
        self._process.kill()
        self._process.communicate()  # closes the pipes, whatever is left in them
        self._stderr.close()

    def _last_words(self) -> str:
        self._process.kill()  # where it closed its stdout and lives on
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}, nothing on stderr")


def peer_option(known: Collection[str]) -> Callable[[str], tuple[str, Path]]:
    """Return the argparse type of `--peer NAME=PYTHON`: a name that is known, an interpreter that is there."""

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
