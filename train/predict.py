"""python -m train predict RUN IMAGE ...: classify image files with a run's weights."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shards.errors import DataError
from train.models import build
from train.recipes import Recipe

__all__ = ["Classifier", "main"]


class Classifier:
    """A trained model with all it needs: class names, image shape and normalization travel with its weights.

    Args:
        run: the directory of a finished run.

    Raises:
        DataError: no weights there, or damaged ones.
    """

    def __init__(self, run: Path) -> None:
        path = run / "weights.safetensors"
        if not path.is_file():
            raise DataError(f"{run}: no weights.safetensors here; name the directory of a finished run, runs/...")
        try:
            with safe_open(path, "pt") as file:
                about: dict[str, Any] = json.loads(file.metadata()["prebake"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            self.classes: list[str] = about["classes"]
            self.height, self.width, channels = about["image_shape"]
            self.mode = "L" if channels == 1 else "RGB"
            self.mean, self.deviation = torch.tensor(about["mean"]), torch.tensor(about["deviation"])
            self.model: nn.Module = build(Recipe(**about["recipe"]), channels, len(self.classes))
            self.model.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: not the weights of a run ({error})") from None
        self.model.eval()

    def read(self, path: Path) -> Tensor:
        """Read an image file as (C, H, W), scaled to the size the model knows and normalized.

        Raises:
            DataError: not a readable image.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                scaled = image.convert(self.mode).resize((self.width, self.height), Image.Resampling.BOX)
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: can't be read as an image ({error})") from None
        pixels = torch.from_numpy(np.array(scaled, np.float32)).reshape(self.height, self.width, -1)
        return ((pixels / 255 - self.mean) / self.deviation).permute(2, 0, 1)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> probabilities (N, classes)."""
        probabilities: Tensor = self.model(images).softmax(1)
        return probabilities


def main(arguments: Sequence[str]) -> None:
    """Print the most probable classes of each image."""
    options = argparse.ArgumentParser(prog="python -m train predict", description="Classify image files.")
    options.add_argument("run", type=Path, help="directory of a finished run")
    options.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, of any size")
    options.add_argument("--top", type=int, default=3, help="how many classes to name; default 3")
    options.add_argument("--json", action="store_true", help="one JSON object an image")
    chosen = options.parse_args(arguments)
    classifier = Classifier(chosen.run)
    images = torch.stack([classifier.read(path) for path in chosen.images])
    for path, probabilities in zip(chosen.images, classifier.classify(images), strict=True):
        best = probabilities.argsort(descending=True)[: max(1, chosen.top)].tolist()
        named = {classifier.classes[label]: round(probabilities[label].item(), 4) for label in best}
        if chosen.json:
            print(json.dumps({"image": str(path), "classes": named}))  # noqa: T201 - the command's result
        else:
            print(f"{path}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in named.items()))  # noqa: T201 - the command's result
