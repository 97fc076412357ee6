"""The weights file of a finished run: the tensors of the model, and the metadata needed to use it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prebake.errors import DataError, UsageError, quote
from prebake.format.document import Fields
from prebake.train.models import AnyModel, Model, find_model, is_users_own
from prebake.train.recipes import Recipe, recipe_from
from prebake.train.tensors import read_tensors, write_tensors

__all__ = ["Trained", "load_weights", "save_weights"]

MAX_VALUES = 2**30  # per image; limits the memory that an untrusted file can take


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: the network.
        recipe: the recipe of its training.
        classes: names of the classes, in the order of the logits.
        image_shape: (H, W, C).
        mean: mean of each channel, for pixels from 0 to 1.
        std: standard deviation of each channel, likewise.
    """

    model: nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def save_weights(path: Path, trained: Trained) -> None:
    """Write a safetensors file atomically. Its metadata holds all fields except the model."""
    about = {
        "recipe": asdict(trained.recipe),
        "classes": trained.classes,
        "image_shape": trained.image_shape,
        "mean": trained.mean,
        "std": trained.std,
    }
    write_tensors(path, trained.model.state_dict(), about)


def load_weights(path: Path, model: AnyModel | None = None) -> Trained:
    """Read a file that `save_weights` wrote. The model is on the CPU and in evaluation mode.

    The file may be untrusted. No code is imported because the file names it: a user's model is imported only if the
    caller passes it. The memory used is limited to a few times the file's size.

    Args:
        path: path of the file.
        model: the model of the run, if it is defined by the user; not used for built-in models.

    Raises:
        DataError: the file is missing, or is not a weights file.
        UsageError: `model` is needed, does not exist, or does not fit the weights.
    """
    if not path.is_file():
        raise DataError(f"{path}: no weights here; name the directory of a finished run, runs/...")
    try:
        tensors, about = read_tensors(path)
        recipe = recipe_from(about.fields("recipe").content)
    except (DataError, UsageError, ValueError) as error:
        raise _unusable(path, error) from None
    found = None
    if is_users_own(recipe.model):
        if model is None:
            raise UsageError(
                f"{path}: trained with a model of your own, {quote(recipe.model)}. prebake imports no code that a run "
                "names: give the option --model FILE.py:NAME again, where NAME is a class or a function that builds it"
            )
        found = find_model(model)
    try:
        return _trained(tensors, about, recipe, found or find_model(recipe.model))
    except _MismatchError as error:
        raise UsageError(
            f"--model: the model that {found.name if found else recipe.model} builds does not fit the weights in "
            f"{path} ({error}). Name the class or function that the run was trained with, {quote(recipe.model)}, "
            "as FILE.py:NAME"
        ) from None
    except (DataError, UsageError, TypeError, ValueError, RuntimeError) as error:
        raise _unusable(path, error) from None


class _MismatchError(Exception):
    """The user's model cannot be built, or the weights are of another one."""


def _unusable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not the weights of a run ({error}); train again with --overwrite")


def _trained(tensors: dict[str, Tensor], about: Fields, recipe: Recipe, model: Model) -> Trained:
    classes, shape = about.texts("classes"), _image_shape(about)
    mean, std = about.numbers("mean"), about.numbers("std")
    if not classes or not len(mean) == len(std) == shape[2] or not all(value > 0 for value in std):
        raise ValueError("classes, mean or std are missing or do not fit the images")
    own = is_users_own(recipe.model)
    if unknown := set(recipe.model_options) - set(model.options):
        raise (_MismatchError if own else ValueError)(f"{recipe.model} has no option {quote(min(unknown))}")

    def build() -> nn.Module:
        return model.build(shape[2], len(classes), shape[:2], recipe.model_options)

    if own:
        try:
            network = build()
            network.load_state_dict(tensors)
        except (UsageError, TypeError, ValueError, RuntimeError) as error:
            raise _MismatchError(" ".join(str(error).split())[:500]) from error
    else:
        # The meta device allocates no memory. Memory is allocated only if the tensors of the file fit the model.
        with torch.device("meta"):
            network = build()
        for name, planned in network.state_dict().items():
            if name in tensors and tensors[name].dtype != planned.dtype:
                raise ValueError(f"{name}: expected {planned.dtype}, found {tensors[name].dtype}")
        network.load_state_dict(tensors, assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):  # timm computes some buffers and does not save them
            network = build()
            network.load_state_dict(tensors)
    network.eval()
    return Trained(network, recipe, classes, shape, mean, std)


def _image_shape(about: Fields) -> tuple[int, int, int]:
    shape = about.items("image_shape")
    if len(shape) != 3 or not all(type(side) is int and 0 < side <= MAX_VALUES for side in shape):
        raise ValueError(f"image_shape: expected height, width and channels, found {shape!r}"[:500])
    height, width, channels = shape
    if height * width * channels > MAX_VALUES:
        raise ValueError(f"image_shape: expected at most {MAX_VALUES} values, found {shape!r}")
    return height, width, channels
