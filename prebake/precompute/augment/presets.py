"""What is done to an image: names, parameters, and the defaults of each data set."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import Any

from prebake.errors import DataError, UsageError
from prebake.format.document import Fields

__all__ = [
    "AUGMENTATIONS",
    "BY_RECIPE",
    "FLIPS",
    "PAD_MODES",
    "TRANSFORMS",
    "Augmentation",
    "augmentation_for",
]

PAD_MODES = ("reflect", "zero", "black")
FLIPS = ("random", "alternate", "none")
# Of torchvision.transforms.v2, with the parameters that are not the class's own defaults.
TRANSFORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "TrivialAugmentWide": {},
    "RandAugment": {},
    "ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)": {
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
    },
    "RandomRotation(degrees=15)": {"degrees": 15},
}
LIBRARIES = ("torch", "torchvision")  # what the result of such a transform depends on


@dataclass(frozen=True)
class Augmentation:
    """Pad, crop back to the original size, mirror, transform, cut out; in this order.

    Attributes:
        name: of the preset.
        pad: pixels added on every side before cropping; 0 crops nothing.
        pad_mode: `reflect` (without repeating the edge), `zero` (normalized zero, the mean colour) or
            `black` (pixel value 0).
        flip: `random` (each epoch by chance), `alternate` (by chance in epoch 0, then every other
            epoch; Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024) or `none`.
        cutout: side in pixels of a square set to normalized zero; 0 cuts nothing. DeVries and Taylor,
            2017; fully inside the image as in davidcpage/cifar10-fast.
        transform: a class of torchvision.transforms.v2 out of `TRANSFORMS`: `TrivialAugmentWide` (Mueller and
            Hutter, 2021), `RandAugment` (Cubuk et al., 2020), `ColorJitter(...)`, `RandomRotation(...)`, or `none`.
            It computes, so it takes its time, and its result depends on the build of torch and torchvision.
        resize: `SIDE:EPOCHS,...,SIDE`, the images' shorter side in turn, see `resize`; or `none`.

    Raises:
        UsageError: a value outside these.
    """

    name: str
    pad: int
    pad_mode: str
    flip: str
    cutout: int
    transform: str = "none"
    resize: str = "none"

    def __post_init__(self) -> None:
        choices = (
            (self.pad_mode, PAD_MODES, "--pad-mode"),
            (self.flip, FLIPS, "--flip"),
            (self.transform, TRANSFORMS, "transform"),
        )
        for choice, allowed, option in choices:
            if choice not in allowed:
                raise UsageError(f"{option}: expected one of {', '.join(allowed)}, found {choice!r}")
        if self.transform != "none" and self.resize != "none":
            raise UsageError(f"--resize: goes with no transform that computes yet, found {self.transform}")
        for value, option in ((self.pad, "pad"), (self.cutout, "cutout")):
            # The manifest can't hold NumPy's numbers, nor does a float come back from it as a number of pixels.
            if type(value) is not int or value < 0:
                raise UsageError(f"--{option}: expected 0 or more pixels, found {value!r}")

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
        """Return name and parameters as a manifest holds them, and the versions that a transform depends on."""
        # What is as it was before there was a choice is left out: sets that were baked then keep their identity.
        left_out = {"transform": "none", "resize": "none"}
        content = {key: value for key, value in asdict(self).items() if left_out.get(key) != value}
        if self.transform == "none" and self.resize == "none":
            return content
        return {**content, "library": ", ".join(f"{name} {version(name)}" for name in LIBRARIES)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> "Augmentation":
        """Take back what `to_json` has returned; `where` names it in errors.

        Raises:
            DataError: it holds what this release does not know, or needs other versions of torch and torchvision.
        """
        taken = Fields(dict(content), where)
        given = [field for field in fields(cls) if field.name in content or field.default is MISSING]
        values: dict[str, Any] = {
            field.name: (taken.integer if field.type is int else taken.text)(field.name) for field in given
        }
        try:
            augmentation = cls(**values)
        except UsageError as error:
            raise DataError(f"{where}: {error}; use the release that baked it") from None
        known = augmentation.to_json()
        unknown = sorted({*content} - {*known})
        if unknown:
            raise DataError(f"{where}: unknown fields {', '.join(unknown)}; use the release that baked it")
        if content.get("library") != known.get("library"):
            raise DataError(
                f"{where}: baked with {content.get('library')}, and here is {known['library']}: "
                "what computes may compute other pixels; install the versions that baked it"
            )
        return augmentation


STANDARD = Augmentation("standard", pad=4, pad_mode="reflect", flip="random", cutout=8)
PLAIN = Augmentation("plain", pad=0, pad_mode="reflect", flip="none", cutout=0)
PRESET_SIDE = 32  # of the images that the presets were made for
# Those of recipes bear their recipe's name, which the manifest then suggests.
WRN22 = Augmentation("wrn22", pad=4, pad_mode="zero", flip="random", cutout=0)
BY_RECIPE = {
    augmentation.name: augmentation
    for augmentation in (
        replace(STANDARD, name="page2018"),
        replace(STANDARD, name="cnn94"),
        replace(WRN22, name="resnet20", transform="ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)"),
        WRN22,
        replace(WRN22, name="resnet18-concat"),
        replace(WRN22, name="resnet50"),
        replace(WRN22, name="resnet34-wide"),
        replace(STANDARD, name="fast", pad=2, flip="alternate", cutout=0),
    )
}
AUGMENTATIONS = {
    STANDARD.name: STANDARD,
    PLAIN.name: PLAIN,
    "trivial-augment-wide": replace(STANDARD, name="trivial-augment-wide", transform="TrivialAugmentWide"),
    "rand-augment": replace(STANDARD, name="rand-augment", transform="RandAugment"),
    "color-jitter": replace(
        STANDARD, name="color-jitter", transform="ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)"
    ),
    "rotation": replace(STANDARD, name="rotation", transform="RandomRotation(degrees=15)"),
    "default": STANDARD,  # by the name of its recipe, as those that follow
    **BY_RECIPE,
}


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
