"""Augmentations: their parameters, the presets, and the defaults of each data set.

A preset is one entry of `AUGMENTATIONS`. Its `recipe` is the training recipe that the manifest suggests.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from prebake.errors import DataError, UsageError
from prebake.format.document import Fields
from prebake.precompute.augment.identity import changes, without_identity
from prebake.precompute.augment.pipeline import Pipeline, torchvision_transform

__all__ = ["AUGMENTATIONS", "FLIPS", "PAD_MODES", "Augmentation", "augmentation_for"]

PAD_MODES = ("reflect", "zero", "black")
FLIPS = ("random", "alternate", "none")
RESIZE_LIBRARIES = ("torch", "torchvision")


@dataclass(frozen=True)
class Augmentation:
    """Pad, mirror, crop to the original size, transform, cut out, in this order.

    Attributes:
        name: of the preset.
        pad: pixels added on every side before the crop; 0: no crop.
        pad_mode: `reflect` (without repeating the edge), `zero` (the mean colour, normalized zero) or
            `black` (pixel value 0).
        flip: `random` (by chance in each epoch), `alternate` (by chance in epoch 0, then turned in each epoch;
            Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024) or `none`.
        cutout: side in pixels of a square set to normalized zero; 0: none. DeVries and Taylor, 2017; the square is
            inside the image, as in davidcpage/cifar10-fast.
        resize: `SIDE:EPOCHS,...,SIDE`, the shorter side of the images in turn, see `resize`; or `none`.
        recipe: name of the training recipe that the manifest suggests; empty: that of the source.
        transform: applied to the training images between crop and cutout, or None.
        test_transform: applied to the images of the held-out splits, or None.

    Raises:
        UsageError: a value outside these.
    """

    name: str
    pad: int
    pad_mode: str
    flip: str
    cutout: int
    resize: str = "none"
    recipe: str = ""
    transform: Pipeline | None = None
    test_transform: Pipeline | None = None

    def __post_init__(self) -> None:
        for choice, allowed, option in ((self.pad_mode, PAD_MODES, "--pad-mode"), (self.flip, FLIPS, "--flip")):
            if choice not in allowed:
                raise UsageError(f"{option}: expected one of {', '.join(allowed)}, found {choice!r}")
        if self.transform is not None and self.resize != "none":
            raise UsageError("--resize: not with a transform")
        if self.test_transform is not None and self.transform is None:
            raise UsageError("--test-transform: only with --transform")
        for value, option in ((self.pad, "pad"), (self.cutout, "cutout")):
            # A manifest cannot hold NumPy's numbers, and a float is no number of pixels.
            if type(value) is not int or value < 0:
                raise UsageError(f"--{option}: expected 0 or more pixels, found {value!r}")

    def check(self, height: int, width: int, *, pad: bool = True, cutout: bool = True) -> None:
        """Raise UsageError unless padding and cutout fit images of this size."""
        side, size = min(height, width), f"{height}x{width}"
        if pad and self.pad_mode == "reflect" and self.pad >= side:
            raise UsageError(f"--pad: reflecting needs fewer than {side} pixels for images of {size}, found {self.pad}")
        for name, value, checked in (("pad", self.pad, pad), ("cutout", self.cutout, cutout)):
            if checked and value > side:
                raise UsageError(f"--{name}: expected at most {side} pixels for images of {size}, found {value}")

    def with_transforms(self, transform: Pipeline | None, test_transform: Pipeline | None) -> "Augmentation":
        """Return this augmentation with the given transforms; None keeps its own."""
        return replace(
            self, transform=transform or self.transform, test_transform=test_transform or self.test_transform
        )

    def to_json(self) -> dict[str, Any]:
        """Return name and parameters as a manifest holds them, with the identity of the transforms."""
        content: dict[str, Any] = {name: getattr(self, name) for name in ("name", "pad", "pad_mode", "flip", "cutout")}
        libraries = set()
        if self.resize != "none":
            content["resize"] = self.resize
            libraries |= {f"{name} {version(name)}" for name in RESIZE_LIBRARIES}
        for prefix, pipeline in (("", self.transform), ("test_", self.test_transform)):
            if pipeline is not None:
                identity = dict(pipeline.identity)
                libraries |= set(filter(None, identity.pop("library", "").split(", ")))
                content.update({f"{prefix}{key}": value for key, value in identity.items()})
        return {**content, "library": ", ".join(sorted(libraries))} if libraries else content

    @classmethod
    def from_json(
        cls,
        content: Mapping[str, Any],
        where: str,
        *,
        recipe: str = "",
        transform: Pipeline | None = None,
        test_transform: Pipeline | None = None,
    ) -> "Augmentation":
        """Return the augmentation of a manifest.

        Args:
            content: what `to_json` has returned.
            where: names it in errors.
            recipe: stands elsewhere in the manifest.
            transform: the user's transform; by default that of the preset.
            test_transform: likewise, for the held-out splits.

        Raises:
            DataError: this release does not know a field, or the transform or a library is not that of the bake.
        """
        taken = Fields(dict(content), where)
        given = [
            field
            for field in fields(cls)
            if field.type in (int, str) and field.name != "recipe"
            if field.name in content or field.default is MISSING
        ]
        values: dict[str, Any] = {
            field.name: (taken.integer if field.type is int else taken.text)(field.name) for field in given
        }
        preset = AUGMENTATIONS.get(values["name"])
        if "transform" in content and transform is None and preset is not None:
            transform = preset.transform
        for option, pipeline in (("transform", transform), ("test_transform", test_transform)):
            if option in content and pipeline is None:
                raise DataError(
                    f"{where}: baked with the {option} {taken.text(option)}; "
                    f"name it with --{option.replace('_', '-')} FILE.py:NAME ({option}=)"
                )
        try:
            augmentation = cls(**values, recipe=recipe, transform=transform, test_transform=test_transform)
        except UsageError as error:
            raise DataError(f"{where}: {error}; use the release that baked it") from None
        known = augmentation.to_json()
        unknown = sorted({*content} - {*known, "source", "test_source", "library"})
        if unknown:
            raise DataError(f"{where}: unknown fields {', '.join(unknown)}; use the release that baked it")
        found = changes(content, known) + [
            f"{key} is {content.get(key)!r} there, {known.get(key)!r} here"
            for key in without_identity({**content, **known})
            if content.get(key) != known.get(key)
        ]
        if found:
            raise DataError(
                f"{where}: {'; '.join(found)}. Other code may make other pixels: use the transform and the versions "
                "that baked it, or bake anew with --overwrite (overwrite=True)"
            )
        return augmentation


STANDARD = Augmentation("standard", pad=4, pad_mode="reflect", flip="random", cutout=8)
PLAIN = Augmentation("plain", pad=0, pad_mode="reflect", flip="none", cutout=0)
PRESET_SIDE = 32  # of the images that the presets were made for
WRN22 = Augmentation("wrn22", pad=4, pad_mode="zero", flip="random", cutout=0, recipe="wrn22")
JITTER = torchvision_transform("ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2)
AUGMENTATIONS = {
    augmentation.name: augmentation
    for augmentation in (
        STANDARD,
        PLAIN,
        replace(STANDARD, name="trivial-augment-wide", transform=torchvision_transform("TrivialAugmentWide")),
        replace(STANDARD, name="rand-augment", transform=torchvision_transform("RandAugment")),
        replace(STANDARD, name="color-jitter", transform=JITTER),
        replace(STANDARD, name="rotation", transform=torchvision_transform("RandomRotation", degrees=15)),
        replace(STANDARD, name="page2018", recipe="page2018"),
        replace(STANDARD, name="cnn94", recipe="cnn94"),
        replace(WRN22, name="resnet20", recipe="resnet20", transform=JITTER),
        WRN22,
        replace(WRN22, name="resnet18-concat", recipe="resnet18-concat"),
        replace(WRN22, name="resnet50", recipe="resnet50"),
        replace(WRN22, name="resnet34-wide", recipe="resnet34-wide"),
        replace(STANDARD, name="fast", recipe="fast", pad=2, flip="alternate", cutout=0),
    )
}
AUGMENTATIONS["default"] = STANDARD  # the name of its recipe


def augmentation_for(
    name: str = "standard", *, mirror: bool = True, side: int = PRESET_SIDE, **changes: int | str | None
) -> Augmentation:
    """Return a preset.

    Args:
        name: of the preset.
        mirror: whether images may be flipped. A mirrored digit is another sign, or none.
        side: of the images in pixels, the shorter one. The presets were made for 32; padding and cutout are scaled.
        changes: parameters of `Augmentation` that replace those of the preset, where they are not None.

    Raises:
        UsageError: no preset of that name, or a value outside its range.
    """
    if name not in AUGMENTATIONS:
        raise UsageError(f"--augment: no augmentation named {name!r}; there are {', '.join(AUGMENTATIONS)}")
    preset = AUGMENTATIONS[name]
    values: dict[str, Any] = {key: _scaled(getattr(preset, key), side) for key in ("pad", "cutout")}
    if not mirror:
        values["flip"] = "none"
    return replace(preset, **{**values, **{key: value for key, value in changes.items() if value is not None}})


def _scaled(pixels: int, side: int) -> int:
    """Scale a number of pixels for images of another side; what is not 0 stays at least 1."""
    return max(min(pixels, 1), round(pixels * side / PRESET_SIDE))
