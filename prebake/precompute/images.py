"""Images: what a data set is once it is read, and what is computed from all of it."""

import decimal
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.precompute.augment import resized
from prebake.precompute.pixels import Pixels, blocks

__all__ = ["Images", "Resized", "SourceData", "channel_statistics", "sha256"]


@dataclass(frozen=True)
class Images:
    """Images and labels of one split: pixels uint8 (N, H, W, C), labels_N int64."""

    pixels: Pixels
    labels_N: NDArray[np.int64]

    @property
    def images_NHWC(self) -> NDArray[np.uint8]:  # noqa: N802 - axes, as everywhere
        """All images at once, in memory."""
        return self.pixels[:]


@dataclass(frozen=True)
class SourceData:
    """A data set: its name, the names of its classes, its splits (`train`, and perhaps `test` and `val`)."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Images]


class Resized:
    """Images resized to a shape (height, width, channels) whenever they are asked for."""

    def __init__(self, pixels: Pixels, shape: tuple[int, int, int]) -> None:
        self._pixels = pixels
        self.shape = (len(pixels), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        return resized(self._pixels[chosen], self.shape[1:])


def channel_statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, pixels taken as 0 to 1.

    Both come from exact integer histograms and are rounded once, to the nearest float64. A channel
    without any deviation gets 1, so that it normalizes to zero.
    """
    channels = pixels.shape[3]
    histograms = np.zeros((channels, 256), np.int64)
    for images_NHWC in blocks(pixels):
        for channel in range(channels):
            histograms[channel] += np.bincount(images_NHWC[..., channel].reshape(-1), minlength=256)
    means, stds = [], []
    with decimal.localcontext(decimal.Context(prec=60)):
        for histogram in histograms.tolist():
            count = sum(histogram)
            total = sum(value * times for value, times in enumerate(histogram))
            squares = sum(value * value * times for value, times in enumerate(histogram))
            means.append(float(decimal.Decimal(total) / (255 * count)))
            variance = decimal.Decimal(count * squares - total * total)
            stds.append(float(variance.sqrt() / (255 * count)) if variance else 1.0)
    return tuple(means), tuple(stds)


def sha256(images: Images) -> str:
    """Return the digest of shape, pixels and labels, by which a manifest tells data apart."""
    digest = hashlib.sha256(str(images.pixels.shape).encode())
    for images_NHWC in blocks(images.pixels):
        digest.update(images_NHWC.data)
    digest.update(images.labels_N.data)
    return digest.hexdigest()
