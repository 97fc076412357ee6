"""Grad-CAM: it highlights the evidence for a class, works for every model, and does not change the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prebake.train.gradcam import grad_cam
from prebake.train.models import MODELS, find_model
from prebake.train.models.davidnet import DavidNet


class BrightOrDark(nn.Module):
    """Class 0 is bright pixels, class 1 is dark ones; each logit is a mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pool(F.relu(self.conv(images), inplace=True))
        return pooled.flatten(1)


def test_map_is_hot_exactly_where_the_class_is() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2, 5], image[0, 0, 6, 1] = 2.0, -3.0
    maps = grad_cam(BrightOrDark(), image.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    assert maps is not None
    assert maps.shape == (2, 8, 8)
    for heat, place in zip(maps, ((2, 5), (6, 1)), strict=True):
        assert heat[place] == 1
        assert heat.sum() == 1


def test_map_is_zero_without_evidence_for_the_class() -> None:
    maps = grad_cam(BrightOrDark(), torch.full((1, 1, 8, 8), -1.0), torch.tensor([0]))
    assert maps is not None
    assert not maps.any()


# For each model: image -> last feature map, and feature map -> logits.
Parts = tuple[Callable[[Any, Tensor], Tensor], Callable[[Any, Tensor], Tensor]]
PARTS: dict[str, Parts] = {
    "davidnet": (
        lambda model, images: model.layer3(model.layer2(model.layer1(model.prep(images)))),
        lambda model, features: F.linear(F.max_pool2d(features, 4).flatten(1), model.head.weight) * model.head.scale,
    ),
    "wrn22": (
        lambda model, images: F.relu(model.norm(model.body(model.stem(images)))),
        lambda model, features: model.head(features.mean((2, 3))),
    ),
    "resnet18-concat": (
        lambda model, images: F.relu(model.norm(model.body(model.stem(images)))),
        lambda model, features: model.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_maps_equal_the_formula_of_the_paper(name: str) -> None:
    torch.manual_seed(0)
    model = find_model(name).build(3, 10, (32, 32)).eval()
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10  # more than one chunk
    # Weights are mean gradients; negative values become 0.
    features = PARTS[name][0](model, images).detach().requires_grad_()
    logits = PARTS[name][1](model, features)
    (gradients,) = torch.autograd.grad(logits[torch.arange(20), labels].sum(), features)
    small = (gradients.mean((2, 3))[:, :, None, None] * features).sum(1, keepdim=True).clamp(min=0)
    expected = F.interpolate(small, (32, 32), mode="bilinear")[:, 0].detach()
    expected = torch.nan_to_num(expected / expected.amax((1, 2), keepdim=True))  # a map of zeros stays zero
    found = grad_cam(model, images, labels)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", [8, 32])
def test_every_model_has_maps_that_vary_over_the_image(name: str, side: int) -> None:
    torch.manual_seed(0)
    model = find_model(name).build(1, 7, (side, side))
    maps = grad_cam(model, torch.randn(2, 1, side, side), torch.tensor([0, 6]))
    assert maps is not None
    assert maps.shape == (2, side, side)
    assert 0 <= maps.min() < maps.max() == 1
    assert all(heat.std() > 0 for heat in maps)


def test_model_without_feature_maps_gives_none() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert grad_cam(model, torch.randn(2, 1, 8, 8), torch.tensor([0, 1])) is None


@pytest.mark.parametrize("training", [True, False])
def test_model_is_unchanged(training: bool) -> None:
    model = DavidNet(1, 10).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grad_cam(model, torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
