"""Evaluation on a held-out split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import ShardSet
from train.device import PRECISIONS, autocast
from train.feed import Converter, feed
from train.stream import Stream

__all__ = ["Predictions", "Score", "evaluate", "final_split", "predict"]

BATCH_SIZE = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0 to 1); `accuracy_tta` is None where flips make no sense."""

    loss: float
    accuracy: float
    accuracy_tta: float | None


@dataclass(frozen=True)
class Predictions:
    """What a model says of each sample of a split, in the order of the shards.

    Attributes:
        split: which one.
        labels_N: int64, on the CPU, as the two below.
        logits_NK: float32, a column a class.
        mirrored_NK: likewise, of the mirror images; None where flips make no sense.
    """

    split: str
    labels_N: Tensor
    logits_NK: Tensor
    mirrored_NK: Tensor | None

    def score(self) -> Score:
        """Sum it up; for `accuracy_tta` the logits of image and mirror image are added."""
        losses_N = F.cross_entropy(self.logits_NK, self.labels_N, reduction="none")
        accuracy_tta = None if self.mirrored_NK is None else self._accuracy(self.logits_NK + self.mirrored_NK)
        return Score(losses_N.double().mean().item(), self._accuracy(self.logits_NK), accuracy_tta)

    def _accuracy(self, logits_NK: Tensor) -> float:
        return (logits_NK.argmax(1) == self.labels_N).double().mean().item()


def final_split(data: ShardSet) -> str | None:
    """Name the split that a finished run is judged by: test, else val, else none."""
    return next((split for split in ("test", "val") if split in data.splits), None)


@torch.no_grad()
def predict(
    model: nn.Module, data: ShardSet, split: str, device: torch.device, precision: str, *, tta: bool = False
) -> Predictions:
    """Ask the model for a whole split; with `tta` for its mirror images too.

    Raises:
        DataError: shards missing or damaged.
    """
    model.eval()
    convert = Converter(data.plan, device, PRECISIONS[precision])
    labels, logits, mirrored = [], [], []
    with Stream(data, split, [0], BATCH_SIZE, pin=device.type == "cuda") as stream:
        for images, labels_here in feed(stream, convert, device):
            with autocast(device, precision):
                logits.append(model(images).float())
                if tta:
                    mirrored.append(model(images.flip(-1)).float())
            labels.append(labels_here.clone())  # the stream's own memory, which the next batch takes
    model.train()
    return Predictions(
        split, torch.cat(labels).cpu(), torch.cat(logits).cpu(), torch.cat(mirrored).cpu() if tta else None
    )


def evaluate(
    model: nn.Module, data: ShardSet, split: str, device: torch.device, precision: str, *, tta: bool = False
) -> Score:
    """Score the model on a split; with `tta` also with the logits of image and mirror image added."""
    return predict(model, data, split, device, precision, tta=tta).score()
