"""ResNet-34, twice as wide, for small images.

Source: He et al. (arXiv 1512.03385), table 1, with a 3x3 stem that does not pool, since 32x32 leaves nothing to
pool away; widened as in arXiv 1605.07146.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from prebake.train.models import Model

__all__ = ["MODEL", "ResNet34Wide"]


class ResNet34Wide(nn.Module):
    """Groups of 3, 4, 6 and 3 blocks, 128 to 1,024 channels wide, then the mean of each channel.

    Args:
        channels: of the images.
        classes: how many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (128, 256, 512, 1024)
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]))
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for outputs, count in zip(widths, (3, 4, 6, 3), strict=True):
            for _ in range(count):
                blocks.append(_block(inputs, outputs))
                inputs = outputs
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        logits: Tensor = self.head(self.body(F.relu(self.stem(images))).mean((2, 3)))
        return logits


def _block(inputs: int, outputs: int) -> nn.Module:
    same = inputs == outputs
    shortcut = None if same else nn.Sequential(conv1x1(inputs, outputs, 2), nn.BatchNorm2d(outputs))
    block: nn.Module = BasicBlock(inputs, outputs, 1 if same else 2, shortcut)
    return block


MODEL = Model(ResNet34Wide, smallest_side=8)
