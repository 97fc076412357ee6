"""The console script `prebake` and `python -m prebake`: `prebake COMMAND ...`."""

import difflib
import importlib
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import prebake
from prebake.cli.run import run_command
from prebake.errors import UsageError

__all__ = ["COMMANDS", "Command", "main", "run"]

RESUME_BAKE = "the same command resumes the bake"
RESUME_TRAIN = "prebake train --resume auto, with the same options, resumes the run"


class Command(NamedTuple):
    """One command.

    Attributes:
        module: its module, imported when the command runs. Its `main()` reads `sys.argv`.
        about: one clause for the list of commands.
        after_interruption: how to resume after SIGINT or SIGTERM.
        words: arguments that are put in front of the user's, where one module has several commands.
    """

    module: str
    about: str
    after_interruption: str = ""
    words: tuple[str, ...] = ()


COMMANDS = {
    "precompute": Command("prebake.cli.precompute", "bake the augmented views of a data set", RESUME_BAKE),
    "list": Command("prebake.cli.list", "list the data sets that can be baked"),
    "info": Command(
        "prebake.cli.shards", "show the content of a shard set and which shards are missing", "", ("info",)
    ),
    "verify": Command("prebake.cli.shards", "check every byte against its checksum", "", ("verify",)),
    "audit": Command("prebake.cli.audit", "recompute views from the source images and compare them"),
    "repair": Command("prebake.cli.repair", "bake missing and damaged shards again", RESUME_BAKE),
    "show": Command("prebake.cli.shards", "draw a grid of images in several epochs", "", ("show",)),
    "drop": Command("prebake.cli.shards", "remove the last epochs of a shard set", "", ("drop",)),
    "train": Command("prebake.cli.train", "train a model on shard sets", RESUME_TRAIN),
    "predict": Command("prebake.cli.predict", "classify image files with a trained model"),
    "compare": Command("prebake.cli.compare", "compare finished runs"),
    "report": Command("prebake.cli.report", "write the report of a finished run again"),
    "heatmap": Command("prebake.cli.heatmap", "draw where a model looks (Grad-CAM)"),
    "completion": Command("prebake.cli.completion", "print a completion script for bash, zsh or tcsh"),
}


def main() -> None:
    """Run the command that the first argument names."""
    arguments = sys.argv[1:]
    if arguments[:1] and arguments[0] in COMMANDS:
        run(arguments[0], arguments[1:])
    run_command(lambda: _without_command(arguments))


def run(name: str, arguments: Sequence[str]) -> None:
    """Run one command and exit with its exit code.

    `precompute audit` and `train predict` name the same commands as `audit` and `predict`.
    """
    if name in ("precompute", "train") and arguments[:1] and arguments[0] in COMMANDS:
        name, *arguments = arguments
    command = COMMANDS[name]
    sys.argv = [f"prebake {name}", *command.words, *arguments]
    run_command(lambda: importlib.import_module(command.module).main(), command.after_interruption)


def _without_command(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--version"]:
        print(f"prebake {prebake.__version__}, torch {_installed('torch')}, Python {platform.python_version()}")
    elif arguments[:1] in (["--help"], ["-h"]):
        print(_help())
    elif arguments:
        near = ["precompute"] if arguments[0] == "bake" else difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = "".join(f"Did you mean prebake {name}? " for name in near)
        raise UsageError(
            f"no command named {arguments[0]!r}. {hint}There are {', '.join(COMMANDS)}. See prebake --help"
        )
    else:
        raise UsageError(f"expected a command; there are {', '.join(COMMANDS)}. See prebake --help")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _help() -> str:
    about = str(prebake.__doc__).split("\n")[0]
    lines = ["usage: prebake COMMAND ...", "       prebake [--version | --help]", "", about, ""]
    lines += [f"  {name:12s}{command.about}" for name, command in COMMANDS.items()]
    lines += ["", "prebake COMMAND --help lists the options of a command."]
    return "\n".join(lines)
