"""Draws are values: seed, epoch and index decide every choice, and nothing else does.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) as a function from
(seed, operation, epoch, index) to 64 random bits. NumPy promises the raw stream to be stable, but not
what its `Generator` makes of it, so ranges are mapped here, in integers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.precompute.augment.presets import Augmentation

__all__ = ["Draw", "draw", "held_out_order", "order", "transform_seeds"]

# The operation's number is one half of Philox's key. They are part of the format: never renumber them.
ORDER, CROP, FLIP, CUTOUT, HOLD_OUT, TRANSFORM = range(6)
WORDS_PER_BLOCK = 4
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
    y, x = (_below(half, window) for half in _halves(_words(seed, CROP, epoch, start, count)))
    # In epoch 0, `alternate` draws as `random` does. Then it turns with every epoch.
    turns = epoch if augmentation.flip == "alternate" else 0
    flip, _ = _halves(_words(seed, FLIP, epoch - turns, start, count))
    cut_y, cut_x = _halves(_words(seed, CUTOUT, epoch, start, count))
    return Draw(
        y=y,
        x=x,
        flip=(_below(flip, 2) + turns) % 2 * (augmentation.flip != "none"),
        cut_y=_below(cut_y, height - augmentation.cutout + 1),
        cut_x=_below(cut_x, width - augmentation.cutout + 1),
    )


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the epoch's order, a permutation (count,) of the source indices."""
    return np.argsort(_words(seed, ORDER, epoch, 0, count), kind="stable")


def transform_seeds(seed: int, epoch: int, count: int) -> NDArray[np.uint64]:
    """Return (count,) seeds, one for each source index: a transform's choice is what its generator makes of it."""
    return _words(seed, TRANSFORM, epoch, 0, count)


def held_out_order(count: int) -> NDArray[np.int64]:
    """Return the permutation (count,) whose end is held out where a data set is split; the same for every seed."""
    return np.argsort(_words(0, HOLD_OUT, 0, 0, count), kind="stable")


def _words(seed: int, operation: int, epoch: int, start: int, count: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each index from `start`: word i % 4 of the block that counts i // 4."""
    skip = start % WORDS_PER_BLOCK
    generator = np.random.Philox(
        key=np.array([seed, operation], np.uint64),
        counter=np.array([start // WORDS_PER_BLOCK, 0, epoch, 0], np.uint64),
    )
    words: NDArray[np.uint64] = generator.random_raw(skip + count)[skip:]
    return words


def _halves(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], ...]:
    """Return high and low 32 bits of each word."""
    return words >> np.uint64(32), words & LOW


def _below(words32: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Map 32 random bits to 0 .. bound - 1 (Lemire's multiplication; the bias is under bound / 2^32)."""
    return ((words32 * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
