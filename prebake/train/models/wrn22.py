"""WRN-22-6: a wide residual net with pre-activation.

Source: Zagoruyko and Komodakis, "Wide Residual Networks" (arXiv 1605.07146), in the form that fast.ai entered for
DAWNBench (fastai, vision/models/wrn.py): the residual branch is scaled by 0.2.
"""

from torch import Tensor, nn

from prebake.train.models import Model

__all__ = ["MODEL", "WRN22"]

BRANCH_SCALE = 0.2


class Block(nn.Module):
    """shortcut(relu(bn(x))) + 0.2 conv(relu(bn(conv(relu(bn(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.shortcut: nn.Module = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1, stride)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # modules: heat maps hook their outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        activated = self.relu1(self.norm1(x))
        branch = self.conv2(self.relu2(self.norm2(self.conv1(activated))))
        added: Tensor = self.shortcut(activated) + BRANCH_SCALE * branch
        return added


class WRN22(nn.Module):
    """Three groups of three blocks, 96, 192 and 384 channels wide, then the mean of each channel.

    Args:
        channels: of the images.
        classes: how many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _conv(channels, 16, 3, 1)
        widths = (16, 96, 96, 96, 192, 192, 192, 384, 384, 384)
        strides = (1, 1, 1, 2, 1, 1, 2, 1, 1)
        self.body = nn.Sequential(
            *(Block(*shape) for shape in zip(widths[:-1], widths[1:], strides, strict=True)),
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.relu(self.norm(self.body(self.stem(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return conv


MODEL = Model(WRN22, smallest_side=8)
