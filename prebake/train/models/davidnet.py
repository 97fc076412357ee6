"""DavidNet: the 9-layer ResNet that won DAWNBench.

Source: davidcpage/cifar10-fast, dawn.py and torch_backend.py; views from the same author's
bag_of_tricks.ipynb.
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DavidNet"]


class ConvBN(nn.Module):
    """3x3 convolution without bias, batch norm, activation, and perhaps a 2x2 max pool.

    The original pools after the activation. Both activations are monotone, so that the maximum may be
    taken before them, on the same values and gradients, at a quarter of the activation's cost.
    `pool_first` takes it before batch norm too, which is another net.
    """

    def __init__(
        self, inputs: int, outputs: int, celu_alpha: float, *, pool: bool = False, pool_first: bool = False
    ) -> None:
        super().__init__()
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
    """The net, for images of any size from 8x8: the last max pool takes whatever is left.

    Args:
        channels: of the images.
        classes: how many.
        celu_alpha: of the CELU that takes ReLU's place; 0 for ReLU.
        pool_first: pool before batch norm instead of after the activation.
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
        self.head = nn.Linear(512, classes, bias=False)
        self.head_scale = head_scale

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.layer3(self.layer2(self.layer1(self.prep(images))))
        # Not amax: in bfloat16 a compiled backward pass may not find the maximum again, which it holds rounded,
        # among values that it does not round, and then divides 0 by 0. A pool remembers places.
        pooled = F.max_pool2d(features, features.shape[2:]).flatten(1)
        logits: Tensor = self.head(pooled) * self.head_scale
        return logits
