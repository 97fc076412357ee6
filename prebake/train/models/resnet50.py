"""ResNet-50 for small images: torchvision's, with a 3x3 stem that does not pool."""

from torch import nn
from torchvision.models import resnet50

from prebake.train.models import Model

__all__ = ["MODEL", "ResNet50"]


def ResNet50(channels: int, classes: int) -> nn.Module:
    """Build the net: (N, channels, H, W) -> logits (N, classes).

    Source: He et al. (arXiv 1512.03385), table 1; torchvision's resnet50.

    Args:
        channels: of the images.
        classes: how many.
    """
    net: nn.Module = resnet50(num_classes=classes)
    net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


MODEL = Model(ResNet50, smallest_side=8)
