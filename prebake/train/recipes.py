"""Recipes: a model and its hyperparameters, by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from prebake.errors import UsageError

__all__ = [
    "RECIPES",
    "SETTABLE",
    "Recipe",
    "changed",
    "hyperparameters",
    "one_cycle",
    "read_changes",
    "recipe_for",
    "recipe_from",
    "schedule",
]

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Recipe:
    """A model and the hyperparameters to train it with. Learning rates are for the mean loss of a batch.

    Attributes:
        name: of the recipe.
        model: its name, as `models.find_model` takes it.
        epochs: length of a run; the schedule stretches to it.
        batch_size: of all processes together.
        peak_lr: highest learning rate; it is reached after the fraction `warmup` of all steps and then falls to 0.
        start: learning rate of the first step, as a fraction of `peak_lr`.
        warmup: fraction of all steps.
        anneal: `linear` or `cos`, the shape of rise and fall.
        momentum: Nesterov momentum. Where `low_momentum` is not None, it falls to that at the peak and rises again.
        weight_decay: on every parameter.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
        bias_lr: factor on the learning rate of batch norm's biases; their weight decay is divided by it.
        train_scales: whether batch norm's scales are trained; otherwise they stay 1.
        ema: decay per step of the exponential moving average of weights and running statistics. The average is
            evaluated and saved. 0 saves the last weights.
        model_options: changes to the model's own options, by name; see `models.Model.options`.

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
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        low = self.low_momentum
        checks = (
            (self.epochs >= 1, "--epochs", "at least 1", self.epochs),
            (self.batch_size >= 1, "--batch-size", "at least 1", self.batch_size),
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
        )
        for fits, option, expected, found in checks:
            if not fits:
                raise UsageError(f"{option}: expected {expected}, found {found}")


# davidcpage/cifar10-fast, dawn.py: 24 epochs, lr 0 -> 0.4 at epoch 5 -> 0.
PAGE2018 = Recipe("page2018", epochs=24, warmup=5 / 24)
# The same author's bag_of_tricks.ipynb: pool before batch norm, CELU, label smoothing.
DEFAULT = replace(
    PAGE2018,
    name="default",
    epochs=25,
    warmup=0.2,
    label_smoothing=0.2,
    model_options={"celu_alpha": 0.075, "pool_first": True},
)
# 1,500 images of 8x8: with larger batches an epoch would have too few steps.
DIGITS = replace(DEFAULT, name="digits", batch_size=64, peak_lr=0.1)
# "94 % on CIFAR-10 in 94 lines and 94 seconds".
CNN94 = Recipe("cnn94", model="cnn94", epochs=24, peak_lr=0.6, start=1 / 6, label_smoothing=0.2)
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
# Another entry of theirs. It does not state its learning rate; this one is ours.
RESNET18_CONCAT = replace(
    WRN22, name="resnet18-concat", model="resnet18-concat", epochs=40, batch_size=128, peak_lr=0.4
)
# Larger nets for several GPUs; the schedules are ours.
RESNET50 = replace(WRN22, name="resnet50", model="resnet50", weight_decay=5e-4, peak_lr=0.4)
RESNET34_WIDE = replace(RESNET50, name="resnet34-wide", model="resnet34-wide")
# Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498). The paper states its rates for the sum
# over 1,024 images: 11.5 and 0.0153 for 1,024 * (1 + 1 / (1 - 0.85)) of them. `python -m benchmarks.fast` compared
# its parts; an average of weights did not help.
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
# Hyperparameters that `--set` changes; the others have options of their own.
SETTABLE = tuple(
    field.name
    for field in fields(Recipe)
    if field.name not in ("name", "model", "epochs", "batch_size", "peak_lr", "model_options")
)


def recipe_for(name: str, **changes: Any) -> Recipe:
    """Return a recipe by name, changed where `changes` gives a value other than None.

    A recipe's `model_options` belong to its model: with another model they are dropped.

    Raises:
        UsageError: no recipe of that name, or a value outside its range.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe: no recipe named {name!r}; there are {', '.join(RECIPES)}")
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = RECIPES[name]
    if given.get("model", recipe.model) != recipe.model:
        given.setdefault("model_options", {})
    return replace(recipe, **given)


def read_changes(texts: Sequence[str]) -> dict[str, str]:
    """Split `NAME=VALUE` texts, as `--set` takes them; raises UsageError over another form or a name given twice."""
    changes: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name.isidentifier() or not equals:
            raise UsageError(f"--set: expected NAME=VALUE, found {text!r}")
        if name in changes:
            raise UsageError(f"--set: {name} is given twice; give it once")
        changes[name] = value
    return changes


def changed(recipe: Recipe, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    """Return the recipe with changed hyperparameters, and with every option of its model in `model_options`.

    Args:
        recipe: to change.
        changes: values by name. A text is read as the type that the hyperparameter has.
        options: of the recipe's model, with their defaults.

    Raises:
        UsageError: no hyperparameter or option of that name, or a value of another type or outside its range.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Recipe) if field.name in SETTABLE}
    of_model = {**options, **recipe.model_options}
    of_recipe = {}
    for name, value in changes.items():
        if name in kinds:
            of_recipe[name] = _typed(name, kinds[name], value)
        elif name in options:
            of_model[name] = _typed(name, type(options[name]), value)
        else:
            known = ", ".join(options) or "no options"
            raise UsageError(
                f"--set: no hyperparameter {name!r}; recipes have {', '.join(kinds)}, and {recipe.model} has {known}"
            )
    return replace(recipe, **of_recipe, model_options=of_model)


def _typed(name: str, kind: Any, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        if kind is bool:
            return ("false", "true").index(value) == 1
        if kind in (int, float, str):
            return kind(value)
        return None if value == "none" else float(value)
    except ValueError:
        words = {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "a number or none")
        raise UsageError(f"--set: {name}: expected {words}, found {value!r}") from None


def recipe_from(content: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a file holds, field by field.

    Raises:
        ValueError: other fields than a recipe's, or a value of another type.
        UsageError: a value outside its range.
    """
    expected = {field.name: field.type for field in fields(Recipe)}
    if set(content) != set(expected):
        raise ValueError(f"expected a recipe of {', '.join(expected)}, found {', '.join(map(str, content))}"[:500])
    options = content["model_options"]
    if not isinstance(options, Mapping) or not all(isinstance(value, _PLAIN) for value in options.values()):
        raise ValueError(f"model_options: expected plain values by name, found {options!r}"[:500])
    for name, value in content.items():
        kinds: Any = (int, float) if expected[name] is float else expected[name]
        if name != "model_options" and (
            not isinstance(value, kinds) or (isinstance(value, bool) and expected[name] is not bool)
        ):
            raise ValueError(f"{name}: expected {expected[name]}, found {value!r}"[:500])
    return Recipe(**content)


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """Return all hyperparameters by name, the model's options among them."""
    content = asdict(recipe)
    options: dict[str, Any] = content.pop("model_options")
    return content | options


def one_cycle(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> OneCycleLR:
    """Return the recipe's schedule over `steps` steps: up to the optimizer's learning rates, then down to 0."""
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
