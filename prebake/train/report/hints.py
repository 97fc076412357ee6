"""Hints: likely problems of a run, found in its results."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prebake.train.report.scores import ClassScore

__all__ = ["Facts", "hints"]

MAX_NAMES = 5  # classes in one sentence


@dataclass(frozen=True)
class Facts:
    """The results that hints are based on.

    Attributes:
        classes: names of the classes.
        first_loss: loss of the first step, in nats.
        train_accuracy: training accuracy of each epoch, 0 to 1.
        held_out: name of the split that epochs are evaluated on, or None.
        held_out_images: number of images in that split.
        held_out_loss, held_out_accuracy: values on that split after each epoch; empty without such a split.
        utilization: fraction of the training time without waiting for data.
        mean, std: mean and standard deviation of each channel of the normalized inputs; None if unknown.
        scores: scores of each class on the final split; empty without such a split.
    """

    classes: Sequence[str]
    first_loss: float
    train_accuracy: Sequence[float]
    held_out: str | None
    held_out_images: int
    held_out_loss: Sequence[float]
    held_out_accuracy: Sequence[float]
    utilization: float
    mean: Sequence[float] | None
    std: Sequence[float] | None
    scores: Sequence[ClassScore]


def hints(facts: Facts) -> list[str]:
    """Return one or two sentences for each likely problem."""
    return [hint for find in FINDERS if (hint := find(facts)) is not None]


def _inputs(facts: Facts) -> str | None:
    if facts.mean is None or facts.std is None:
        return None
    if all(abs(mean) <= 1 for mean in facts.mean) and all(1 / 3 <= value <= 3 for value in facts.std):
        return None
    return (
        f"The inputs are not normalized: their channels have mean {_numbers(facts.mean)} and standard deviation "
        f"{_numbers(facts.std)}, 0 and 1 are expected. Mean and std in the manifest do not fit the images."
    )


def _first_loss(facts: Facts) -> str | None:
    guessing = math.log(len(facts.classes))
    if guessing / 2 <= facts.first_loss <= guessing + 1:
        return None
    return (
        f"The first loss was {facts.first_loss:.2f}; an untrained model on {len(facts.classes)} classes should have "
        f"about {guessing:.2f}. Probably the inputs are not normalized, or the initial weights of the last layer are "
        "too large."
    )


def _guessing(facts: Facts) -> str | None:
    """Report a held-out accuracy at chance level, with or without training accuracy above it."""
    if not _at_chance(facts):
        return None
    found = f"The {facts.held_out} accuracy, {_percent(facts.held_out_accuracy[-1])}, is at chance level"
    chance = 1 / len(facts.classes)
    if facts.train_accuracy[-1] > chance + min(chance, (1 - chance) / 4):
        return (
            f"{found}, but the training accuracy is {_percent(facts.train_accuracy[-1])}: the model memorizes images. "
            f"The labels of train or {facts.held_out} may be shuffled, or may not belong to their images."
        )
    return (
        f"{found}, and so is the training accuracy, {_percent(facts.train_accuracy[-1])}: the model learned nothing. "
        "The labels may be shuffled, or the learning rate may be far too high or too low."
    )


def _overfitting(facts: Facts) -> str | None:
    if facts.held_out is None or _at_chance(facts):
        return None
    train, held_out = facts.train_accuracy[-1], facts.held_out_accuracy[-1]
    if train > 0.99 and held_out < 0.9:
        return (
            f"Overfitting: the training accuracy is {_percent(train)}, the {facts.held_out} accuracy "
            f"{_percent(held_out)}. More images, stronger augmentation, more weight decay or fewer epochs may help."
        )
    return None


def _rising_loss(facts: Facts) -> str | None:
    if facts.held_out is None:
        return None
    lowest = min(facts.held_out_loss)
    at = list(facts.held_out_loss).index(lowest)
    last = facts.held_out_loss[-1]
    if last > 1.2 * lowest and last - lowest > 0.05:
        return (
            f"The {facts.held_out} loss was lowest after epoch {at + 1} ({lowest:.3f}) and rose to {last:.3f}: the "
            "model became more confident in its mistakes. Fewer epochs or label smoothing may help."
        )
    return None


def _underfitting(facts: Facts) -> str | None:
    train = facts.train_accuracy[-1]
    held_out = facts.held_out_accuracy[-1] if facts.held_out is not None else train
    half_way = (1 + 1 / len(facts.classes)) / 2  # between chance and 1
    if train < half_way and held_out < half_way and not _at_chance(facts):
        return (
            f"Underfitting: after {len(facts.train_accuracy)} epochs the training accuracy is only {_percent(train)}. "
            "More epochs, another learning rate, a larger model or weaker augmentation may help."
        )
    return None


def _unrecognized(facts: Facts) -> str | None:
    missed = [facts.classes[score.label] for score in facts.scores if score.recall == 0]
    if not missed or _at_chance(facts):
        return None
    more = f" and {len(missed) - MAX_NAMES} more" if len(missed) > MAX_NAMES else ""
    named = ", ".join(missed[:MAX_NAMES]) + more
    return f"No image of {named} was recognized. Check whether there are training images with correct labels."


def _waiting(facts: Facts) -> str | None:
    if facts.utilization >= 0.9:
        return None
    return (
        f"The device waited for data during {_percent(1 - facts.utilization)} of the training time. A faster disk, "
        "more memory for the page cache, or shards with --dtype uint8 may help."
    )


def _at_chance(facts: Facts) -> bool:
    """Return whether the held-out accuracy is less than four standard errors above chance."""
    if facts.held_out is None:
        return False
    chance = 1 / len(facts.classes)
    error = math.sqrt(chance * (1 - chance) / facts.held_out_images)
    return facts.held_out_accuracy[-1] < chance + 4 * error


FINDERS: tuple[Callable[[Facts], str | None], ...] = (
    _inputs,
    _first_loss,
    _guessing,
    _overfitting,
    _rising_loss,
    _underfitting,
    _unrecognized,
    _waiting,
)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
