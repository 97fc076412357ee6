"""Recipes: a model and its hyperparameters, by name."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from shards.errors import UsageError

__all__ = ["RECIPES", "Recipe", "one_cycle", "recipe_for", "recipe_from", "schedule"]


@dataclass(frozen=True)
class Recipe:
    """One way to train; rates are for the mean loss of a batch.

    Attributes:
        epochs: of a whole run; the schedule is laid out in fractions of whatever is run.
        peak_lr: highest learning rate, reached after the share `warmup` of all steps; then it falls to 0.
        start: the first step's share of it.
        anneal: `linear`, or `cos` for halves of cosines, between those.
        momentum: Nesterov momentum; where `low_momentum` is not None it falls to that at the peak.
        weight_decay: on every parameter.
        celu_alpha, pool_first, head_scale: see `train.models.DavidNet`; other models take what they know of them.
    """

    name: str
    model: str = "davidnet"
    epochs: int = 25
    batch_size: int = 512
    peak_lr: float = 0.4
    start: float = 1e-4
    warmup: float = 0.2
    anneal: str = "linear"
    momentum: float = 0.9
    low_momentum: float | None = None
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    celu_alpha: float = 0.0
    pool_first: bool = False
    head_scale: float = 0.125

    def __post_init__(self) -> None:
        checks = (
            (self.epochs >= 1, "--epochs", "at least 1", self.epochs),
            (self.batch_size >= 2, "--batch-size", "at least 2, as batch norm needs", self.batch_size),
            (0 < self.peak_lr < float("inf"), "--lr", "a number over 0", self.peak_lr),
            (0 < self.start <= 1, "start", "a share over 0", self.start),
            (self.anneal in ("linear", "cos"), "anneal", "linear or cos", self.anneal),
        )
        for fits, option, expected, found in checks:
            if not fits:
                raise UsageError(f"{option}: expected {expected}, found {found}")


# davidcpage/cifar10-fast, dawn.py: 24 epochs, lr 0 -> 0.4 at epoch 5 -> 0.
PAGE2018 = Recipe("page2018", epochs=24, warmup=5 / 24)
# The same author's bag_of_tricks.ipynb: pool before batch norm, CELU, label smoothing.
DEFAULT = replace(
    PAGE2018, name="default", epochs=25, warmup=0.2, label_smoothing=0.2, celu_alpha=0.075, pool_first=True
)
# 1,500 images of 8x8: small batches, so that an epoch has steps enough.
DIGITS = replace(DEFAULT, name="digits", batch_size=64, peak_lr=0.1)
# "94 % on CIFAR-10 in 94 lines and 94 seconds".
CNN94 = Recipe(
    "cnn94", model="cnn94", epochs=24, peak_lr=0.6, start=1 / 6, label_smoothing=0.2, celu_alpha=0.075, pool_first=True
)
# He et al. (arXiv 1512.03385) with a cosine in place of steps.
RESNET20 = Recipe(
    "resnet20", model="resnet20", epochs=200, batch_size=128, peak_lr=0.1, start=1.0, warmup=0.0, anneal="cos"
)
# fast.ai's entry for DAWNBench (sgugger/dawnbench): one cycle of 30 epochs, momentum against the learning rate.
WRN22 = Recipe(
    "wrn22",
    model="wrn22",
    epochs=30,
    peak_lr=1.5,
    start=1 / 12,
    warmup=0.425,
    momentum=0.95,
    low_momentum=0.85,
    weight_decay=1e-4,
)
# Another entry of theirs; its learning rate is not told, and this one is ours.
RESNET18_CONCAT = replace(
    WRN22, name="resnet18-concat", model="resnet18-concat", epochs=40, batch_size=128, peak_lr=0.4
)
# Larger nets for several GPUs; the schedules are ours.
RESNET50 = replace(WRN22, name="resnet50", model="resnet50", weight_decay=5e-4, peak_lr=0.4)
RESNET34_WIDE = replace(RESNET50, name="resnet34-wide", model="resnet34-wide")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        DEFAULT,
        PAGE2018,
        DIGITS,
        CNN94,
        RESNET20,
        WRN22,
        RESNET18_CONCAT,
        RESNET50,
        RESNET34_WIDE,
    )
}


def recipe_for(name: str, **changes: float | str | None) -> Recipe:
    """Return a recipe by name, changed where `changes` gives a value.

    Raises:
        UsageError: no recipe of that name, or a value outside its range.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe: no recipe named {name!r}; there are {', '.join(RECIPES)}")
    return replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type] # the command's options have the fields' types


def recipe_from(content: dict[str, Any]) -> Recipe:
    """Return the recipe that a file holds, field by field.

    Raises:
        ValueError: other fields than a recipe's, or a value of another type.
        UsageError: a value outside its range.
    """
    expected = {field.name: field.type for field in fields(Recipe)}
    if set(content) != set(expected):
        raise ValueError(f"expected a recipe of {', '.join(expected)}, found {', '.join(map(str, content))}"[:500])
    for name, value in content.items():
        kinds: Any = (int, float) if expected[name] is float else expected[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and expected[name] is not bool):
            raise ValueError(f"{name}: expected {expected[name]}, found {value!r}"[:500])
    return Recipe(**content)


def one_cycle(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR:
    """Lay the recipe's schedule over so many steps: up to the peak and down to 0."""
    # OneCycleLR peaks at step pct_start * total_steps - 1, and divides by that number.
    total = max(2, steps)
    low = recipe.low_momentum
    return OneCycleLR(
        optimizer,
        max_lr=recipe.peak_lr,
        total_steps=total,
        pct_start=max(recipe.warmup, 2 / total),
        anneal_strategy=recipe.anneal,  # type: ignore[arg-type] # a recipe has no other
        cycle_momentum=low is not None,
        base_momentum=low if low is not None else recipe.momentum,
        max_momentum=recipe.momentum,
        div_factor=1 / recipe.start,
        final_div_factor=1e4,
    )


def schedule(recipe: Recipe, steps: int) -> tuple[list[float], list[float]]:
    """Return learning rate and momentum of every step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.peak_lr, momentum=recipe.momentum)
    scheduler = one_cycle(recipe, optimizer, steps)
    rates, momenta = [], []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        if step + 1 < steps:
            optimizer.step()
            scheduler.step()
    return rates, momenta
