"""The argument parser that all commands use."""

import argparse
from typing import NoReturn

from prebake.errors import UsageError

__all__ = ["CommandParser", "add_model_option"]


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UsageError`, so that every command reports errors in one form."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message.removeprefix('argument ')}. See {self.prog} --help")


def add_model_option(options: argparse.ArgumentParser) -> None:
    """Add `--model`, for commands that load the weights of a run."""
    options.add_argument("--model", metavar="FILE.py:NAME", help="the model of the run, if you defined it yourself")
