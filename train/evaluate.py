"""Evaluation on a held-out split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from shards import ShardSet
from train.device import PRECISIONS, autocast
from train.feed import Converter, feed
from train.stream import Stream

__all__ = ["Score", "evaluate"]

BATCH_SIZE = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0 to 1); `accuracy_tta` is None where flips make no sense."""

    loss: float
    accuracy: float
    accuracy_tta: float | None


@torch.no_grad()
def evaluate(
    model: nn.Module, data: ShardSet, split: str, device: torch.device, precision: str, *, tta: bool = False
) -> Score:
    """Score the model on a split; with `tta` also with the logits of image and mirror image added."""
    model.eval()
    convert = Converter(data.plan, device, PRECISIONS[precision])
    loss, right, right_tta = (
        torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device) for _ in range(3)
    )
    with Stream(data, split, [0], BATCH_SIZE, pin=device.type == "cuda") as stream:
        for images, labels in feed(stream, convert, device):
            with autocast(device, precision):
                logits = model(images).float()
                mirrored = model(images.flip(-1)).float() if tta else logits
            loss += F.cross_entropy(logits, labels, reduction="sum")
            right += (logits.argmax(1) == labels).sum()
            right_tta += ((logits + mirrored).argmax(1) == labels).sum()
    model.train()
    count = data.samples(split)
    return Score(loss.item() / count, right.item() / count, right_tta.item() / count if tta else None)
