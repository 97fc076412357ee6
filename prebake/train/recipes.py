"""Recipes: a model and its hyperparameters, by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from prebake.errors import UsageError

__all__ = ["RECIPES", "SETTABLE", "Recipe", "changes_from", "one_cycle", "recipe_for", "recipe_from", "schedule"]


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
        bias_lr: factor on the learning rate of batch norm's biases, whose weight decay is divided by it.
        train_scales: whether batch norm's scales are trained; they stay 1 else.
        ema: decay a step of the exponential moving average of weights and running statistics, which is what is
            evaluated and kept; 0 keeps the last weights.
        celu_alpha, pool_first, head_scale, whiten: of the model, see there; `models.HEEDED` says which it has.

    Raises:
        UsageError: a value outside its range.
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
    bias_lr: float = 1.0
    train_scales: bool = True
    ema: float = 0.0
    celu_alpha: float = 0.0
    pool_first: bool = False
    head_scale: float = 0.125
    whiten: bool = False

    def __post_init__(self) -> None:
        low = self.low_momentum
        checks = (
            (self.epochs >= 1, "--epochs", "at least 1", self.epochs),
            (self.batch_size >= 2, "--batch-size", "at least 2, as batch norm needs", self.batch_size),
            (0 < self.peak_lr < math.inf, "--lr", "a number over 0", self.peak_lr),
            (0 < self.start <= 1, "start", "a share over 0 and up to 1", self.start),
            (0 <= self.warmup < 1, "warmup", "a share from 0 and under 1", self.warmup),
            (self.anneal in ("linear", "cos"), "anneal", "linear or cos", self.anneal),
            (0 < self.momentum < 1, "momentum", "a number over 0 and under 1", self.momentum),
            (low is None or 0 < low <= self.momentum, "low_momentum", "none, or over 0 and up to momentum", low),
            (0 <= self.weight_decay < math.inf, "weight_decay", "0 or more", self.weight_decay),
            (0 <= self.label_smoothing < 1, "label_smoothing", "from 0 and under 1", self.label_smoothing),
            (0 < self.bias_lr < math.inf, "bias_lr", "a factor over 0", self.bias_lr),
            (0 <= self.ema < 1, "ema", "a decay from 0 and under 1", self.ema),
            (0 <= self.celu_alpha < math.inf, "celu_alpha", "0 or more", self.celu_alpha),
            (0 < self.head_scale < math.inf, "head_scale", "a number over 0", self.head_scale),
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
# Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498); its rates are told for the sum over
# 1,024 images: 11.5 and 0.0153 for 1,024 * (1 + 1 / (1 - 0.85)) of them. `python -m benchmarks.fast` has chosen
# its parts; an average of weights was none of them.
FAST = Recipe(
    "fast",
    model="fastnet",
    epochs=10,
    batch_size=1024,
    peak_lr=1.5,
    start=0.2,
    warmup=0.23,
    momentum=0.85,
    weight_decay=1.33e-3,
    label_smoothing=0.2,
    bias_lr=64.0,
    train_scales=False,
    head_scale=1 / 9,
    whiten=True,
)
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
        FAST,
    )
}
SETTABLE = [
    field.name for field in fields(Recipe) if field.name not in ("name", "model", "epochs", "batch_size", "peak_lr")
]
# What runs of the release before have no word on.
LATER = {"bias_lr", "train_scales", "ema", "whiten"}


def recipe_for(name: str, **changes: float | str | None) -> Recipe:
    """Return a recipe by name, changed where `changes` gives a value.

    Raises:
        UsageError: no recipe of that name, or a value outside its range.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe: no recipe named {name!r}; there are {', '.join(RECIPES)}")
    return replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type] # the command's options have the fields' types


def changes_from(texts: Sequence[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` of hyperparameters that have no option of their own, in the type that they have.

    Raises:
        UsageError: no such name, a value of another type, or a name twice.
    """
    kinds = {field.name: field.type for field in fields(Recipe) if field.name in SETTABLE}
    changes: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in kinds:
            raise UsageError(f"--set: expected NAME=VALUE, NAME one of {', '.join(kinds)}; found {text!r}")
        if name in changes:
            raise UsageError(f"--set: {name} is given twice; give it once")
        try:
            changes[name] = _value(kinds[name], value)
        except ValueError:
            raise UsageError(f"--set: {name}: expected {_words(kinds[name])}, found {value!r}") from None
    return changes


def _value(kind: Any, text: str) -> Any:
    if kind is bool:
        return ("false", "true").index(text) == 1
    if kind in (int, float, str):
        return kind(text)
    return None if text == "none" else float(text)


def _words(kind: Any) -> str:
    return {bool: "true or false", int: "an integer", float: "a number", str: "a word"}.get(kind, "a number or none")


def recipe_from(content: dict[str, Any]) -> Recipe:
    """Return the recipe that a file holds, field by field; what it lacks is as it was before there was that field.

    Raises:
        ValueError: other fields than a recipe's, or a value of another type.
        UsageError: a value outside its range.
    """
    expected = {field.name: field.type for field in fields(Recipe)}
    if not set(expected) - LATER <= set(content) <= set(expected):
        raise ValueError(f"expected a recipe of {', '.join(expected)}, found {', '.join(map(str, content))}"[:500])
    for name, value in content.items():
        kinds: Any = (int, float) if expected[name] is float else expected[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and expected[name] is not bool):
            raise ValueError(f"{name}: expected {expected[name]}, found {value!r}"[:500])
    return Recipe(**content)


def one_cycle(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR:
    """Lay the recipe's schedule over so many steps: up to the peak, which is what the optimizer has, and down to 0."""
    # OneCycleLR peaks at step pct_start * total_steps - 1, and divides by that number.
    total = max(2, steps)
    low = recipe.low_momentum
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
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
