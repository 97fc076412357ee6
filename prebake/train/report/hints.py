"""Hints: what the figures of a run suggest, in words."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prebake.train.report.scores import ClassScore

__all__ = ["Facts", "hints"]

NAMED = 5  # so many classes a sentence


@dataclass(frozen=True)
class Facts:
    """What the hints are drawn from.

    Attributes:
        classes: names.
        first_loss: of the first step, in nats.
        train_accuracy: of each epoch, 0 to 1.
        held_out: name of the split that epochs are scored on, or None.
        held_out_images: how many there are.
        held_out_loss, held_out_accuracy: of each epoch; empty where `held_out` is None.
        utilization: share of training time without waiting for data, 0 to 1.
        mean, deviation: of each channel of what the net is fed; None where nobody looked.
        scores: of each class, of the final split; empty where there is none.
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
    """Return one sentence or two for each thing that looks wrong; none for a run that looks right."""
    return [hint for find in FINDERS if (hint := find(facts)) is not None]


def _inputs(facts: Facts) -> str | None:
    if facts.mean is None or facts.std is None:
        return None
    if all(abs(mean) <= 1 for mean in facts.mean) and all(1 / 3 <= value <= 3 for value in facts.std):
        return None
    return (
        f"The inputs are not normalized: their channels have mean {_figures(facts.mean)} and deviation "
        f"{_figures(facts.std)}, where 0 and 1 are expected. The manifest's figures don't fit the images."
    )


def _first_loss(facts: Facts) -> str | None:
    guessing = math.log(len(facts.classes))
    if guessing / 2 <= facts.first_loss <= guessing + 1:
        return None
    return (
        f"The first loss was {facts.first_loss:.2f}; a fresh net that guesses among {len(facts.classes)} classes has "
        f"{guessing:.2f}. Likely the inputs are not normalized, or the last layer begins too large."
    )


def _guessing(facts: Facts) -> str | None:
    """See held-out accuracy that is no better than chance, and tell the two reasons apart."""
    if not _at_chance(facts):
        return None
    found = f"The {facts.held_out} accuracy, {_percent(facts.held_out_accuracy[-1])}, is about that of guessing"
    chance = 1 / len(facts.classes)
    if facts.train_accuracy[-1] > chance + min(chance, (1 - chance) / 4):
        return (
            f"{found}, though the training accuracy is {_percent(facts.train_accuracy[-1])}: the net learns images by "
            f"heart. Labels may be shuffled, or not belong to their images, in train or in {facts.held_out}."
        )
    return (
        f"{found}, and the training accuracy, {_percent(facts.train_accuracy[-1])}, is too: nothing was learned. "
        "Labels may be shuffled, or the learning rate is far off."
    )


def _over_fitting(facts: Facts) -> str | None:
    if facts.held_out is None or _at_chance(facts):
        return None
    train, held_out = facts.train_accuracy[-1], facts.held_out_accuracy[-1]
    if train > 0.99 and held_out < 0.9:
        return (
            f"Over-fitting: {_percent(train)} of the training images are recognized, and {_percent(held_out)} of "
            f"{facts.held_out}. More images, stronger augmentation, more weight decay or fewer epochs may help."
        )
    return None


def _loss_turned(facts: Facts) -> str | None:
    if facts.held_out is None:
        return None
    lowest = min(facts.held_out_loss)
    at = list(facts.held_out_loss).index(lowest)
    last = facts.held_out_loss[-1]
    if last > 1.2 * lowest and last - lowest > 0.05:
        return (
            f"The {facts.held_out} loss was lowest after epoch {at + 1}, {lowest:.3f}, and rose to {last:.3f}: the net "
            "grew surer of its mistakes, as over-fitting makes it. Fewer epochs or label smoothing may help."
        )
    return None


def _under_fitting(facts: Facts) -> str | None:
    train = facts.train_accuracy[-1]
    held_out = facts.held_out_accuracy[-1] if facts.held_out is not None else train
    half_way = (1 + 1 / len(facts.classes)) / 2  # from guessing to knowing
    if train < half_way and held_out < half_way and not _at_chance(facts):
        return (
            f"Under-fitting: after {len(facts.train_accuracy)} epochs even the training accuracy is {_percent(train)}. "
            "More epochs, another learning rate, a larger net or weaker augmentation may help."
        )
    return None


def _never(facts: Facts) -> str | None:
    never = [facts.classes[score.label] for score in facts.scores if score.recall == 0]
    if not never or _at_chance(facts):
        return None
    more = f" and {len(never) - NAMED} more" if len(never) > NAMED else ""
    named = ", ".join(never[:NAMED]) + more
    return f"No image of {named} was recognized. Are there training images of it, rightly labelled?"


def _waiting(facts: Facts) -> str | None:
    if facts.utilization >= 0.9:
        return None
    return (
        f"The device waited for data {_percent(1 - facts.utilization)} of the training time. A faster disk, more "
        "memory for the page cache, or shards in uint8 may help."
    )


def _at_chance(facts: Facts) -> bool:
    """Say whether the held-out accuracy is within four standard errors of guessing, or under it."""
    if facts.held_out is None:
        return False
    chance = 1 / len(facts.classes)
    error = math.sqrt(chance * (1 - chance) / facts.held_out_images)
    return facts.held_out_accuracy[-1] < chance + 4 * error


FINDERS: tuple[Callable[[Facts], str | None], ...] = (
    _inputs,
    _first_loss,
    _guessing,
    _over_fitting,
    _loss_turned,
    _under_fitting,
    _never,
    _waiting,
)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
