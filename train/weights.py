"""Weights of a trained model, with all that is needed to use them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from shards.errors import DataError, UsageError
from shards.writer import write_whole
from train.models import build
from train.recipes import Recipe

__all__ = ["Trained", "load_weights", "save_weights"]


@dataclass(frozen=True)
class Trained:
    """A model and what it was trained for.

    Attributes:
        image_shape: height, width, channels.
        mean, deviation: of each channel, pixels taken as 0 to 1.
    """

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def save_weights(path: Path, trained: Trained) -> None:
    """Write a safetensors file whose metadata holds everything but the model's tensors, whole or not at all."""
    about = {
        "recipe": asdict(trained.recipe),
        "classes": trained.classes,
        "image_shape": trained.image_shape,
        "mean": trained.mean,
        "deviation": trained.deviation,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}
    write_whole(path, save(weights, metadata={"prebake": json.dumps(about)}))


def load_weights(path: Path) -> Trained:
    """Read what `save_weights` wrote, the model on the CPU and in evaluation mode.

    Raises:
        DataError: not there, or not such a file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no weights here; name the directory of a finished run, runs/...")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["prebake"])
            weights: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        recipe = Recipe(**about["recipe"])
        height, width, channels = about["image_shape"]
        model = build(recipe, channels, len(about["classes"]))
        model.load_state_dict(weights)
        model.eval()
        return Trained(
            model,
            recipe,
            tuple(about["classes"]),
            (height, width, channels),
            tuple(about["mean"]),
            tuple(about["deviation"]),
        )
    except (SafetensorError, UsageError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not the weights of a run ({error}); train again with --overwrite") from None
