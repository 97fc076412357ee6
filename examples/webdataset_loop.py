"""Reading shards with plain webdataset: nothing of prebake is imported.

prebake precompute --dataset digits --epochs 25
python -m examples.webdataset_loop shards/digits

Float shards hold normalized pixels. Those of `--dtype uint8` are still to be normalized, by mean and deviation of
manifest.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import webdataset as wds
from torch import nn


def records(urls: list[Path]) -> wds.WebDataset:
    """Yield (images (N, H, W, C), labels (N,)) a record of 128 samples or fewer, in the shuffled order of the bake."""
    return wds.WebDataset(list(map(str, urls)), shardshuffle=False).decode().to_tuple("images.npy", "labels.npy")


def main(path: str) -> None:
    """Train on every baked epoch, a record being a batch, then print the accuracy on the test split."""
    manifest = json.loads((Path(path) / "manifest.json").read_text())
    height, width, channels = manifest["columns"][0]["shape"]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),  # (N, H, W, C) as stored
        nn.Linear(height * width * channels, 128), nn.ReLU(), nn.Linear(128, len(manifest["source"]["classes"])),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    # The names sort by epoch: train-e000-000.tar, train-e000-001.tar, ..., train-e001-000.tar, ...
    for images, labels in records(sorted(Path(path).glob("train-e*.tar"))):
        F.cross_entropy(model(torch.from_numpy(images).float()), torch.from_numpy(labels)).backward()
        optimizer.step()
        optimizer.zero_grad()

    right = count = 0
    with torch.no_grad():
        for images, labels in records(sorted(Path(path).glob("test-*.tar"))):
            right += (model(torch.from_numpy(images).float()).argmax(1) == torch.from_numpy(labels)).sum().item()
            count += len(labels)
    print(f"test accuracy {right / count:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
