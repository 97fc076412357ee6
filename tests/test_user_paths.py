"""Paths that a user gives: ~ is the home directory in every option and argument; spaces and Unicode stay."""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import prebake
from prebake.cli.main import COMMANDS


def parsers() -> Iterator[argparse.ArgumentParser]:
    for module in sorted({command.module for command in COMMANDS.values()}):
        commands = importlib.import_module(module)
        yield from commands.parsers().values() if hasattr(commands, "parsers") else [commands.parser()]


def test_every_option_that_takes_a_path_expands_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = set()
    for parser in parsers():
        for action in parser._actions:
            named = action.dest in ("run", "runs", "directory", "resume", "images") and action.type is not int
            if named or isinstance(action.default, Path):
                assert action.type is not None, (parser.prog, action.dest)
                convert = parser._registry_get("type", action.type, action.type)
                assert str(convert("~/a")) == str(tmp_path / "a"), (parser.prog, action.dest)
                found.add(action.dest)
            assert action.type is not Path, (parser.prog, action.dest)
    assert {"out", "data_dir", "run", "runs", "directory", "resume", "images"} <= found


@pytest.mark.parametrize("name", ["sets", "two words", "caf\u00e9", "cafe\u0301"])
def test_a_set_under_the_home_is_baked_and_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9) % 2
    for out in (f"~/{name}", name):
        prebake.bake(images, labels, epochs=1, augment="plain", out=out)
        assert prebake.ShardSet(out).missing() == []
    assert (tmp_path / "home" / name / "manifest.json").is_file()
    assert (tmp_path / name / "manifest.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"home", name}
