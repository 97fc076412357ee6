"""Small networks, passed to the command as a user passes a model of her own."""

from torch import nn

__all__ = ["MLP", "PLAIN", "SMALL", "TIED", "plain_net", "small_net", "tied_net"]

SMALL, PLAIN, MLP, TIED = (f"tests.helpers.nets:{name}" for name in ("small_net", "plain_net", "mlp", "tied_net"))


def small_net(channels: int, classes: int) -> nn.Module:
    """Return a network with batch norm's statistics and with random numbers at each step: dropout."""
    layers = [*plain_net(channels, classes)]
    return nn.Sequential(*layers[:3], nn.Dropout(0.2), *layers[3:])


def plain_net(channels: int, classes: int) -> nn.Sequential:
    """Return a network for images of 8x8 with batch norm, whose steps draw no random numbers."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 8 * 8, classes),
    )


def mlp(channels: int, classes: int, image_size: tuple[int, int], width: int = 128) -> nn.Module:
    """Return a network without batch norm that depends on the image size."""
    height, columns = image_size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * columns, width), nn.ReLU(), nn.Linear(width, classes)
    )


def tied_net(channels: int, classes: int) -> nn.Module:
    """Return a network in which one layer has two names."""
    layer = nn.Linear(64, 64)
    return nn.Sequential(
        nn.Conv2d(channels, 1, 1), nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(64, classes)
    )
