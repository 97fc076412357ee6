"""python -m tests.reliability: docs/reliability.md's table, made by running every test that it names.

Each promise's tests are run, slow ones included; then each of its mutants: the source is changed in a copy, and
the test that must fail then is seen failing.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.helpers.mechanisms import Mechanism
from tests.promises import MECHANISMS, PROMISES, Promise

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: python -m tests.reliability --write -->\n", "<!-- end of table -->\n"
HEAD = [
    "| promise | how it is tested | cases | result | switched off |",
    "| --- | --- | ---: | --- | --- |",
]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
FAILED = 1  # exit code of pytest if a test failed
MUTANT_SECONDS = 300


@dataclass(frozen=True)
class Outcome:
    """Result of one test; `cases` is the number that it recorded itself, else 1."""

    test: str
    trouble: str
    skipped: bool
    cases: int
    seconds: float


def run_tests(promise: Promise, *, sample: bool) -> list[Outcome]:
    """Run the tests of a promise; `sample` leaves out the slow ones."""
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


def disabling(number: int) -> dict[str, str]:
    """Return the environment variables that switch a mechanism off in a process and in all that it starts."""
    path = [str(ROOT / "tests" / "helpers" / "disable"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {"PREBAKE_DISABLE": str(number), "PYTHONPATH": os.pathsep.join(filter(None, path))}


def survives(mechanism: Mechanism) -> str:
    """Run the test of a mechanism without it; return an empty string if it fails, else what happened."""
    environment = {**os.environ, **disabling(MECHANISMS.index(mechanism))}
    try:
        done = subprocess.run(
            [*PYTEST, "-x", mechanism.test],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=MUTANT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""  # a test that never ends does not pass
    return (
        "" if done.returncode == FAILED else f"{mechanism.test} without {mechanism.target}: exit code {done.returncode}"
    )


def row(promise: Promise, outcomes: Sequence[Outcome], survivors: Sequence[str]) -> str:
    """Return one row of the table."""
    run = [outcome for outcome in outcomes if not outcome.skipped]
    failed = [outcome for outcome in run if outcome.trouble]
    result = f"**{len(failed)} of {len(run)} tests failed**" if failed else f"passed, {len(run)} tests"
    if not run:
        result = "**not run**"
    if len(run) < len(outcomes):
        result += f", {len(outcomes) - len(run)} skipped"
    count = len(promise.mechanisms)
    switched_off = f"{count - len(survivors)} of {count} seen failing" if count else "-"
    if survivors:
        switched_off = f"**{switched_off}**"
    cases = sum(outcome.cases for outcome in run)
    seconds = sum(outcome.seconds for outcome in run)
    return f"| {promise.text} | {promise.how} | {cases:,} | {result}, {seconds:.0f} s | {switched_off} |"


def main() -> None:
    """Run everything, print the table row by row, and exit with 1 if a promise does not hold."""
    options = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    options.add_argument("--sample", action="store_true", help="leave out the slow tests: minutes instead of an hour")
    options.add_argument("--only", default="", metavar="TEXT", help="promises that contain this text")
    options.add_argument(
        "--write", action="store_true", help=f"write each row into {PAGE.relative_to(ROOT)} when it is done"
    )
    arguments = options.parse_args()
    kept = True
    for promise in PROMISES:
        if arguments.only.lower() in promise.text.lower():
            outcomes = run_tests(promise, sample=arguments.sample)
            survivors = [survivor for survivor in map(survives, promise.mechanisms) if survivor]
            line = row(promise, outcomes, survivors)
            print(line, flush=True)  # noqa: T201 - the command's result
            for trouble in [
                *(f"{outcome.test}: {outcome.trouble}" for outcome in outcomes if outcome.trouble),
                *(f"passed or did not run: {survivor}" for survivor in survivors),
            ]:
                print(trouble, file=sys.stderr)  # noqa: T201
            kept = kept and "**" not in line
            if arguments.write:
                write(promise, line, "a sample" if arguments.sample else "all")
    raise SystemExit(not kept)


def write(promise: Promise, line: str, sets: str) -> None:
    """Put one row into the page, in the order of the promises; other rows stay as they are."""
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
