"""The commands precompute and shards, asked in a fork of this process."""

import sys
from collections.abc import Callable

import sklearn.datasets  # noqa: F401 - here, so that no fork has to
import torchvision  # noqa: F401 - likewise

import prebake.cli.precompute
import prebake.cli.shards
from prebake.cli.run import run_command
from tests.helpers.trials import Trial, trial

__all__ = ["precompute_command", "shards_command"]


def precompute_command(*arguments: object) -> Trial:
    """Run `python -m precompute`."""
    return _asked(prebake.cli.precompute.main, arguments)


def shards_command(*arguments: object) -> Trial:
    """Run `python -m shards`."""
    return _asked(prebake.cli.shards.main, arguments)


def _asked(main: Callable[[], None], arguments: tuple[object, ...]) -> Trial:
    def act() -> None:
        sys.argv = ["command", *map(str, arguments)]
        run_command(main)

    return trial(act)
