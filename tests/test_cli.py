"""`prebake` without a command, its version, its help, its completion script, and the doors of a clone."""

import subprocess
import sys
from pathlib import Path

import pytest

import prebake
from prebake.cli.completion import all_parsers
from prebake.cli.main import COMMANDS, main
from prebake.cli.main import run as run_by_name

ROOT = Path(__file__).resolve().parents[1]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run `prebake ARGUMENTS` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["prebake", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_version_names_prebake_and_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith(f"prebake {prebake.__version__}, torch ")


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("bake",), ("--epochs", "25")])
def test_a_missing_or_unknown_command_is_a_usage_error(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "precompute, list, info" in said


@pytest.mark.parametrize(("typed", "meant"), [("bake", "precompute"), ("audti", "audit")])
def test_a_near_command_is_suggested(
    typed: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, typed) == 2
    assert f"Did you mean prebake {meant}? " in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_under_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_by_name(name, ["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: prebake {name} ")


@pytest.mark.parametrize(("first", "second"), [("precompute", "audit"), ("precompute", "list"), ("train", "predict")])
def test_a_command_can_follow_the_name_of_its_stage(
    first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_by_name(first, [second, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: prebake {second} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        run_by_name("completion", [shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    options = {text for parser in all_parsers().values() for text in parser._option_string_actions}
    assert [option for option in options if option.lstrip("-") not in script] == []


@pytest.mark.parametrize("module", ["prebake", "precompute", "train"])
def test_the_doors_of_a_clone_run_the_same_commands(module: str) -> None:
    words = ["precompute"] if module == "prebake" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: prebake {(words or [module])[0]} ")
