"""Progressive resizing: smaller images in early epochs, full size in the last ones.

Source: Howard and others, "Now anyone can train ImageNet in 18 minutes" (fast.ai, 2018).
"""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prebake.errors import UsageError
from prebake.precompute.augment.presets import Augmentation

__all__ = ["at_side", "resized", "sides"]

SIDES = re.compile(r"(\d{1,4}:[1-9]\d{0,3},)*\d{1,4}")
BLOCK_IMAGES = 4096  # keeps the float copies that torch makes small


def sides(resize: str, epochs: int, own: int) -> list[int]:
    """Return the shorter side of the images of each epoch, followed by the last side that is named.

    Args:
        resize: such as `16:5,24:10,32`: five epochs of 16 pixels, ten of 24, all later ones of 32; or `none`.
        epochs: number of epochs.
        own: the shorter side of the source images.

    Raises:
        UsageError: not of that form.
    """
    if resize == "none":
        return [own] * (epochs + 1)
    if not SIDES.fullmatch(resize):
        raise UsageError(f"--resize: expected SIDE:EPOCHS,...,SIDE such as 16:5,24:10,32, found {resize!r}")
    *parts, last = resize.split(",")
    planned = [int(side) for part in parts for side, count in [part.split(":")] for _ in range(int(count))]
    return [*(planned + [int(last)] * epochs)[:epochs], int(last)]


def at_side(augmentation: Augmentation, shape: tuple[int, ...], side: int) -> tuple[Augmentation, tuple[int, int, int]]:
    """Return the augmentation for images that are resized to a shorter side of `side`, and their new shape.

    Padding and cutout are scaled in proportion.

    Args:
        augmentation: for the source images.
        shape: height, width, channels of the source images.
        side: in pixels.
    """
    height, width, channels = shape
    scale = side / min(height, width)
    scaled = replace(
        augmentation, resize="none", pad=round(augmentation.pad * scale), cutout=round(augmentation.cutout * scale)
    )
    return scaled, (round(height * scale), round(width * scale), channels)


def resized(images_NHWC: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize images to the height and width of `shape` with torchvision: bilinear, antialiased, on uint8.

    The result may differ between builds of torch and torchvision.
    """
    if images_NHWC.shape[1:3] == tuple(shape[:2]):
        return images_NHWC
    import torch
    from torchvision.transforms.v2 import functional

    changed = np.empty((len(images_NHWC), *shape[:2], images_NHWC.shape[3]), np.uint8)
    for start in range(0, len(images_NHWC), BLOCK_IMAGES):
        block = slice(start, start + BLOCK_IMAGES)
        # A copy, since torch rejects read-only memory.
        images_NCHW = torch.from_numpy(images_NHWC[block].copy()).permute(0, 3, 1, 2)
        changed[block] = functional.resize(images_NCHW, list(shape[:2]), antialias=True).permute(0, 2, 3, 1).numpy()
    return changed
