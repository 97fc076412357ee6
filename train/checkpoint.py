"""Checkpoints: a run's state between two epochs."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch

from shards.errors import DataError
from shards.writer import write_whole

__all__ = ["load_checkpoint", "save_checkpoint"]

# What `train.loop.Trainer.save` returns.
PARTS = {"model", "optimizer", "scheduler", "scaler", "state"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; raises OSError."""
    data = io.BytesIO()
    torch.save(state, data)
    write_whole(path, data.getvalue())


def load_checkpoint(path: Path, device: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; no code in it is run.

    Raises:
        DataError: not such a file, or damaged.
    """
    advice = "--overwrite starts the run anew"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # over a foreign file the unpickler raises anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a checkpoint ({reason}); {advice}") from None
    if not isinstance(state, dict) or set(state) != PARTS:
        raise DataError(f"{path}: not a checkpoint of this release; {advice}")
    return state
