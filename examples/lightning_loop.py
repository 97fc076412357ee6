"""The same with PyTorch Lightning. Its own checkpoint brings back epoch and position.

pip install lightning
prebake precompute --dataset digits --epochs 25
python -m examples.lightning_loop shards/digits
"""

import sys

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from prebake import Loader


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
        """Log the accuracy on one batch. Lightning averages it over the samples."""
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(path: str, out: str = "runs/lightning_loop") -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    torch.manual_seed(0)
    loader = Loader(path, "train", batch_size=64, drop_last=True)
    model = Net(loader.data.image_shape("train"), len(loader.data.classes))
    saving = ModelCheckpoint(out, save_last=True, every_n_train_steps=10)
    trainer = Trainer(max_epochs=loader.data.epochs, callbacks=[saving], logger=False)
    trainer.fit(model, loader, ckpt_path="last")  # goes on where the last run stopped
    (scores,) = trainer.test(model, Loader(path, "test", batch_size=100), verbose=False)
    print(f"test accuracy {scores['accuracy']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
