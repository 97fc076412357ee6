"""Folders of pictures, as users have them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from prebake.precompute.sources.registry import Decoding

__all__ = ["picture", "read", "saved", "write_cats", "write_folder"]


def picture(path: Path, number: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> NDArray[np.uint8]:
    """Write a picture of noise of that width and height, without loss where the ending allows; return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return pixels


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def write_folder(source: SourceData, folder: Path, most: int | None = None) -> None:
    """Write a data set as `<split>/<class>/<number>.png`, at most so many of each split."""
    for split, images in source.splits.items():
        for name in source.classes:
            (folder / split / name.replace("/", "-")).mkdir(parents=True)
        for number, (image_HWC, label) in enumerate(
            zip(images.images_NHWC[:most], images.labels_N[:most].tolist(), strict=True)
        ):
            name = source.classes[label].replace("/", "-")
            Image.fromarray(image_HWC.squeeze()).save(folder / split / name / f"{number:05d}.png", compress_level=1)


def write_cats(folder: Path) -> Path:
    """Write two classes of two colour pictures each, 8x6, to train and to test; return the folder."""
    for number, (split, name) in enumerate([(s, c) for s in ("train", "test") for c in ("cat", "dog")] * 2):
        picture(folder / split / name / f"{number}.png", number)
    return folder


def read(folder: Path, **how: Any) -> SourceData:
    """Load a folder of pictures, decoded as `how` says."""
    return load(f"folder:{folder}", Path("unused"), Decoding(**how))
