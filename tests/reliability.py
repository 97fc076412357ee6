"""python -m tests.reliability: docs/reliability.md's table, made by running every test that it names.

Each promise's tests are run, slow ones included; then each of its mutants: the source is changed in a copy, and
the test that must fail then is seen failing.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.promises import PROMISES, Mutant, Promise

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: python -m tests.reliability --write -->\n", "<!-- end of table -->\n"
HEAD = [
    "| promise | how it is tested | cases | result | taken out |",
    "| --- | --- | ---: | --- | --- |",
]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
FAILED = 1  # pytest's exit code where tests were run and failed
MUTANT_SECONDS = 300


@dataclass(frozen=True)
class Outcome:
    """One test as pytest reported it; `cases` as it counted them itself, else 1."""

    test: str
    trouble: str
    skipped: bool
    cases: int
    seconds: float


def run_tests(promise: Promise, *, sample: bool) -> list[Outcome]:
    """Run a promise's tests; with `sample` without the slow ones."""
    marks = "not gpu and not network" + (" and not slow" if sample else "")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [*PYTEST, *promise.tests, "-m", marks, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if not report.exists():
            raise SystemExit(f"pytest ended with {done.returncode} and left no report")
        return [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]  # noqa: S314 - pytest's own


def _outcome(case: ElementTree.Element) -> Outcome:
    path = case.get("classname", "").replace(".", "/") + ".py"
    troubles = [child for child in case if child.tag in ("failure", "error")]
    counts = [item.get("value", "") for item in case.iter("property") if item.get("name") == "cases"]
    return Outcome(
        test=f"{path}::{case.get('name', '').split('[')[0]}",
        trouble="; ".join(child.get("message", "").split("\n")[0] for child in troubles),
        skipped=case.find("skipped") is not None,
        cases=sum(map(int, counts)) if counts else 1,
        seconds=float(case.get("time", 0)),
    )


def survives(mutant: Mutant) -> str:
    """Run a mutant's test in a copy of the source; return what is wrong where it does not fail, else nothing."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - whichever git
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        source = (copy / mutant.path).read_text()
        if source.count(mutant.before) != 1:
            return f"{mutant.path} holds {mutant.before!r} {source.count(mutant.before)} times"
        (copy / mutant.path).write_text(source.replace(mutant.before, mutant.after))
        command = [*PYTEST, "-x", mutant.test]
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=MUTANT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ""  # it never ends: that is seen too
        return "" if done.returncode == FAILED else f"{mutant.test} ended with {done.returncode}"


def row(promise: Promise, outcomes: Sequence[Outcome], survivors: Sequence[str]) -> str:
    """Return one line of the table."""
    run = [outcome for outcome in outcomes if not outcome.skipped]
    failed = [outcome for outcome in run if outcome.trouble]
    result = f"**{len(failed)} of {len(run)} tests failed**" if failed else f"passed, {len(run)} tests"
    if not run:
        result = "**not run**"
    if len(run) < len(outcomes):
        result += f", {len(outcomes) - len(run)} skipped"
    count = len(promise.mutants)
    taken_out = f"{count - len(survivors)} of {count} seen failing" if count else "-"
    if survivors:
        taken_out = f"**{taken_out}**"
    cases = sum(outcome.cases for outcome in run)
    seconds = sum(outcome.seconds for outcome in run)
    return f"| {promise.text} | {promise.how} | {cases:,} | {result}, {seconds:.0f} s | {taken_out} |"


def main() -> None:
    """Run everything, print the table row by row, and exit with 1 where a promise is not held."""
    options = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    options.add_argument("--sample", action="store_true", help="without the slow tests: minutes instead of an hour")
    options.add_argument("--only", default="", metavar="TEXT", help="promises that contain this text")
    options.add_argument(
        "--write", action="store_true", help=f"put each row into {PAGE.relative_to(ROOT)} as it is done"
    )
    arguments = options.parse_args()
    held = True
    for promise in PROMISES:
        if arguments.only.lower() in promise.text.lower():
            outcomes = run_tests(promise, sample=arguments.sample)
            survivors = [survivor for survivor in map(survives, promise.mutants) if survivor]
            line = row(promise, outcomes, survivors)
            print(line, flush=True)  # noqa: T201 - the command's result
            for trouble in [
                *(f"{outcome.test}: {outcome.trouble}" for outcome in outcomes if outcome.trouble),
                *(f"not seen failing: {survivor}" for survivor in survivors),
            ]:
                print(trouble, file=sys.stderr)  # noqa: T201
            held = held and "**" not in line
            if arguments.write:
                write(promise, line, "a sample" if arguments.sample else "all")
    raise SystemExit(not held)


def write(promise: Promise, line: str, sets: str) -> None:
    """Put one row into the page, in the promises' order; other rows stay as they are."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    known = [each.text for each in PROMISES]
    rows = {text: old for old in table.splitlines() for text in known if old.startswith(f"| {text} |")}
    about = (
        f"Written by the command above, {sets} of the cases; {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__.split('+')[0]}, numpy {np.__version__}.\n"
    )
    rows[promise.text] = line
    lines = [*HEAD, *(rows[text] for text in known if text in rows), "", about]
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + after)


if __name__ == "__main__":
    main()
