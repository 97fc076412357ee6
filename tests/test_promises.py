"""The table of promises names tests that exist, and mutants that can be made."""

import ast
from pathlib import Path

import pytest

from tests.promises import PROMISES, Mutant

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text()
MUTANTS = [mutant for promise in PROMISES for mutant in promise.mutants]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_is_on_the_page() -> None:
    for promise in PROMISES:
        assert f"| {promise.text} | {promise.how} |" in PAGE


def test_every_test_that_is_named_exists() -> None:
    named = [test for promise in PROMISES for test in promise.tests] + [mutant.test for mutant in MUTANTS]
    for test in named:
        path, _, name = test.partition("::")
        assert not name or name.split("[")[0] in functions(ROOT / path), test


def test_every_promise_has_a_mutant() -> None:
    assert [promise.text for promise in PROMISES if not promise.mutants] == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_a_mutant_takes_out_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.path).read_text().count(mutant.before) == 1
