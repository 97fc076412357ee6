"""Evaluation on a held-out split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.train.device import PRECISIONS, autocast
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup

__all__ = ["Predictions", "Score", "evaluate", "final_shape", "final_split", "predict", "shifted"]

BATCH_SIZE = 500


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0 to 1), of the images as they are and with test-time augmentation.

    Attributes:
        accuracy_tta: with mirror images; None where flips make no sense, or it was not asked for.
        accuracy_shift_tta: with shifted copies too; None where it was not asked for.
    """

    loss: float
    accuracy: float
    accuracy_tta: float | None = None
    accuracy_shift_tta: float | None = None


@dataclass(frozen=True)
class Predictions:
    """What a model says of each sample of a split, in the order of the shards.

    Attributes:
        split: which one.
        labels_N: int64, on the CPU, as those below.
        logits_NK: float32, a column a class.
        mirrored_NK: likewise, of the mirror images; None where flips make no sense.
        shifted_NK: likewise, the mean of both shifted copies, where flips make sense each with its mirror image added.
    """

    split: str
    labels_N: Tensor
    logits_NK: Tensor
    mirrored_NK: Tensor | None = None
    shifted_NK: Tensor | None = None

    def score(self) -> Score:
        """Sum it up; the image and its mirror image count as much as both shifted copies and theirs together."""
        losses_N = F.cross_entropy(self.logits_NK, self.labels_N, reduction="none")
        both_NK = self.logits_NK if self.mirrored_NK is None else self.logits_NK + self.mirrored_NK
        return Score(
            loss=losses_N.double().mean().item(),
            accuracy=self._accuracy(self.logits_NK),
            accuracy_tta=None if self.mirrored_NK is None else self._accuracy(both_NK),
            accuracy_shift_tta=None if self.shifted_NK is None else self._accuracy(both_NK + self.shifted_NK),
        )

    def _accuracy(self, logits_NK: Tensor) -> float:
        return (logits_NK.argmax(1) == self.labels_N).double().mean().item()


def final_split(data: ShardSet) -> str | None:
    """Name the split that a finished run is judged by: test, else val, else none."""
    return next((split for split in ("test", "val") if split in data.splits), None)


def final_shape(data: ShardSet) -> tuple[int, int, int]:
    """Return height, width and channels of the images that a finished run is judged by, or else of its last epoch's."""
    split = final_split(data)
    return data.image_shape(split, 0) if split else data.image_shape("train", data.epochs - 1)


def shifted(images: Tensor, pixels: int) -> Tensor:
    """Move images diagonally, and fill the border with their reflection, which does not repeat the outermost pixels.

    Args:
        images: (..., H, W), of any dtype, on any device.
        pixels: how far, less than H and W: down and to the right, or where negative up and to the left.

    Returns:
        A copy of the same shape.
    """
    rows, columns = (_sources(side, pixels, images.device) for side in images.shape[-2:])
    return images[..., rows, :][..., columns]


def _sources(side: int, pixels: int, device: torch.device) -> Tensor:
    """Return for each place along a side where its pixel comes from."""
    last = side - 1
    wanted = torch.arange(side, device=device) - pixels
    return last - (last - wanted.abs()).abs()


@torch.no_grad()
def predict(
    model: nn.Module,
    data: ShardSet,
    split: str,
    device: torch.device,
    precision: str,
    *,
    tta: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Predictions:
    """Ask the model for a whole split.

    Batches are dealt to the processes one by one, so that each is the one that a single process would ask for.

    With `tta` also for copies that are shifted by a pixel, and where the training images were flipped for the mirror
    images of all three, as Jordan does in airbench (arXiv 2404.00498).

    Raises:
        DataError: shards missing or damaged.
    """
    model.eval()
    loader = Loader(
        data,
        split,
        batch_size=BATCH_SIZE,
        device=device,
        dtype=PRECISIONS[precision],
        rank=processes.rank,
        world_size=processes.size,
        reuse_buffers=True,
    )
    mirrors = tta and data.plan.augmentation.get("flip", "none") != "none"

    def ask(images: Tensor) -> Tensor:
        with autocast(device, precision):
            logits: Tensor = model(images)
        return logits.float()

    labels, logits, mirrored, moved = [], [], [], []
    for images, labels_here in loader:
        logits.append(ask(images))
        if mirrors:
            mirrored.append(ask(images.flip(-1)))
        if tta:
            copies = [shifted(images, pixels) for pixels in (-1, 1)]
            copies += [copy.flip(-1) for copy in copies] if mirrors else []
            moved.append(torch.stack([ask(copy) for copy in copies]).sum(0) / 2)
        labels.append(labels_here.clone())  # the next batch overwrites them
    model.train()

    def whole(mine: list[Tensor]) -> Tensor:
        return torch.cat(processes.gather_interleaved([batch.cpu() for batch in mine]))

    return Predictions(
        split, whole(labels), whole(logits), whole(mirrored) if mirrors else None, whole(moved) if tta else None
    )


def evaluate(
    model: nn.Module,
    data: ShardSet,
    split: str,
    device: torch.device,
    precision: str,
    *,
    tta: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Score:
    """Score the model on a split; with `tta` also with test-time augmentation."""
    return predict(model, data, split, device, precision, tta=tta, processes=processes).score()
