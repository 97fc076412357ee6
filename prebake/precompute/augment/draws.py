"""Draws are values: a function of seed, epoch and index, and of nothing else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.format.philox import random_words
from prebake.precompute.augment.presets import Augmentation

__all__ = ["Draw", "draw", "held_out_order", "order", "transform_seeds"]

# Operations of `random_words`. They are part of the format: never renumber them.
ORDER, CROP, FLIP, CUTOUT, HOLD_OUT, TRANSFORM = range(6)
LOW = np.uint64(2**32 - 1)


@dataclass(frozen=True)
class Draw:
    """The choices for some samples of one epoch; every array is (N,) int64.

    Attributes:
        y, x: the crop's upper left corner in the padded image, 0 to 2 * pad.
        flip: 1 where the image is mirrored before it is cropped, else 0.
        cut_y, cut_x: the cutout's upper left corner in the cropped image.
    """

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    flip: NDArray[np.int64]
    cut_y: NDArray[np.int64]
    cut_x: NDArray[np.int64]

    def __getitem__(self, chosen: NDArray[np.int64]) -> "Draw":
        """Return the draws at these positions."""
        return Draw(self.y[chosen], self.x[chosen], self.flip[chosen], self.cut_y[chosen], self.cut_x[chosen])


def draw(
    augmentation: Augmentation, seed: int, epoch: int, start: int, count: int, image_shape: tuple[int, int, int]
) -> Draw:
    """Draw for the source indices start to start + count - 1.

    Drawing for a range at once equals drawing for each index apart.
    """
    height, width, _ = image_shape
    window = 2 * augmentation.pad + 1
    y, x = (_below(half, window) for half in _halves(random_words(seed, CROP, epoch, count, start)))
    # In epoch 0, `alternate` draws as `random` does. Then it turns with every epoch.
    turns = epoch if augmentation.flip == "alternate" else 0
    flip, _ = _halves(random_words(seed, FLIP, epoch - turns, count, start))
    cut_y, cut_x = _halves(random_words(seed, CUTOUT, epoch, count, start))
    return Draw(
        y=y,
        x=x,
        flip=(_below(flip, 2) + turns) % 2 * (augmentation.flip != "none"),
        cut_y=_below(cut_y, height - augmentation.cutout + 1),
        cut_x=_below(cut_x, width - augmentation.cutout + 1),
    )


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the epoch's order, a permutation (count,) of the source indices."""
    return np.argsort(random_words(seed, ORDER, epoch, count), kind="stable")


def transform_seeds(seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """Return (count,) seeds, one for each source index: a transform's choice is what its generator makes of it."""
    return random_words(seed, TRANSFORM, epoch, count)


def held_out_order(count: int) -> NDArray[np.int64]:
    """Return the permutation (count,) whose end is held out where a data set is split; the same for every seed."""
    return np.argsort(random_words(0, HOLD_OUT, 0, count), kind="stable")


def _halves(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], ...]:
    """Return high and low 32 bits of each word."""
    return words >> np.uint64(32), words & LOW


def _below(words32: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Map 32 random bits to 0 .. bound - 1 (Lemire's multiplication; the bias is under bound / 2^32)."""
    return ((words32 * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
