"""A data set in memory or in a temporary file: its images, its labels, its statistics and its digest."""

import decimal
import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prebake.console import log
from prebake.errors import UsageError, listed, quote
from prebake.precompute.augment import Augmentation, augmentation_for, held_out_order, resized
from prebake.precompute.pixels import Chosen, Pixels, blocks

__all__ = ["Images", "Resized", "SourceData", "channel_statistics", "cut_off", "hold_out", "sha256"]


@dataclass(frozen=True)
class Images:
    """Images and labels of one split: pixels uint8 (N, H, W, C), labels_N int64."""

    pixels: Pixels
    labels_N: NDArray[np.int64]

    @property
    def images_NHWC(self) -> NDArray[np.uint8]:
        """All images at once, in memory."""
        return self.pixels[:]


@dataclass(frozen=True)
class SourceData:
    """A data set.

    Attributes:
        name: of the data set; it becomes a part of file names.
        classes: names; label i is classes[i].
        splits: `train`, and perhaps `test` and `val`.
        mirror: whether a mirrored image keeps its class, as a photograph does and a digit does not; None: unknown, so
            that images are not mirrored unless a user asks for it.
        preset_side: the side in pixels that padding and cutout of a preset are scaled to; None: the images' shorter
            side.
        recipe: the training recipe to suggest, where the preset suggests none.
        left_out: phrases about what the source holds and the data set does not.
        notes: phrases about what a user should know of it.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Images]
    mirror: bool | None = None
    preset_side: int | None = None
    recipe: str = "default"
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def augmentation(self, preset: str = "standard", **changes: int | str | None) -> Augmentation:
        """Return a preset as it suits this data set, changed where `changes` names a value that is not None.

        Raises:
            UsageError: no preset of that name, or a value outside its range.
        """
        side = self.preset_side or min(self.splits["train"].pixels.shape[1:3])
        augmentation = augmentation_for(preset, mirror=bool(self.mirror), side=side, **changes)
        flips = augmentation_for(preset).flip != "none"
        if flips and self.mirror is None and changes.get("flip") is None:
            log(f"{self.name}: images are not mirrored; --flip random mirrors them")
        return augmentation

    def summary(self) -> str:
        """Return one line: samples and classes of each split, what is left out and why, and classes without images."""
        parts = []
        for split, images in self.splits.items():
            classes = len(np.unique(images.labels_N))
            parts.append(f"{split} {len(images.labels_N):,} images of {classes:,} classes")
        absent = sorted({*range(len(self.classes))} - {*np.unique(self.splits["train"].labels_N).tolist()})
        notes = [*self.notes, *(f"left out: {phrase}" for phrase in self.left_out)]
        if absent:
            named = listed([quote(self.classes[label]) for label in absent], 4)
            notes.append(f"{len(absent)} classes have no training image: {named}")
        return "; ".join([f"{self.name}: {', '.join(parts)}", *notes])


def hold_out(source: SourceData, fraction: float) -> SourceData:
    """Cut a validation split from the training images: the same images for every seed.

    Raises:
        UsageError: the fraction is not between 0 and 1, or leaves one side empty; or there is a validation split.
    """
    if fraction == 0:
        return source
    if "val" in source.splits:
        raise UsageError(f"--val-fraction: {source.name} has validation images of its own; leave the option out")
    train = source.splits["train"]
    count = round(fraction * len(train.labels_N)) if 0 < fraction < 1 else 0
    if not 0 < count < len(train.labels_N):
        raise UsageError(
            f"--val-fraction: expected a fraction between 0 and 1 of {len(train.labels_N)} images, found {fraction}"
        )
    return cut_off(source, count)


def cut_off(source: SourceData, count: int) -> SourceData:
    """Move `count` of the training images to a validation split: at least one, and not all of them."""
    train = source.splits["train"]
    order = held_out_order(len(train.labels_N))
    kept, held = np.sort(order[:-count]), np.sort(order[-count:])
    val = Images(Chosen(train.pixels, held), train.labels_N[held])
    rest = Images(Chosen(train.pixels, kept), train.labels_N[kept])
    return replace(source, splits={**source.splits, "train": rest, "val": val})


class Resized:
    """Images that are resized to a shape (height, width, channels) whenever they are read."""

    def __init__(self, pixels: Pixels, shape: tuple[int, int, int]) -> None:
        self._pixels = pixels
        self.shape = (len(pixels), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        return resized(self._pixels[chosen], self.shape[1:])


def channel_statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, for pixels scaled to 0 to 1.

    Both are computed from exact integer histograms and rounded once, to the nearest float64. The standard deviation
    of a constant channel is given as 1, which normalizes it to zero.
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
    """Return the digest of shape, pixels and labels, which identifies the data in a manifest."""
    digest = hashlib.sha256(str(images.pixels.shape).encode())
    for images_NHWC in blocks(images.pixels):
        digest.update(images_NHWC.data)
    digest.update(images.labels_N.data)
    return digest.hexdigest()
