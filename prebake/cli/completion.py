"""`prebake completion SHELL`: a script that completes commands, options and choices."""

import argparse
import importlib
import sys

from prebake.cli.main import COMMANDS
from prebake.cli.parser import CommandParser
from prebake.optional import import_optional

__all__ = ["all_parsers", "main", "parser"]

SHELLS = ("bash", "zsh", "tcsh")


def parser() -> argparse.ArgumentParser:
    """Return the options of `prebake completion`."""
    options = CommandParser(
        prog="prebake completion",
        description="Print a completion script for a shell.",
        epilog='For bash, add to ~/.bashrc: eval "$(prebake completion bash)"',
    )
    options.add_argument("shell", choices=SHELLS)
    return options


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, by the command's name."""
    found = {}
    for name, command in COMMANDS.items():
        module = importlib.import_module(command.module)
        found[name] = module.parsers()[name] if command.words else module.parser()
    return found


def main() -> None:
    """Print the script."""
    chosen = parser().parse_args()
    shtab = import_optional("shtab", "completion", "prebake completion")
    root = argparse.ArgumentParser(prog="prebake")
    commands = root.add_subparsers()
    for name, options in all_parsers().items():
        commands.add_parser(name, parents=[options], add_help=False, help=COMMANDS[name].about)
    sys.stdout.write(shtab.complete(root, chosen.shell))
