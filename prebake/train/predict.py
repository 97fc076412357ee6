"""Classify image files with a trained model."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prebake.errors import DataError
from prebake.train.weights import Trained

__all__ = ["classify", "read_image"]


def read_image(path: Path, trained: Trained) -> Tensor:
    """Read an image file as (C, H, W) float32, resized and normalized as in training.

    Raises:
        DataError: not a readable image.
    """
    from prebake.loader.image_file import pixels_of, why  # which imports Pillow

    height, width, channels = trained.image_shape
    if channels not in (1, 3):
        raise DataError(f"{path}: the model takes images of {channels} channels, which no image file has")
    try:
        with path.open("rb") as file:
            pixels_HWC = pixels_of(file, channels, (height, width))
    except MemoryError:
        raise
    except Exception as error:  # Pillow may raise any exception over damaged bytes
        raise DataError(f"{path}: can't be read as an image ({why(error)})") from None
    pixels = torch.from_numpy(pixels_HWC.astype(np.float32))
    return ((pixels / 255 - torch.tensor(trained.mean)) / torch.tensor(trained.std)).permute(2, 0, 1)


@torch.no_grad()
def classify(trained: Trained, images: Tensor) -> Tensor:
    """(N, C, H, W), normalized -> probabilities (N, classes)."""
    probabilities: Tensor = trained.model(images).softmax(1)
    return probabilities
