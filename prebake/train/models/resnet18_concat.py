"""A pre-activation ResNet-18 whose head sees mean and maximum of each channel.

Source: He et al., "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), with the concatenated pooling
of fast.ai's DAWNBench entry (sgugger/dawnbench).
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prebake.train.models import Model

__all__ = ["MODEL", "ResNet18Concat"]


class Block(nn.Module):
    """Batch norm, ReLU and 3x3 convolution, twice; the shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # modules: heat maps hook their outputs
        self.project = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        activated = self.relu1(self.norm1(x))
        shortcut = x if self.project is None else self.project(activated)
        added: Tensor = shortcut + self.conv2(self.relu2(self.norm2(self.conv1(activated))))
        return added


class ResNet18Concat(nn.Module):
    """Four groups of two blocks, 64 to 512 channels wide.

    Args:
        channels: of the images.
        classes: how many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        self.body = nn.Sequential(
            *(Block(inputs, outputs, 1 if inputs == outputs else 2) for inputs, outputs in itertools.pairwise(widths))
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.head = nn.Linear(2 * widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.relu(self.norm(self.body(self.stem(images))))
        highest = F.max_pool2d(features, features.shape[2:]).flatten(1)
        logits: Tensor = self.head(torch.cat([features.mean((2, 3)), highest], 1))
        return logits


MODEL = Model(ResNet18Concat, smallest_side=8)
