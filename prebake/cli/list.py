"""`prebake list`: the data sets that can be baked."""

import argparse

from prebake.cli.parser import CommandParser
from prebake.precompute.sources.known import DATASETS, OWN

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the options of `prebake list`."""
    return CommandParser(prog="prebake list", description="List the values of --dataset.")


def main() -> None:
    """Print one line for each kind of data set."""
    parser().parse_args()
    lines = {name: known.about for name, known in DATASETS.items()}
    lines |= {f"{kind}:{own.where}": own.about for kind, own in OWN.items()}
    for name, about in lines.items():
        print(f"{name:16s} {about}")
