"""Your own model on the stream, in a plain loop.

python -m precompute --dataset digits --epochs 25
python -m examples.plain_loop shards/digits
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from prebake.loader.device_feed import Converter, feed
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream


def main(path: str) -> None:
    """Train on every baked epoch, then print the accuracy on the test split."""
    data = ShardSet(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    height, width, channels = data.image_shape("train")
    model = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), len(data.classes)),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    convert, pin = Converter(data.plan, device, torch.float32), device.type == "cuda"

    with Stream(data, "train", range(data.epochs), batch_size=64, drop_last=True, pin=pin) as stream:
        for images, labels in feed(stream, convert, device):  # (N, C, H, W), normalized; and (N,)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    with torch.no_grad(), Stream(data, "test", [0], batch_size=500, pin=pin) as stream:
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in feed(stream, convert, device))
    print(f"test accuracy {right / data.samples('test'):.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
