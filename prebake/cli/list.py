"""`prebake list`: the data sets that can be baked."""

import argparse

from prebake.cli.parser import CommandParser
from prebake.precompute.sources import sources

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the options of `prebake list`."""
    return CommandParser(prog="prebake list", description="List the data sets that --dataset accepts.")


def main() -> None:
    """Print one line for each kind of data set."""
    parser().parse_args()
    for source in sources().values():
        print(f"{source!s:16s} {source.about}")
