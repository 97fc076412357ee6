"""What is done to an image: names, parameters, and the defaults of each data set."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from shards.errors import UsageError

__all__ = ["AUGMENTATIONS", "FLIPS", "PAD_MODES", "Augmentation", "augmentation_for"]

PAD_MODES = ("reflect", "zero", "black")
FLIPS = ("random", "alternate", "none")


@dataclass(frozen=True)
class Augmentation:
    """Pad, crop back to the original size, mirror, cut out; in this order.

    Attributes:
        name: of the preset.
        pad: pixels added on every side before cropping; 0 crops nothing.
        pad_mode: `reflect` (without repeating the edge), `zero` (normalized zero, the mean colour) or
            `black` (pixel value 0).
        flip: `random` (each epoch by chance), `alternate` (by chance in epoch 0, then every other
            epoch; Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024) or `none`.
        cutout: side in pixels of a square set to normalized zero; 0 cuts nothing. DeVries and Taylor,
            2017; fully inside the image as in davidcpage/cifar10-fast.

    Raises:
        UsageError: a value outside these.
    """

    name: str
    pad: int
    pad_mode: str
    flip: str
    cutout: int

    def __post_init__(self) -> None:
        for choice, allowed, option in ((self.pad_mode, PAD_MODES, "pad-mode"), (self.flip, FLIPS, "flip")):
            if choice not in allowed:
                raise UsageError(f"--{option}: expected one of {', '.join(allowed)}, found {choice!r}")
        for value, option in ((self.pad, "pad"), (self.cutout, "cutout")):
            if value < 0:
                raise UsageError(f"--{option}: expected 0 or more pixels, found {value}")

    def check(self, height: int, width: int) -> None:
        """Raise UsageError unless the parameters fit images of this size."""
        side = min(height, width)
        if self.pad_mode == "reflect" and self.pad >= side:
            raise UsageError(
                f"--pad: reflecting needs fewer than {side} pixels for images of {height}x{width}, found {self.pad}"
            )
        if self.pad > side:
            raise UsageError(f"--pad: expected at most {side} pixels for images of {height}x{width}, found {self.pad}")
        if self.cutout > side:
            raise UsageError(
                f"--cutout: expected at most {side} pixels for images of {height}x{width}, found {self.cutout}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return name and parameters as a manifest holds them."""
        return asdict(self)


STANDARD = Augmentation("standard", pad=4, pad_mode="reflect", flip="random", cutout=8)
PLAIN = Augmentation("plain", pad=0, pad_mode="reflect", flip="none", cutout=0)
# A mirrored digit is another sign, or none at all.
BY_DATASET: dict[str, dict[str, Any]] = {"mnist": {"flip": "none"}, "digits": {"flip": "none", "pad": 1, "cutout": 2}}
AUGMENTATIONS = {"standard": STANDARD, "plain": PLAIN}


def augmentation_for(dataset: str, name: str = "standard", **changes: int | str | None) -> Augmentation:
    """Return the augmentation of a data set, its defaults changed where `changes` names a value.

    Raises:
        UsageError: no augmentation of that name, or a value outside its range.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f"--augment: no augmentation named {name!r}; there are {', '.join(AUGMENTATIONS)}")
    defaults = BY_DATASET.get(dataset, {}) if name == "standard" else {}
    chosen: dict[str, Any] = {**defaults, **{key: value for key, value in changes.items() if value is not None}}
    return replace(AUGMENTATIONS[name], **chosen)
