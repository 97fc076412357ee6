"""Recipes: the schedule they lay out, and what they refuse."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from prebake.errors import UsageError
from prebake.precompute.augment import augmentation_for
from prebake.precompute.augment.pipeline import torchvision_transform
from prebake.train.recipes import (
    RECIPES,
    SETTABLE,
    Recipe,
    changed,
    hyperparameters,
    read_changes,
    recipe_for,
    recipe_from,
    schedule,
)

STEPS = 24 * 97
PEAK = STEPS * 5 // 24 - 1  # the last step of the fifth epoch


def test_page2018_lr_peaks_after_5_of_24_epochs() -> None:
    rates, momenta = schedule(recipe_for("page2018"), STEPS)
    assert len(rates) == STEPS
    assert 0 < rates[0] < 1e-4
    assert int(np.argmax(rates)) == PEAK
    assert rates[PEAK] == pytest.approx(0.4)
    assert 0 <= rates[-1] < 1e-4
    assert momenta == [0.9] * STEPS


def test_page2018_is_made_of_two_straight_lines() -> None:
    rates, _ = schedule(recipe_for("page2018"), STEPS)
    lines = np.interp(np.arange(STEPS), [0, PEAK, STEPS - 1], [0, 0.4, 0])
    np.testing.assert_allclose(rates, lines, rtol=0, atol=1e-4)


def test_a_low_momentum_is_reached_at_the_peak_and_left_again() -> None:
    recipe = replace(recipe_for("page2018"), momentum=0.95, low_momentum=0.85)
    rates, momenta = schedule(recipe, STEPS)
    lines = np.interp(np.arange(STEPS), [0, PEAK, STEPS - 1], [0.95, 0.85, 0.95])
    np.testing.assert_allclose(momenta, lines, rtol=0, atol=1e-6)
    assert int(np.argmin(momenta)) == int(np.argmax(rates)) == PEAK


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("steps", [50, 1000])
def test_every_recipe_reaches_its_peak_at_its_share_of_any_run(name: str, steps: int) -> None:
    recipe = recipe_for(name)
    rates, _ = schedule(recipe, steps)
    assert abs(int(np.argmax(rates)) + 1 - recipe.warmup * steps) <= 1
    assert rates[0] == pytest.approx(recipe.start * recipe.peak_lr)
    assert 0.95 * recipe.peak_lr < max(rates) <= recipe.peak_lr * (1 + 1e-9)
    assert rates[-1] < 1e-4


def test_cosine_without_warmup_starts_at_its_peak() -> None:
    rates, _ = schedule(recipe_for("resnet20"), 1000)
    assert rates[0] == rates[1] == 0.1
    assert rates[500] == pytest.approx(0.05, abs=1e-3)
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.linspace(0, np.pi, 1000))), rtol=0, atol=1e-3)


def test_a_run_of_five_steps_has_a_schedule() -> None:
    rates, _ = schedule(recipe_for("default"), 5)
    assert len(rates) == 5
    assert all(0 <= rate <= 0.4 for rate in rates)


# Of each recipe: net, epochs, batch, first, highest and last rate, momentum at first and at the peak, weight decay and
# label smoothing; padding, its mode, flip, cutout and transform. They are those of the publications that the recipes
# name, but for resnet18-concat, resnet50 and resnet34-wide, whose rates are ours, and `fast`, chosen by measurement.
JITTER = torchvision_transform("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2)
PUBLISHED: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "page2018": (("davidnet", 24, 512, 0, 0.4, 0, 0.9, 0.9, 5e-4, 0), (4, "reflect", "random", 8, None)),
    "cnn94": (("cnn94", 24, 512, 0.1, 0.6, 0, 0.9, 0.9, 5e-4, 0.2), (4, "reflect", "random", 8, None)),
    "resnet20": (("resnet20", 200, 128, 0.1, 0.1, 0, 0.9, 0.9, 5e-4, 0), (4, "zero", "random", 0, JITTER)),
    "wrn22": (("wrn22", 30, 512, 0.125, 1.5, 0, 0.95, 0.85, 1e-4, 0), (4, "zero", "random", 0, None)),
    "resnet18-concat": (
        ("resnet18-concat", 40, 128, 0.4 / 12, 0.4, 0, 0.95, 0.85, 1e-4, 0),
        (4, "zero", "random", 0, None),
    ),
    "resnet50": (("resnet50", 30, 512, 0.4 / 12, 0.4, 0, 0.95, 0.85, 5e-4, 0), (4, "zero", "random", 0, None)),
    "resnet34-wide": (
        ("resnet34-wide", 30, 512, 0.4 / 12, 0.4, 0, 0.95, 0.85, 5e-4, 0),
        (4, "zero", "random", 0, None),
    ),
    "fast": (("fastnet", 10, 1024, 0.3, 1.5, 0, 0.85, 0.85, 1.33e-3, 0.2), (2, "reflect", "alternate", 0, None)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_and_its_augmentation_are_what_was_published(name: str) -> None:
    expected, augmented = PUBLISHED[name]
    recipe, augmentation = recipe_for(name), augmentation_for(name)
    rates, momenta = schedule(recipe, STEPS)
    peak = int(np.argmax(rates))
    found = (
        *(recipe.model, recipe.epochs, recipe.batch_size, rates[0], rates[peak], rates[-1], momenta[0], momenta[peak]),
        *(recipe.weight_decay, recipe.label_smoothing),
    )
    assert found[:3] == expected[:3]
    assert found[3:] == pytest.approx(expected[3:], rel=1e-3, abs=1e-4)
    given = ("pad", "pad_mode", "flip", "cutout", "transform")
    assert tuple(getattr(augmentation, field) for field in given) == augmented


def test_every_recipe_of_a_publication_is_held_against_it() -> None:
    assert set(RECIPES) - set(PUBLISHED) == {"default", "digits"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_dataset_defaults_enable_no_operation_of_the_recipe(name: str) -> None:
    here, digits = augmentation_for(name), augmentation_for(name, mirror=False, side=8)
    assert digits == replace(here, pad=1, flip="none", cutout=2 if here.cutout else 0)


def test_a_recipe_is_known_by_the_name_it_bears() -> None:
    assert {name: recipe_for(name).name for name in RECIPES} == {name: name for name in RECIPES}


def test_an_unknown_recipe_is_refused_with_a_list_of_those_there() -> None:
    with pytest.raises(UsageError, match="no recipe named 'page2017'") as caught:
        recipe_for("page2017")
    assert all(name in str(caught.value) for name in RECIPES)


def test_changes_override_the_recipe_and_none_leaves_it() -> None:
    recipe = recipe_for("page2018", model=None, epochs=3, batch_size=None, peak_lr=0.2)
    assert recipe == replace(recipe_for("page2018"), epochs=3, peak_lr=0.2)
    assert recipe_for("page2018", epochs=None) == recipe_for("page2018")


@pytest.mark.parametrize(
    ("field", "value", "option"),
    [
        ("epochs", 0, "--epochs"),
        ("epochs", -1, "--epochs"),
        ("batch_size", 0, "--batch-size"),
        ("peak_lr", 0.0, "--lr"),
        ("peak_lr", -0.1, "--lr"),
        ("peak_lr", float("nan"), "--lr"),
        ("peak_lr", float("inf"), "--lr"),
        ("start", 0.0, "start"),
        ("warmup", 1.0, "warmup"),
        ("anneal", "steps", "anneal"),
        ("momentum", 0.0, "momentum"),
        ("momentum", 1.0, "momentum"),
        ("low_momentum", 0.95, "low_momentum"),
        ("weight_decay", -0.1, "weight_decay"),
        ("label_smoothing", 1.0, "label_smoothing"),
        ("bias_lr", 0.0, "bias_lr"),
        ("ema", 1.0, "ema"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option(field: str, value: float, option: str) -> None:
    with pytest.raises(UsageError, match=f"{option}: expected .*, found {value}"):
        recipe_for("default", **{field: value})


def test_the_smallest_values_in_range_are_taken() -> None:
    recipe = Recipe("mine", epochs=1, batch_size=1, peak_lr=1e-9)
    assert (recipe.epochs, recipe.batch_size, recipe.peak_lr) == (1, 1, 1e-9)


def test_texts_are_read_as_the_hyperparameters_type() -> None:
    texts = ["weight_decay=1e-4", "train_scales=false", "whiten=true", "anneal=cos", "low_momentum=none", "ema=0"]
    recipe = changed(recipe_for("fast"), read_changes(texts), {"whiten": False, "head_scale": 0.1})
    expected: dict[str, Any] = {
        "weight_decay": 1e-4,
        "train_scales": False,
        "anneal": "cos",
        "low_momentum": None,
        "ema": 0.0,
    }
    assert recipe == replace(recipe_for("fast"), **expected, model_options={"whiten": True, "head_scale": 0.1})
    assert changed(recipe, {"low_momentum": "0.8"}, {}).low_momentum == 0.8
    assert hyperparameters(recipe)["whiten"] is True
    assert len(SETTABLE) == 10


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs=3"], "no hyperparameter 'epochs'; recipes have start, .*, and davidnet has no options"),
        (["weight-decay=3"], "expected NAME=VALUE, found 'weight-decay=3'"),
        (["weight_decay"], "expected NAME=VALUE, found 'weight_decay'"),
        (["weight_decay=much"], "weight_decay: expected a number, found 'much'"),
        (["train_scales=1"], "train_scales: expected true or false, found '1'"),
        (["low_momentum="], "low_momentum: expected a number or none, found ''"),
        (["ema=0.9", "ema=0.9"], "ema is given twice"),
    ],
)
def test_a_change_that_is_no_hyperparameter_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"--set: {message}"):
        changed(recipe_for("default"), read_changes(texts), {})


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_a_round_trip_through_json(name: str) -> None:
    content = json.loads(json.dumps(asdict(recipe_for(name))))
    assert recipe_from(content) == recipe_for(name)
    del content["warmup"]
    with pytest.raises(ValueError, match="expected a recipe of name, model"):
        recipe_from(content)


def test_another_model_drops_the_recipes_model_options() -> None:
    assert recipe_for("default", model="davidnet").model_options == {"celu_alpha": 0.075, "pool_first": True}
    assert recipe_for("default", model="fastnet").model_options == {}
