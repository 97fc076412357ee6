"""CNN94: DavidNet's convolutions without its residuals.

Source: "94 % on CIFAR-10 in 94 lines and 94 seconds".
"""

from torch import Tensor, nn

from prebake.train.models import Model
from prebake.train.models.davidnet import ConvBN, MaxPoolHead

__all__ = ["CNN94", "MODEL"]


class CNN94(nn.Module):
    """Eight convolutions in a row; three of them pool, before batch norm.

    Args:
        channels: of the images.
        classes: how many.
        celu_alpha: alpha of the CELU activation.
        head_scale: factor on the logits.
    """

    def __init__(self, channels: int, classes: int, *, celu_alpha: float = 0.075, head_scale: float = 0.125) -> None:
        super().__init__()
        widths = (channels, 64, 128, 128, 128, 256, 512, 512, 512)
        pools = (False, True, False, False, True, True, False, False)
        self.body = nn.Sequential(
            *(
                ConvBN(inputs, outputs, celu_alpha, pool=pool, pool_first=True)
                for inputs, outputs, pool in zip(widths[:-1], widths[1:], pools, strict=True)
            )
        )
        self.head = MaxPoolHead(widths[-1], classes, head_scale)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> logits (N, classes)."""
        features = self.body(images)
        logits: Tensor = self.head(features)
        return logits


MODEL = Model(CNN94, smallest_side=8)
