"""The console script `prebake` and `python -m prebake`: `prebake COMMAND ...`."""

import importlib
import sys
from collections.abc import Sequence

from prebake.cli.run import run_command

__all__ = ["main", "run"]

RESUME = "run the same command again to resume"
# Command -> module, words put in front of its arguments, and the advice after an interruption.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "precompute": ("prebake.cli.precompute", (), RESUME),
    "audit": ("prebake.cli.precompute", ("audit",), ""),
    "repair": ("prebake.cli.precompute", ("repair",), RESUME),
    "train": ("prebake.cli.train", (), "--resume auto resumes the run"),
    "info": ("prebake.cli.shards", ("info",), ""),
    "verify": ("prebake.cli.shards", ("verify",), ""),
    "show": ("prebake.cli.shards", ("show",), ""),
    "drop": ("prebake.cli.shards", ("drop",), ""),
}


def run(command: str, arguments: Sequence[str]) -> None:
    """Run one command with its exit codes and signals; never returns."""
    module, first, advice = COMMANDS[command]
    sys.argv[1:] = [*first, *arguments]
    run_command(lambda: importlib.import_module(module).main(), advice)


def main() -> None:
    """Run the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: prebake COMMAND ...\ncommands: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    run(sys.argv[1], sys.argv[2:])
