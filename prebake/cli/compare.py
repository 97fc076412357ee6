"""`prebake compare RUN RUN ...`: print and draw finished runs side by side."""

import argparse
import json
from pathlib import Path

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser
from prebake.train.compare import compare, describe, draw, grouped
from prebake.train.run_record import RunRecord

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake compare",
        description="Compare finished runs in tables and a plot. Runs that differ only in their seeds are repetitions "
        "of one setting. Each setting is tested against the first one, on the validation split if all runs have one.",
    )
    options.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="directory of a finished run")
    options.add_argument(
        "--out", type=user_path, default=Path("compare.png"), help="PNG file of the plot; default compare.png"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return options


def main() -> None:
    """Print and draw runs side by side."""
    chosen = parser().parse_args()
    paths = {path.resolve(): path for path in chosen.runs}  # a run that is named twice counts once
    groups = grouped([RunRecord.read_finished(path) for path in paths.values()])
    print(json.dumps(compare(groups)) if chosen.json else describe(groups))
    draw(chosen.out, groups)
