"""A model of your own in a plain loop. It resumes from its checkpoint, if there is one.

prebake precompute --dataset digits --epochs 25
python -m examples.plain_loop shards/digits
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prebake import Loader


def main(path: str, out: str = "runs/plain_loop") -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    torch.manual_seed(0)
    device, checkpoint = "cuda" if torch.cuda.is_available() else "cpu", Path(out, "checkpoint.pt")
    loader = Loader(path, "train", batch_size=64, device=device, drop_last=True)
    height, width, channels = loader.data.image_shape("train")
    model = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), len(loader.data.classes)),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    if checkpoint.exists():
        for name, state in torch.load(checkpoint).items():
            parts[name].load_state_dict(state)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)

    for _ in range(loader.epoch, loader.data.epochs):
        for images, labels in loader:  # (N, C, H, W), normalized; and (N,)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)

    with torch.no_grad():
        test = Loader(path, "test", batch_size=500, device=device)
        correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in test)
    print(f"test accuracy {correct / test.data.samples('test'):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
