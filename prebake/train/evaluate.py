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
MIRRORING = {"random", "alternate"}  # the values of `flip` that mirror training images


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0 to 1), without and with test-time augmentation.

    Attributes:
        accuracy_tta: with mirror images; None without test-time augmentation or if training images were not flipped.
        accuracy_shift_tta: also with shifted copies; None without test-time augmentation.
    """

    loss: float
    accuracy: float
    accuracy_tta: float | None = None
    accuracy_shift_tta: float | None = None


@dataclass(frozen=True)
class Predictions:
    """A model's logits for each sample of a split, in the order of the shards.

    Attributes:
        split: name of the split.
        labels_N: int64. All tensors are on the CPU.
        logits_NK: float32, one column per class.
        mirrored_NK: logits of the mirror images; None if the training images were not flipped.
        shifted_NK: mean logits of the two shifted copies; if there are mirror images, plus the mean of theirs.
    """

    split: str
    labels_N: Tensor
    logits_NK: Tensor
    mirrored_NK: Tensor | None = None
    shifted_NK: Tensor | None = None

    def score(self) -> Score:
        """Return loss and accuracies. Unshifted images have half the weight in `accuracy_shift_tta`."""
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
    """Return the name of the split that a finished run is evaluated on: test, else val, else None."""
    return next((split for split in ("test", "val") if split in data.splits), None)


def final_shape(data: ShardSet) -> tuple[int, int, int]:
    """Return (H, W, C) of the images of `final_split`; without such a split, of the last training epoch."""
    split = final_split(data)
    return data.image_shape(split, 0) if split else data.image_shape("train", data.epochs - 1)


def shifted(images: Tensor, pixels: int) -> Tensor:
    """Shift images diagonally, and fill the border by reflection without repeating the edge, as mode "reflect".

    Args:
        images: (..., H, W), of any dtype, on any device.
        pixels: distance in pixels, less than H and W. Positive is down and right, negative is up and left.

    Returns:
        A copy of the same shape.
    """
    rows, columns = (_sources(side, pixels, images.device) for side in images.shape[-2:])
    return images[..., rows, :][..., columns]


def _sources(side: int, pixels: int, device: torch.device) -> Tensor:
    """Return the source index of each pixel along a side."""
    last = side - 1
    unreflected = torch.arange(side, device=device) - pixels
    return last - (last - unreflected.abs()).abs()


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
    """Return a model's logits for a whole split.

    The batches are divided among the processes. With `tta` (test-time augmentation), the model also sees two copies
    shifted by one pixel. If the training images were flipped, it also sees the mirror images of all three. This is the
    scheme of airbench (Jordan, arXiv 2404.00498).

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
    mirrors = tta and data.plan.augmentation.get("flip") in MIRRORING

    def forward(images: Tensor) -> Tensor:
        with autocast(device, precision):
            logits: Tensor = model(images)
        return logits.float()

    labels, logits, mirrored, shifts = [], [], [], []
    for images, batch_labels in loader:
        logits.append(forward(images))
        if mirrors:
            mirrored.append(forward(images.flip(-1)))
        if tta:
            copies = [shifted(images, pixels) for pixels in (-1, 1)]
            copies += [copy.flip(-1) for copy in copies] if mirrors else []
            shifts.append(torch.stack([forward(copy) for copy in copies]).sum(0) / 2)
        labels.append(batch_labels.clone())  # the next batch overwrites them
    model.train()

    def gathered(batches: list[Tensor]) -> Tensor:
        return torch.cat(processes.gather_interleaved([batch.cpu() for batch in batches]))

    return Predictions(
        split,
        gathered(labels),
        gathered(logits),
        gathered(mirrored) if mirrors else None,
        gathered(shifts) if tta else None,
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
