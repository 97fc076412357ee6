"""Pictures of every kind, as a folder of them is read: what one sees, whatever stands in the file."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import read, saved, write_cats


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """Two classes of two colour pictures each, 8x6, to train and to test."""
    return write_cats(tmp_path / "cats")


RED = Image.new("RGB", (8, 6), (200, 30, 10))
NOISE = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def sixteen_bits() -> tuple[bytes, Any]:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    return saved(Image.fromarray(values), format="PNG"), (values // 256).astype(np.uint8)[..., None].repeat(3, 2)


def half_transparent() -> tuple[bytes, Any]:
    pixels = np.dstack([NOISE, np.zeros((6, 8), np.uint8)])
    pixels[:3, :, 3] = 255
    return saved(Image.fromarray(pixels), format="PNG"), np.vstack([NOISE[:3], np.full((3, 8, 3), 255)])


def palette() -> tuple[bytes, Any]:
    image = Image.fromarray(NOISE).quantize(16)
    return saved(image, format="PNG"), np.asarray(image.convert("RGB"))


def transparent_palette() -> tuple[bytes, Any]:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 2, "P")
    image.putpalette([9, 8, 7, 100, 50, 25])
    expected = np.where((np.arange(48).reshape(6, 8, 1) % 2) == 0, 255, np.array([100, 50, 25]))
    return saved(image, format="PNG", transparency=0), expected


def orientation(kind: int, value: bytes) -> bytes:
    """Return EXIF that says one thing: how a picture lies, as a value of that kind (3: a number, 2: text)."""
    return struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 0x0112, kind, len(value) // 2, value, 0)


LYING = orientation(3, b"\6\0")


def lying() -> tuple[bytes, Any]:
    return saved(Image.fromarray(np.rot90(NOISE)), format="PNG", exif=LYING), NOISE


def lying_tiff() -> tuple[bytes, Any]:
    return saved(Image.fromarray(np.rot90(NOISE)), format="TIFF", tiffinfo={0x0112: 6}), NOISE


def lying_by_words() -> tuple[bytes, Any]:
    return saved(Image.fromarray(NOISE), format="PNG", exif=orientation(2, b"up\0\0")), NOISE


def damaged_exif() -> tuple[bytes, Any]:
    return saved(Image.fromarray(NOISE), format="PNG", exif=LYING[:6]), NOISE


def no_exif() -> tuple[bytes, Any]:
    return saved(Image.fromarray(NOISE), format="PNG", exif=b"nothing of the kind"), NOISE


def lying_as_is_said_behind_the_pixels() -> tuple[bytes, Any]:
    """What stands there is not heeded: to find it, all pixels have to be decoded twice."""
    chunk = b"eXIf" + LYING
    whole = saved(Image.fromarray(NOISE), format="PNG")
    return whole[:-12] + struct.pack(">I", len(LYING)) + chunk + struct.pack(">I", crc32(chunk)) + whole[-12:], NOISE


def animated() -> tuple[bytes, Any]:
    still = Image.fromarray(NOISE).quantize(256)
    return saved(still, format="GIF", save_all=True, append_images=[RED.quantize(4)]), np.asarray(still.convert("RGB"))


def four_inks() -> tuple[bytes, Any]:
    data = saved(RED.convert("CMYK"), format="JPEG", quality=100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        return data, np.asarray(image.convert("RGB"))


def grey_with_alpha() -> tuple[bytes, Any]:
    grey = NOISE[..., 0]
    return saved(Image.fromarray(np.dstack([grey, grey * 0 + 255]), "LA"), format="PNG"), np.dstack([grey] * 3)


KINDS: list[Callable[[], tuple[bytes, Any]]] = [
    sixteen_bits, half_transparent, palette, transparent_palette, animated, four_inks, grey_with_alpha,
    lying, lying_tiff, lying_by_words, lying_as_is_said_behind_the_pixels, damaged_exif, no_exif,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_image_file_of_any_kind_is_decoded_as_it_looks(kind: Callable[[], tuple[bytes, Any]], cats: Path) -> None:
    data, expected = kind()
    (cats / "train" / "cat" / "zz.png").write_bytes(data)  # Pillow goes by the content
    assert np.array_equal(read(cats).splits["train"].images_NHWC[2], expected)


def test_grey_images_of_any_depth_give_one_channel(tmp_path: Path) -> None:
    grey = NOISE[..., 0]
    pictures = {
        "eight": Image.fromarray(grey),
        "sixteen": Image.fromarray(grey.astype(np.uint16) * 256 + 77),
        "alpha": Image.fromarray(np.dstack([grey, grey * 0 + 255]), "LA"),
    }
    for name, image in pictures.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
    found = read(tmp_path).splits["train"].images_NHWC
    assert found.shape == (3, 6, 8, 1)
    assert all(np.array_equal(image[..., 0], grey) for image in found)
    (tmp_path / "one").mkdir()
    Image.fromarray(grey > 127).save(tmp_path / "one" / "x.png")
    assert np.array_equal(read(tmp_path).splits["train"].images_NHWC[2, ..., 0], (grey > 127) * np.uint8(255))
