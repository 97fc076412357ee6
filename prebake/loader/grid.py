"""Image grids that show the augmentation: the same images in several epochs, side by side."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, quote
from prebake.loader.shard_set import ShardSet
from prebake.storage.atomic import write_atomic

__all__ = ["draw_grid", "to_pixels", "views"]

CELL = 64
MARGIN_LEFT, MARGIN_TOP, GAP = 110, 20, 2


def views(data: ShardSet, index_N: Sequence[int], epochs: Sequence[int]) -> NDArray[np.uint8]:
    """Return the views of some source images in some epochs, (images, epochs, H, W, C) uint8.

    Normalized pixels are converted back to the nearest value from 0 to 255.

    Raises:
        UsageError: no such source image, or epochs of several image sizes.
        DataError: an epoch is not baked, or damaged.
    """
    samples = data.samples("train")
    shapes = {data.image_shape("train", epoch) for epoch in epochs}
    if len(shapes) != 1:
        raise UsageError(f"--epochs: expected epochs of one image size, found {sorted(shapes)}")
    out = np.zeros((len(index_N), len(epochs), *data.image_shape("train", epochs[0])), np.uint8)
    for index in index_N:
        if not 0 <= index < samples:
            raise UsageError(f"--images: expected 0 to {samples - 1}, found {index}")
    for column, epoch in enumerate(epochs):
        for record in data.records("train", epoch):
            for position in np.flatnonzero(np.isin(record.index_N, list(index_N))):
                rows = [row for row, index in enumerate(index_N) if index == record.index_N[position]]
                out[rows, column] = to_pixels(data, record.images_NHWC[position])
    return out


def draw_grid(data: ShardSet, index_N: Sequence[int], epochs: Sequence[int], out: Path) -> None:
    """Draw a labelled grid to a PNG file: one row per image, one column per epoch.

    Raises: as `views`.
    """
    from PIL import Image, ImageDraw

    if out.is_dir() or not out.name:
        raise UsageError(f"--out: expected the name of a PNG file, found the directory {out}")
    pixels = views(data, index_N, epochs)
    labels = _labels(data, index_N)
    size = (MARGIN_LEFT + len(epochs) * (CELL + GAP), MARGIN_TOP + len(index_N) * (CELL + GAP))
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for column, epoch in enumerate(epochs):
        pen.text((MARGIN_LEFT + column * (CELL + GAP) + 4, 4), f"epoch {epoch}", fill="black")
    for row, index in enumerate(index_N):
        top = MARGIN_TOP + row * (CELL + GAP)
        pen.text((4, top + CELL // 2 - 12), f"{_class(data, labels[index])}\nno. {index}", fill="black")
        for column in range(len(epochs)):
            image = pixels[row, column]
            # Three channels are colours. Of any other number, the first one is shown in grey.
            image = image if image.shape[2] == 3 else image[..., 0]
            picture = Image.fromarray(image).convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)
            grid.paste(picture, (MARGIN_LEFT + column * (CELL + GAP), top))
    png = io.BytesIO()
    grid.save(png, format="PNG")
    write_atomic(out, png.getvalue())


def _labels(data: ShardSet, index_N: Sequence[int]) -> dict[int, int]:
    labels = {}
    for record in data.records("train", 0):
        for position in np.flatnonzero(np.isin(record.index_N, list(index_N))):
            labels[int(record.index_N[position])] = int(record.labels_N[position])
    absent = sorted(set(index_N) - set(labels))
    if absent:
        raise DataError(f"{data.location}: epoch 0 holds no image {absent[0]}; its writer made a mistake")
    return labels


def _class(data: ShardSet, label: int) -> str:
    return quote(data.classes[label], 16)[1:-1]


def to_pixels(data: ShardSet, image: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert stored images (..., H, W, C) to uint8; normalized pixels become the nearest value from 0 to 255."""
    if image.dtype == np.uint8:
        return image
    source = data.plan.source
    with np.errstate(over="ignore", invalid="ignore"):  # stored pixels may not be finite
        pixels = (image.astype(np.float64) * np.array(source.std) + np.array(source.mean)) * 255
    rounded: NDArray[np.uint8] = np.clip(np.rint(np.nan_to_num(pixels)), 0, 255).astype(np.uint8)
    return rounded
