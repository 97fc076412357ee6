"""Checkpoints: a run's state between two epochs."""

import pickle
from pathlib import Path
from typing import Any

import torch

from shards.errors import DataError

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; no code in it is run.

    Raises:
        DataError: not such a file, or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a checkpoint ({reason}); --overwrite starts the run anew") from None
    return state
