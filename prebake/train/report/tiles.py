"""Small pictures with captions, and sheets of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["Tile", "overlay", "png", "sheet", "tile"]

MAX_SIDE = 128  # larger pictures would make the page slow to load
CELL, CAPTION, GAP = 112, 28, 6  # sizes on a sheet in pixels
LINE = 18  # characters that fit below a cell

# Colours of a heat map from 0 to 1: blue, cyan, green, yellow, red.
RAMP_AT = (0.0, 0.25, 0.5, 0.75, 1.0)
RAMP = ((0, 0, 255), (0, 200, 255), (60, 220, 60), (255, 220, 0), (255, 0, 0))


@dataclass(frozen=True)
class Tile:
    """A picture with a caption of one or two lines; `wrong` marks a wrong prediction."""

    picture: Image.Image
    caption: str
    wrong: bool = False


def tile(pixels_HWC: NDArray[np.uint8], caption: str, *, wrong: bool = False) -> Tile:
    """Make a tile; images of three channels are RGB, of others the first channel is shown in grey."""
    shown = pixels_HWC if pixels_HWC.shape[2] == 3 else pixels_HWC[..., 0]
    picture = Image.fromarray(shown).convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return Tile(picture, caption, wrong)


def overlay(image: Tile, heat_HW: NDArray[np.float32], caption: str) -> Tile:
    """Blend a heat map, 0 to 1, over the picture of a tile; the picture shows where the map is 0."""
    heat = Image.fromarray(heat_HW.astype(np.float32)).resize(image.picture.size, Image.Resampling.BILINEAR)
    heat_HW1 = np.asarray(heat)[..., None]
    colours = np.stack([np.interp(heat_HW1[..., 0], RAMP_AT, channel) for channel in zip(*RAMP, strict=True)], -1)
    weight = 0.15 + 0.5 * heat_HW1
    mixed = (1 - weight) * np.asarray(image.picture) + weight * colours
    return Tile(Image.fromarray(mixed.astype(np.uint8)), caption, image.wrong)


def png(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def sheet(tiles: Sequence[Tile], columns: int, heading: str = "") -> bytes:
    """Return one PNG of all tiles, row by row, with their captions."""
    rows = -(-len(tiles) // columns)
    top = CAPTION if heading else 0
    whole = Image.new("RGB", (columns * (CELL + GAP) + GAP, top + rows * (CELL + CAPTION + GAP) + GAP), "white")
    pen = ImageDraw.Draw(whole)
    pen.text((GAP, GAP), heading, fill="black", spacing=1)
    for number, each in enumerate(tiles):
        left = GAP + number % columns * (CELL + GAP)
        upper = top + GAP + number // columns * (CELL + CAPTION + GAP)
        scale = CELL / max(each.picture.size)
        size = (max(1, round(each.picture.width * scale)), max(1, round(each.picture.height * scale)))
        whole.paste(each.picture.resize(size, Image.Resampling.NEAREST), (left, upper))
        lines = "\n".join(line[:LINE] for line in each.caption.split("\n"))
        pen.text((left, upper + CELL + 1), lines, fill="firebrick" if each.wrong else "black", spacing=1)
    return png(whole)
