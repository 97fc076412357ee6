"""DavidNet: the 9-layer ResNet that won DAWNBench.

Source: davidcpage/cifar10-fast, dawn.py and torch_backend.py; views from the same author's
bag_of_tricks.ipynb.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from prebake.train.models import Model

__all__ = ["MODEL", "DavidNet"]


class ConvBN(nn.Module):
    """3x3 convolution without bias, batch norm, activation, and an optional 2x2 max pool.

    The original pools after the activation. Both activations are monotone: pooling before them gives the same values
    and gradients at a quarter of the activation's cost. `pool_first` pools before batch norm too, which gives others.

    Raises:
        ValueError: `celu_alpha` is negative.
    """

    def __init__(
        self, inputs: int, outputs: int, celu_alpha: float, *, pool: bool = False, pool_first: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= celu_alpha < math.inf:
            raise ValueError(f"celu_alpha: expected 0 or more, found {celu_alpha}")
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool: nn.Module = nn.MaxPool2d(2) if pool else nn.Identity()
        self.activation: nn.Module = nn.CELU(celu_alpha, inplace=True) if celu_alpha else nn.ReLU(inplace=True)
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W), or half the height and width where it pools."""
        x = self.conv(x)
        x = self.norm(self.pool(x)) if self.pool_first else self.pool(self.norm(x))
        activated: Tensor = self.activation(x)
        return activated


class MaxPoolHead(nn.Linear):
    """The maximum of each channel, a linear layer without bias, and a factor on the logits.

    Raises:
        ValueError: `scale` is not over 0.
    """

    def __init__(self, inputs: int, classes: int, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"head_scale: expected a number over 0, found {scale}")
        super().__init__(inputs, classes, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> logits (N, classes)."""
        # Not amax: its backward pass looks for the maximum among the inputs. A compiled one in bfloat16 compares a
        # rounded maximum with inputs that are not, may find none, and divides 0 by 0. A pool remembers positions.
        pooled = F.max_pool2d(features, features.shape[2:]).flatten(1)
        return super().forward(pooled) * self.scale


class Residual(nn.Module):
    """x + conv_bn(conv_bn(x)); nothing follows the addition."""

    def __init__(self, channels: int, celu_alpha: float) -> None:
        super().__init__()
        self.first = ConvBN(channels, channels, celu_alpha)
        self.second = ConvBN(channels, channels, celu_alpha)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape."""
        added: Tensor = x + self.second(self.first(x))
        return added


class DavidNet(nn.Module):
    """The network, for images of 8x8 and more: the last max pool covers the whole map.

    Args:
        channels: of the images.
        classes: how many.
        celu_alpha: alpha of the CELU activation; 0 for ReLU.
        pool_first: pool before batch norm instead of after it.
        head_scale: factor on the logits.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        celu_alpha: float = 0.0,
        pool_first: bool = False,
        head_scale: float = 0.125,
    ) -> None:
        super().__init__()

        def down(inputs: int, outputs: int) -> ConvBN:
            return ConvBN(inputs, outputs, celu_alpha, pool=True, pool_first=pool_first)

        self.prep = ConvBN(channels, 64, celu_alpha)
        self.layer1 = nn.Sequential(down(64, 128), Residual(128, celu_alpha))
        self.layer2 = down(128, 256)
        self.layer3 = nn.Sequential(down(256, 512), Residual(512, celu_alpha))
        self.head = MaxPoolHead(512, classes, head_scale)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.layer3(self.layer2(self.layer1(self.prep(images))))
        logits: Tensor = self.head(features)
        return logits


MODEL = Model(DavidNet, smallest_side=8)
