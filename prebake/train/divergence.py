"""Errors for a loss or a weight that is not finite."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prebake.errors import DivergedError, listed
from prebake.loader.order import reading_order
from prebake.loader.shard_set import ShardSet
from prebake.train.recipes import schedule
from prebake.train.state import Settings

__all__ = ["not_finite", "of_held_out", "of_step", "of_weights"]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors with a value that is not finite. Synchronizes with the device."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def of_step(data: ShardSet, settings: Settings, epoch: int, step: int, loss: float, view: int) -> DivergedError:
    """Return an error that names the step, its learning rate and its images.

    Args:
        data: the shard set.
        settings: settings of the run.
        epoch: epoch of the run.
        step: step in that epoch.
        loss: loss of that step.
        view: epoch of the shards that the step read.

    Raises:
        DataError: the shards can no longer be read.
    """
    size = settings.recipe.batch_size
    steps_per_epoch = data.samples("train") // size
    number = epoch * steps_per_epoch + step
    rates, _ = schedule(settings.recipe, steps_per_epoch * settings.recipe.epochs)
    order = reading_order(data, "train", view, settings.shuffle_seed, epoch)
    images = data.source_indices("train", view, step * size, (step + 1) * size, order).tolist()
    return _diverged(
        settings,
        f"{data.name}: the loss of step {number + 1} of {len(rates)} (epoch {epoch}, lr {rates[number]:.4g}) is "
        f"{loss}, on a batch of {size} images with the source indices {listed([str(image) for image in images])}",
        {"step": number, "epoch": epoch, "lr": rates[number], "loss": str(loss), "images": images},
    )


def of_weights(data: ShardSet, settings: Settings, steps: int, names: Sequence[str]) -> DivergedError:
    """Return an error for weights, statistics or momentum that are not finite after `steps` steps."""
    return _diverged(
        settings, f"{data.name}: not finite after step {steps}: {listed(names, 3)}", {"steps": steps, "names": names}
    )


def of_held_out(data: ShardSet, settings: Settings, epoch: int, split: str, loss: float) -> DivergedError:
    """Return an error for a held-out loss that is not finite although the training loss is finite."""
    return _diverged(
        settings,
        f"{data.name}: the {split} loss after epoch {epoch} is {loss}, and the training loss was finite",
        {"epoch": epoch, "split": split, "loss": str(loss)},
    )


def _diverged(settings: Settings, message: str, facts: Mapping[str, Any]) -> DivergedError:
    return DivergedError(f"{message}; a lower --lr than {settings.recipe.peak_lr} may help", facts)
