"""A picture: an image file, of whatever kind Pillow reads, as pixels.

As torchvision's ImageFolder loads it, but for what would lose the picture: turned upright where its EXIF says so,
16 bits brought to 8 by their upper half, laid on white where it is transparent. Of several frames the first one counts.
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
ORIENTATION = 0x0112  # of EXIF; what undoes each of its values:
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
MAX_PIXELS = 2**27  # of a resized picture: 4096 x 32768


@dataclass(frozen=True)
class Look:
    """What a picture's header says.

    Attributes:
        size: height and width in pixels, when upright.
        grey: it has one channel.
        frames: it has more than one frame.
        deep: its pixels have more than 8 bits.
    """

    size: tuple[int, int]
    grey: bool
    frames: bool
    deep: bool


def look(file: IO[bytes]) -> Look:
    """Read a picture's header; raises whatever Pillow makes of a file that is none."""
    with Image.open(file) as image:
        lying = _orientation(image) in LYING
        size = image.size if lying else image.size[::-1]
        # Telephones keep previews as frames of their MPO.
        frames = image.format != "MPO" and bool(getattr(image, "is_animated", False))
        return Look(size, is_grey(image), frames, image.mode.startswith("I"))


def is_grey(image: Image.Image) -> bool:
    """Return whether an image has one channel, besides transparency."""
    return image.mode in GREY


def pixels_of(file: IO[bytes], channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Decode a picture: (height, width, channels).

    Args:
        file: what to read.
        channels: 1 or 3.
        size: height and width that it is resized to cover (bilinear, antialiased) and then cut down to, in the middle;
            None: neither.

    Raises:
        whatever Pillow makes of a damaged file; ValueError: pixels of more than 16 bits, or a picture so thin that it
            would become too large when it is resized.
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
    """Return a line on why a picture can't be read, from what Pillow raised."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a kind that Pillow knows"  # whose own words are on the open file, not on the path
    return (str(error).splitlines() or [type(error).__name__])[0]


def _orientation(image: Image.Image) -> int:
    """Say how an opened picture lies, of which nothing is decoded yet, as EXIF numbers it; 1 where that can't be read.

    What a PNG says behind its pixels is not heeded: it is seen only once these are decoded.
    """
    try:
        # As the base class has it: that of PNG decodes the whole picture to look for a note at its end.
        found = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (LookupError, SyntaxError, TypeError, ValueError, struct.error):  # all that Pillow makes of damaged notes
        return 1
    if image.format == "TIFF" and found != 1:
        image.load()  # Pillow turns these itself, and some of its versions know their size from then on only
        return 1
    return found if isinstance(found, int) else 1


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, where 8 or 16 bits are expected")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("pixels of 32 bits, where 8 or 16 are expected")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _cut(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize and crop; where the two are equal, as torchvision's Resize and CenterCrop do."""
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
