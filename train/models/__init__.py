"""Models by name."""

from collections.abc import Callable

from torch import nn

from shards.errors import UsageError
from train.models.davidnet import DavidNet
from train.recipes import Recipe

__all__ = ["MODELS", "SMALLEST_SIDE", "DavidNet", "build"]

SMALLEST_SIDE = 8  # three pools halve it


def _davidnet(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    return DavidNet(
        channels, classes, celu_alpha=recipe.celu_alpha, pool_first=recipe.pool_first, head_scale=recipe.head_scale
    )


MODELS: dict[str, Callable[[Recipe, int, int], nn.Module]] = {"davidnet": _davidnet}


def build(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    """Build the recipe's model with fresh weights.

    Raises:
        UsageError: no model of that name.
    """
    if recipe.model not in MODELS:
        raise UsageError(f"--model: no model named {recipe.model!r}; there are {', '.join(MODELS)}")
    return MODELS[recipe.model](recipe, channels, classes)
