"""The table of promises names tests and mechanisms that exist."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.mechanisms import Mechanism, owner_of
from tests.promises import MECHANISMS, PROMISES
from tests.reliability import PAGE, disabling

ROOT = Path(__file__).parent.parent


def functions(path: Path) -> set[str]:
    """Return the names of the functions in a file of tests."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_page_has_every_promise() -> None:
    page = PAGE.read_text()
    for promise in PROMISES:
        assert f"| {promise.text} | {promise.how} |" in page


def test_every_named_test_exists() -> None:
    named = [test for promise in PROMISES for test in promise.tests] + [mechanism.test for mechanism in MECHANISMS]
    missing = []
    for test in dict.fromkeys(named):
        path, _, name = test.partition("::")
        if not (ROOT / path).is_file() or (name and name.split("[")[0] not in functions(ROOT / path)):
            missing.append(test)
    assert missing == []


def test_every_promise_has_a_mechanism() -> None:
    assert [promise.text for promise in PROMISES if not promise.mechanisms] == []


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=[f"{n}-{each.target}" for n, each in enumerate(MECHANISMS)])
def test_every_mechanism_exists_and_has_a_substitute(mechanism: Mechanism) -> None:
    owner, name = owner_of(mechanism)
    original = getattr(owner, name)
    assert mechanism.substitute(original) is not original


@pytest.mark.slow
def test_mechanism_is_switched_off_in_new_processes() -> None:
    number = next(n for n, each in enumerate(MECHANISMS) if each.target == "prebake.train.checkpoint:KEPT")
    code = "import prebake.train.checkpoint as c; print(c.KEPT)"
    for environment, kept in (({}, "2"), (disabling(number), "1")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=ROOT, capture_output=True, check=True
        )
        assert done.stdout.decode().strip() == kept
