"""FastNet: a small net that learns fast, behind a stem that whitens its input.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498): widths, whitening, GELU,
convolutions that begin as identities. The whitening is Page's (bag_of_tricks.ipynb of davidcpage/cifar10-fast).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FastNet"]

WIDTHS = (64, 256, 256)
SIDE = 2  # of the patches that the stem whitens
# Added to the variances, that directions of next to no variance are not blown up.
LEAST_VARIANCE = 5e-4


class FastNet(nn.Module):
    """A stem of 2x2, three blocks of two convolutions, and a linear head.

    Args:
        channels: of the images, which are 8x8 at least.
        classes: how many.
        head_scale: factor on the logits.
        whiten: whether the stem's filters are fixed, to what `whiten` makes of images; else they are trained.
    """

    def __init__(self, channels: int, classes: int, *, head_scale: float = 1 / 9, whiten: bool = True) -> None:
        super().__init__()
        filters = 2 * channels * SIDE * SIDE
        self.stem = nn.Conv2d(channels, filters, SIDE)
        self.stem.weight.requires_grad = not whiten
        self.blocks = nn.Sequential(*map(Block, (filters, *WIDTHS[:-1]), WIDTHS))
        self.head = nn.Linear(WIDTHS[-1], classes, bias=False)
        self.head_scale = head_scale

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.blocks(F.gelu(self.stem(images)))
        pooled = F.max_pool2d(features, features.shape[2:]).flatten(1)
        logits: Tensor = self.head(pooled) * self.head_scale
        return logits

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the stem to the directions in which the patches of these images vary, each to variance 1, and both signs.

        Args:
            images: (N, channels, H, W) float32, normalized.
        """
        patches = F.unfold(images, SIDE).transpose(1, 2).flatten(0, 1).double()
        patches -= patches.mean(0)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + LEAST_VARIANCE).sqrt()).T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat((filters, -filters)))


class Block(nn.Module):
    """Convolution, pool, batch norm, GELU; convolution, batch norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _identity(inputs, outputs), _identity(outputs, outputs)
        # Two fifths of a running statistic are from the last batch: runs are short.
        self.first_norm, self.second_norm = (nn.BatchNorm2d(outputs, momentum=0.4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H // 2, W // 2); a side of 1 stays."""
        x = self.first(x)
        x = F.gelu(self.first_norm(F.max_pool2d(x, 2) if min(x.shape[2:]) > 1 else x))
        return F.gelu(self.second_norm(self.second(x)))


def _identity(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first outputs are its inputs."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:inputs])
    return convolution
