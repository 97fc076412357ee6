"""The plain loop again, with PyTorch Lightning.

pip install lightning
python -m precompute --dataset digits --epochs 25
python -m examples.lightning_loop shards/digits
"""

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from prebake.loader.device_feed import Converter
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream


class Epochs:
    """What Lightning takes for a DataLoader: the next baked epoch each time, or the test split again."""

    def __init__(self, data: ShardSet, split: str, batch_size: int) -> None:
        self.data, self.split, self.batch_size, self.played = data, split, batch_size, 0
        self.convert = Converter(data.plan, torch.device("cpu"), torch.float32)

    def __len__(self) -> int:
        return -(-self.data.samples(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.played % self.data.epochs if self.split == "train" else 0
        self.played += 1
        with Stream(self.data, self.split, [epoch], self.batch_size) as stream:
            for images, labels in stream:
                # The stream's memory is used again, and Lightning may hold a batch for longer.
                yield self.convert(images).clone(), labels.clone()


class Net(LightningModule):
    """One convolution and one linear layer."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = image_shape
        self.net = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(32 * (height // 2) * (width // 2), classes),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the accuracy on one batch; Lightning weighs it by the batch's size."""
        images, labels = batch
        right = (self.net(images).argmax(1) == labels).float().mean()
        self.log("accuracy", right, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(path: str) -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    data = ShardSet(path)
    torch.manual_seed(0)
    model = Net(data.image_shape("train"), len(data.classes))
    trainer = Trainer(
        max_epochs=data.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, Epochs(data, "train", 64))
    (scores,) = trainer.test(model, Epochs(data, "test", 100), verbose=False)
    print(f"test accuracy {scores['accuracy']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
