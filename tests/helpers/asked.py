"""The commands precompute and shards, asked in a fork of this process."""

import sys

import sklearn.datasets  # noqa: F401 - here, so that no fork has to
import torchvision  # noqa: F401 - likewise

from prebake.cli.main import main
from tests.helpers.trials import Trial, trial

__all__ = ["precompute_command", "shards_command"]


def precompute_command(*arguments: object) -> Trial:
    """Run `prebake precompute`, or `audit` and `repair` where the first argument names them."""
    return _asked("precompute", *arguments)


def shards_command(*arguments: object) -> Trial:
    """Run `prebake`."""
    return _asked(*arguments)


def _asked(*arguments: object) -> Trial:
    def act() -> None:
        sys.argv = ["prebake", *map(str, arguments)]
        main()

    return trial(act)
