"""Models by name."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from prebake.errors import UsageError
from prebake.train.models.cnn94 import CNN94
from prebake.train.models.davidnet import DavidNet
from prebake.train.models.fastnet import FastNet
from prebake.train.models.resnet18_concat import ResNet18Concat
from prebake.train.models.resnet20 import ResNet20
from prebake.train.models.wrn22 import WRN22
from prebake.train.recipes import Recipe

__all__ = ["HEEDED", "MODELS", "SMALLEST_SIDE", "DavidNet", "FastNet", "build", "foreign", "heeded"]

SMALLEST_SIDE = 8  # three pools, or strides, halve it


def _davidnet(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    return DavidNet(
        channels, classes, celu_alpha=recipe.celu_alpha, pool_first=recipe.pool_first, head_scale=recipe.head_scale
    )


def _cnn94(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    return CNN94(channels, classes, celu_alpha=recipe.celu_alpha, head_scale=recipe.head_scale)


def _resnet34_wide(_: Recipe, channels: int, classes: int) -> nn.Module:
    from prebake.train.models.resnet34_wide import ResNet34Wide  # torchvision, which takes a second to import

    return ResNet34Wide(channels, classes)


def _resnet50(_: Recipe, channels: int, classes: int) -> nn.Module:
    from prebake.train.models.resnet50 import ResNet50  # as above

    return ResNet50(channels, classes)


MODELS: dict[str, Callable[[Recipe, int, int], nn.Module]] = {
    "davidnet": _davidnet,
    "cnn94": _cnn94,
    "resnet20": lambda _, channels, classes: ResNet20(channels, classes),
    "wrn22": lambda _, channels, classes: WRN22(channels, classes),
    "resnet18-concat": lambda _, channels, classes: ResNet18Concat(channels, classes),
    "resnet34-wide": _resnet34_wide,
    "resnet50": _resnet50,
    "fastnet": lambda recipe, channels, classes: FastNet(
        channels, classes, head_scale=recipe.head_scale, whiten=recipe.whiten
    ),
}
# What of a recipe is the model's own; models that are not named here have none of it.
HEEDED = {
    "davidnet": ("celu_alpha", "pool_first", "head_scale"),
    "cnn94": ("celu_alpha", "head_scale"),
    "fastnet": ("head_scale", "whiten"),
}


def foreign(model: str) -> set[str]:
    """Return what of a recipe is other models' own, which this one does not heed."""
    return {name for names in HEEDED.values() for name in names} - set(HEEDED.get(model, ()))


def heeded(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's hyperparameters without those that its model does not heed."""
    others = foreign(hyperparameters["model"])
    return {name: value for name, value in hyperparameters.items() if name not in others}


def build(recipe: Recipe, channels: int, classes: int) -> nn.Module:
    """Build the recipe's model with fresh weights, batch norm's scales fixed where the recipe does not train them.

    Raises:
        UsageError: no model of that name.
    """
    if recipe.model not in MODELS:
        raise UsageError(f"--model: no model named {recipe.model!r}; there are {', '.join(MODELS)}")
    model = MODELS[recipe.model](recipe, channels, classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad = recipe.train_scales
    return model
