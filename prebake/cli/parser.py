"""The argument parser that all commands use."""

import argparse
from typing import NoReturn

from prebake.errors import UsageError

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are `UsageError`, so that every command reports errors in one form."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message.removeprefix('argument ')}. See {self.prog} --help")
