"""python -m tests.reliability: docs/RELIABILITY.md's table, made by running every test that it names.

Each promise's tests are run, slow ones included; then each of its mutants: the source is changed in a copy, and
the test that must fail then is seen failing. With --write the table replaces the one that stands there.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tests.promises import PROMISES, Mutant, Promise

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "RELIABILITY.md"
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


def run_tests(promises: Sequence[Promise], *, sample: bool) -> list[Outcome]:
    """Run all tests of these promises in one session; with `sample` without the slow ones."""
    tests = list(dict.fromkeys(test for promise in promises for test in promise.tests))
    marks = "not gpu and not network" + (" and not slow" if sample else "")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [*PYTEST, *tests, "-m", marks, f"--junitxml={report}", "-o", "junit_family=xunit1"]
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
    mine = [outcome for outcome in outcomes if _belongs(outcome, promise)]
    run = [outcome for outcome in mine if not outcome.skipped]
    failed = [outcome for outcome in run if outcome.trouble]
    result = f"**{len(failed)} of {len(run)} tests failed**" if failed else f"passed, {len(run)} tests"
    if not run:
        result = "**not run**"
    if len(run) < len(mine):
        result += f", {len(mine) - len(run)} skipped"
    count, left = len(promise.mutants), [survivor for survivor in survivors if survivor]
    taken_out = f"{count - len(left)} of {count} seen failing" if count else "-"
    if left:
        taken_out = f"**{taken_out}**"
    cases = sum(outcome.cases for outcome in run)
    seconds = sum(outcome.seconds for outcome in run)
    return f"| {promise.text} | {promise.how} | {cases:,} | {result}, {seconds:.0f} s | {taken_out} |"


def _belongs(outcome: Outcome, promise: Promise) -> bool:
    return any(outcome.test == test or outcome.test.split("::")[0] == test for test in promise.tests)


def main() -> None:
    """Run everything, print the table, and exit with 1 where a promise is not held."""
    options = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    options.add_argument("--sample", action="store_true", help="without the slow tests: minutes instead of hours")
    options.add_argument("--only", default="", metavar="TEXT", help="promises that contain this text")
    options.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.relative_to(ROOT)}")
    arguments = options.parse_args()
    promises = [promise for promise in PROMISES if arguments.only.lower() in promise.text.lower()]
    started = time.monotonic()
    outcomes = run_tests(promises, sample=arguments.sample)
    mutants = [mutant for promise in promises for mutant in promise.mutants]
    found = {mutant: survives(mutant) for mutant in tqdm(mutants, desc="mutants", disable=not sys.stderr.isatty())}
    lines = [row(promise, outcomes, [found[mutant] for mutant in promise.mutants]) for promise in promises]
    about = (
        f"{'Samples of the sets' if arguments.sample else 'All sets'}, "
        f"in {(time.monotonic() - started) / 60:.0f} minutes; "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__.split('+')[0]}, numpy {np.__version__}."
    )
    table = "\n".join([*HEAD, *lines, "", about, ""])
    print(table)  # noqa: T201 - the command's result
    for trouble in [
        *(f"{outcome.test}: {outcome.trouble}" for outcome in outcomes if outcome.trouble),
        *(f"not seen failing: {survivor}" for survivor in found.values() if survivor),
    ]:
        print(trouble, file=sys.stderr)  # noqa: T201
    if arguments.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2])
    raise SystemExit("**" in table)


if __name__ == "__main__":
    main()
