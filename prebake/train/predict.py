"""python -m train predict RUN IMAGE ...: classify image files with a run's weights."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prebake.errors import DataError, UsageError, listed, shown
from prebake.train.weights import Trained, load_weights

__all__ = ["classify", "main", "parser", "read_image"]


def read_image(path: Path, trained: Trained) -> Tensor:
    """Read an image file as (C, H, W): as pictures are baked, in the size that the model knows, and normalized.

    Raises:
        DataError: not a readable image.
    """
    from prebake.loader.image_file import pixels_of, why  # which imports Pillow

    height, width, channels = trained.image_shape
    if channels not in (1, 3):
        raise DataError(f"{path}: the model takes images of {channels} channels, and no image file is one")
    try:
        with path.open("rb") as file:
            pixels_HWC = pixels_of(file, channels, (height, width))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged bytes make of them
        raise DataError(f"{path}: can't be read as an image ({why(error)})") from None
    pixels = torch.from_numpy(pixels_HWC.astype(np.float32))
    return ((pixels / 255 - torch.tensor(trained.mean)) / torch.tensor(trained.std)).permute(2, 0, 1)


@torch.no_grad()
def classify(trained: Trained, images: Tensor) -> Tensor:
    """(N, C, H, W), normalized -> probabilities (N, classes)."""
    probabilities: Tensor = trained.model(images).softmax(1)
    return probabilities


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(prog="python -m train predict", description="Classify image files.")
    options.add_argument("run", type=Path, help="directory of a finished run")
    options.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, of any size")
    options.add_argument("--top", type=int, default=3, help="how many classes to name; default 3")
    options.add_argument("--json", action="store_true", help="one JSON object an image")
    return options


def main(arguments: Sequence[str]) -> None:
    """Print the most probable classes of each image."""
    chosen = parser().parse_args(arguments)
    if chosen.top < 1:
        raise UsageError(f"--top: expected at least 1, found {chosen.top}")
    trained = load_weights(chosen.run / "weights.safetensors")
    unreadable = []
    for path in chosen.images:
        try:
            image = read_image(path, trained)
        except DataError as error:
            unreadable.append(str(error))
            continue
        (probabilities,) = classify(trained, image[None])
        best = probabilities.argsort(descending=True)[: chosen.top].tolist()
        named = {trained.classes[label]: round(probabilities[label].item(), 4) for label in best}
        if chosen.json:
            print(json.dumps({"image": str(path), "classes": named}))  # noqa: T201 - the command's result
        else:
            print(f"{path}: " + ", ".join(f"{shown(name)[1:-1]} {100 * p:.1f} %" for name, p in named.items()))  # noqa: T201 - likewise
    if unreadable:
        raise DataError(listed(unreadable))
