"""FastNet: a small network that learns fast, with a stem that whitens its input.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498): widths, whitening, GELU,
convolutions that begin as identities. The whitening is Page's (bag_of_tricks.ipynb of davidcpage/cifar10-fast).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prebake.train.models import Model
from prebake.train.models.davidnet import MaxPoolHead

__all__ = ["MODEL", "FastNet"]

WIDTHS = (64, 256, 256)
SIDE = 2  # of the patches that the stem whitens
# Added to each variance: without it, noise in directions of almost no variance would be amplified.
LEAST_VARIANCE = 5e-4


class FastNet(nn.Module):
    """A 2x2 stem, three blocks of two convolutions, and a linear head.

    Args:
        channels: of the images.
        classes: how many.
        head_scale: factor on the logits.
        whiten: whether `initialize_from` sets the stem's filters, which are then not trained.
    """

    def __init__(self, channels: int, classes: int, *, head_scale: float = 1 / 9, whiten: bool = True) -> None:
        super().__init__()
        filters = 2 * channels * SIDE * SIDE
        self.stem = nn.Conv2d(channels, filters, SIDE)
        self.whiten = whiten
        self.stem.weight.requires_grad = not whiten
        self.blocks = nn.Sequential(*map(Block, (filters, *WIDTHS[:-1]), WIDTHS))
        self.head = MaxPoolHead(WIDTHS[-1], classes, head_scale)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.blocks(F.gelu(self.stem(images)))
        logits: Tensor = self.head(features)
        return logits

    @torch.no_grad()
    def initialize_from(self, images: Tensor) -> None:
        """Whiten: set the stem to the principal directions of the images' patches, scaled to variance 1, in both signs.

        Args:
            images: (N, channels, H, W) float32, normalized, on the CPU.
        """
        if not self.whiten:
            return
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
    """Return a 3x3 convolution that is initialized to copy its inputs to its first outputs."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[:inputs])
    return convolution


MODEL = Model(FastNet, smallest_side=8)
