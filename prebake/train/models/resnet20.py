"""ResNet-20 for small images.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), section 4.2, with projection
shortcuts (option B) where the shape changes.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from prebake.train.models import Model

__all__ = ["MODEL", "ResNet20"]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_bn(inputs, outputs, 3, stride)
        self.second = _conv_bn(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three groups of three blocks, 16, 32 and 64 channels wide, then the mean of each channel.

    Args:
        channels: of the images.
        classes: how many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _conv_bn(channels, 16, 3, 1)
        widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
        self.body = nn.Sequential(
            *(Block(inputs, outputs, 1 if inputs == outputs else 2) for inputs, outputs in itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        logits: Tensor = self.head(self.body(F.relu(self.stem(images))).mean((2, 3)))
        return logits


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


MODEL = Model(ResNet20, smallest_side=8)
