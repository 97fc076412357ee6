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
        peak_lr: highest learning rate, reached after the share `warmup` of all steps.
        momentum: Nesterov momentum; where `low_momentum` is not None it falls to that at the peak.
        weight_decay: on every parameter.
        celu_alpha, pool_first, head_scale: see `train.models.DavidNet`.
    """

    name: str
    model: str = "davidnet"
    epochs: int = 25
    batch_size: int = 512
    peak_lr: float = 0.4
    warmup: float = 0.2
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
RECIPES = {recipe.name: recipe for recipe in (DEFAULT, PAGE2018, DIGITS)}


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
    """Lay the recipe's schedule over so many steps: up from 0 to the peak and down to 0, in straight lines."""
    # OneCycleLR peaks at step pct_start * total_steps - 1, and divides by that number.
    total = max(2, steps)
    low = recipe.low_momentum
    return OneCycleLR(
        optimizer,
        max_lr=recipe.peak_lr,
        total_steps=total,
        pct_start=max(recipe.warmup, 2 / total),
        anneal_strategy="linear",
        cycle_momentum=low is not None,
        base_momentum=low if low is not None else recipe.momentum,
        max_momentum=recipe.momentum,
        div_factor=1e4,
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
