"""The same with Hugging Face Accelerate. Its own checkpoint brings back epoch and position.

pip install accelerate
prebake precompute --dataset digits --epochs 25
accelerate launch -m examples.accelerate_loop shards/digits
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from prebake import Loader


def main(path: str, out: str = "runs/accelerate_loop") -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    # The loader puts batches on the device, and gives each process its own. So `prepare` leaves it as it is.
    loader = Loader(path, "train", batch_size=64, device=accelerator.device, drop_last=True)
    height, width, channels = loader.data.image_shape("train")
    model: nn.Module = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), len(loader.data.classes)),
    )  # fmt: skip
    model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=3e-3), loader)
    accelerator.register_for_checkpointing(loader)
    if Path(out).exists():
        accelerator.load_state(out)

    for _ in range(loader.epoch, loader.data.epochs):
        for images, labels in loader:
            accelerator.backward(F.cross_entropy(model(images), labels))
            optimizer.step()
            optimizer.zero_grad()
        accelerator.save_state(out)

    with torch.no_grad():
        test = Loader(path, "test", batch_size=500, device=accelerator.device)
        correct = sum((model(images).argmax(1) == labels).sum() for images, labels in test)
    accelerator.print(f"test accuracy {accelerator.reduce(correct).item() / test.data.samples('test'):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
