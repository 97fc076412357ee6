"""The rule of the house: precompute and train meet only in shards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"shards": {"precompute", "train"}, "precompute": {"train"}, "train": {"precompute"}}


def imported(code: str) -> set[str]:
    """Return the top-level names that code imports, in whatever form and wherever."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.split(".")[0] for alias in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.split(".")[0])
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                found.add(module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_the_rule_allows(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        assert not imported(module.read_text(encoding="utf-8")) & FORBIDDEN[package], module


def test_every_form_of_import_is_seen() -> None:
    for code in (
        "import train",
        "import os, prebake.loader.stream as s",
        "from train import stream",
        "from prebake.loader.stream import x",
        "def f():\n    from train import y",
        "importlib.import_module('prebake.loader.device_feed')",
        "__import__('train')",
    ):
        assert "train" in imported(code)
    assert imported("from . import train\ntrain = 1") == set()
