"""A simple implementation of the look-up augmentations, for one image at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.precompute.augment import Augmentation, Draw

__all__ = ["choices_at", "encoded", "mean_colour", "view"]


def encoded(image_HWC: NDArray[np.uint8], mean: Any, std: Any, dtype: str) -> NDArray[np.generic]:
    """Return one image in the stored dtype, by the formula of normalization."""
    if dtype == "uint8":
        return image_HWC
    made: NDArray[np.generic] = ((image_HWC / 255 - np.array(mean)) / np.array(std)).astype(dtype)
    return made


def mean_colour(mean: Any, dtype: str) -> NDArray[np.generic]:
    """Return the stored code of normalized zero, by search."""
    if dtype != "uint8":
        return np.zeros(len(mean), dtype)
    return np.array([min(range(256), key=lambda code: abs(code / 255 - value)) for value in mean], np.uint8)


def view(
    image_HWC: NDArray[np.uint8],
    augmentation: Augmentation,
    choices: tuple[int, int, int, int, int],
    mean: Any,
    std: Any,
    dtype: str,
) -> NDArray[np.generic]:
    """Make one view of one image with NumPy: pad, mirror, crop at (y, x), cut out at (cut_y, cut_x)."""
    y, x, flip, cut_y, cut_x = choices
    height, width, _ = image_HWC.shape
    pad, cutout = augmentation.pad, augmentation.cutout
    image = encoded(image_HWC, mean, std, dtype)
    zero = mean_colour(mean, dtype)
    if augmentation.pad_mode == "reflect":
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    else:
        black = encoded(np.zeros((1, 1, len(mean)), np.uint8), mean, std, dtype)[0, 0]
        colours = zero if augmentation.pad_mode == "zero" else black
        channels = [np.pad(image[:, :, c], pad, constant_values=colours[c]) for c in range(len(mean))]
        padded = np.stack(channels, axis=2)
    if flip:
        padded = np.flip(padded, axis=1)
    made = padded[y : y + height, x : x + width].copy()
    made[cut_y : cut_y + cutout, cut_x : cut_x + cutout] = zero
    return made


def choices_at(drawn: Draw, i: int) -> tuple[int, int, int, int, int]:
    """Return the choices at one position of a draw."""
    return int(drawn.y[i]), int(drawn.x[i]), int(drawn.flip[i]), int(drawn.cut_y[i]), int(drawn.cut_x[i])
