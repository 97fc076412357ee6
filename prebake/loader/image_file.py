"""Decoding of image files that Pillow reads.

Files are decoded as by torchvision's ImageFolder, except where that loses the image: it is turned upright as its EXIF
tells, 16-bit values keep their upper 8 bits, transparent pixels are laid on white. Of several frames, the first counts.
"""

import struct
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["EXTENSIONS", "Look", "is_grey", "look", "pixels_of", "pixels_of_image", "why"]

# torchvision's, and .gif
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
TRANSPARENT = {"LA", "PA", "RGBA"}
ORIENTATION = 0x0112  # an EXIF tag; UPRIGHT has the operation that undoes each value
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = {5, 6, 7, 8}
MAX_PIXELS = 2**27  # of a resized image: 4096 x 32768


@dataclass(frozen=True)
class Look:
    """The header of an image file.

    Attributes:
        size: height and width in pixels, after it is turned upright.
        grey: it has one channel.
        frames: it has more than one frame.
        deep: its pixels have more than 8 bits.
    """

    size: tuple[int, int]
    grey: bool
    frames: bool
    deep: bool


def look(file: IO[bytes]) -> Look:
    """Read the header of an image file; raises what Pillow raises for other files."""
    with Image.open(file) as image:
        lying = _orientation(image) in LYING
        size = image.size if lying else image.size[::-1]
        # Phones store previews as frames of MPO files.
        frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return Look(size, is_grey(image), frames, image.mode.startswith("I"))


def is_grey(image: Image.Image) -> bool:
    """Return whether an image has one channel, besides transparency."""
    return image.mode in GREY


def pixels_of(file: IO[bytes], channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Decode an image file; return (height, width, channels).

    Args:
        file: the open file.
        channels: 1 or 3.
        size: height and width. The image is resized to cover them (bilinear, antialiased), then cropped in the
            middle. None keeps its own size.

    Raises:
        ValueError: pixels of more than 16 bits, or an image so narrow that resizing would make it too large.
        Exception: any other that Pillow raises for a damaged file.
    """
    with Image.open(file) as image:
        return pixels_of_image(image, channels, size)


def pixels_of_image(image: Image.Image, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return the pixels of an opened image, as `pixels_of` does."""
    upright = UPRIGHT.get(_orientation(image))
    image.load()
    plain = _converted(image, "L" if channels == 1 else "RGB")
    if upright is not None:
        plain = plain.transpose(upright)
    if size is not None:
        plain = _cut(plain, *size)
    return np.asarray(plain).reshape(plain.height, plain.width, channels)


def why(error: Exception) -> str:
    """Return one line that tells why an image can't be read, from Pillow's error."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that Pillow knows"  # Pillow's own message names the open file, not the path
    return (str(error).splitlines() or [type(error).__name__])[0]


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, before it is decoded; 1 if it can't be read.

    EXIF behind the pixels of a PNG is ignored: Pillow finds it only after decoding them.
    """
    try:
        # The method of the base class: that of PNG decodes the whole image to find a tag at its end.
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (LookupError, SyntaxError, TypeError, ValueError, struct.error):  # what Pillow raises for damaged EXIF
        return 1
    if image.format == "TIFF" and found != 1:
        image.load()  # Pillow rotates TIFF itself; some versions know the size only then
        return 1
    return found if isinstance(found, int) else 1


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("expected pixels of 8 or 16 bits, found floating point")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("expected pixels of 8 or 16 bits, found 32 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _cut(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize and crop; for square sizes, with the result of torchvision's Resize and CenterCrop."""
    if image.size != (width, height):
        if image.width * height <= image.height * width:
            size = (width, max(height, width * image.height // image.width))
        else:
            size = (max(width, height * image.width // image.height), height)
        if size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels would become {size[0]}x{size[1]}, which is too much")
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
