"""Weights of a trained model, with all that is needed to use them."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prebake.errors import DataError, UsageError
from prebake.format.document import Fields
from prebake.train.models import build
from prebake.train.recipes import Recipe, recipe_from
from prebake.train.tensors import read_tensors, write_tensors

__all__ = ["Trained", "load_weights", "save_weights"]

MAX_VALUES = 2**30  # per image; limits the memory that a file from a stranger can take


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
    std: tuple[float, ...]


def save_weights(path: Path, trained: Trained) -> None:
    """Write a safetensors file whose metadata holds everything but the model's tensors, whole or not at all."""
    about = {
        "recipe": asdict(trained.recipe),
        "classes": trained.classes,
        "image_shape": trained.image_shape,
        "mean": trained.mean,
        "std": trained.std,
    }
    write_tensors(path, trained.model.state_dict(), about)


def load_weights(path: Path) -> Trained:
    """Read what `save_weights` wrote, the model on the CPU and in evaluation mode.

    Whatever the file says, no more memory is taken than a few times its size.

    Raises:
        DataError: not there, or not such a file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no weights here; name the directory of a finished run, runs/...")
    try:
        tensors, about = read_tensors(path)
        return _trained(tensors, about)
    except (DataError, UsageError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: not the weights of a run ({error}); train again with --overwrite") from None


def _trained(tensors: dict[str, Tensor], about: Fields) -> Trained:
    recipe = recipe_from(about.fields("recipe").content)
    classes, shape = about.texts("classes"), _image_shape(about)
    mean, std = about.numbers("mean"), about.numbers("std")
    if not classes or not len(mean) == len(std) == shape[2] or not all(value > 0 for value in std):
        raise ValueError("classes, mean or deviation are missing or don't fit the images")
    # Without memory: what a stranger's file asks for is only taken once its own tensors fit.
    with torch.device("meta"):
        model = build(recipe, shape[2], len(classes))
    for name, planned in model.state_dict().items():
        if name in tensors and tensors[name].dtype != planned.dtype:
            raise ValueError(f"{name}: expected {planned.dtype}, found {tensors[name].dtype}")
    model.load_state_dict(tensors, assign=True)
    model.eval()
    return Trained(model, recipe, classes, shape, mean, std)


def _image_shape(about: Fields) -> tuple[int, int, int]:
    shape = about.items("image_shape")
    if len(shape) != 3 or not all(type(side) is int and 0 < side <= MAX_VALUES for side in shape):
        raise ValueError(f"image_shape: expected height, width and channels, found {shape!r}"[:500])
    height, width, channels = shape
    if height * width * channels > MAX_VALUES:
        raise ValueError(f"image_shape: expected at most {MAX_VALUES} values, found {shape!r}")
    return height, width, channels
