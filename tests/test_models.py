"""The models: number of parameters, image sizes, and DavidNet against the original written out plainly."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prebake.errors import UsageError
from prebake.train.models import MODELS, find_model
from prebake.train.models.davidnet import DavidNet
from prebake.train.models.fastnet import FastNet
from prebake.train.optim import Learner
from prebake.train.recipes import recipe_for


def original(net: DavidNet, images: Tensor) -> Tensor:
    """cifar10-fast's net in training mode, with the weights of `net`: pools come after the activation."""
    weights = dict(net.named_parameters())

    def conv_bn(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, weights[f"{name}.conv.weight"], padding=1)
        x = F.batch_norm(x, None, None, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"], training=True)
        return F.relu(x)

    def residual(x: Tensor, name: str) -> Tensor:
        return x + conv_bn(conv_bn(x, f"{name}.first"), f"{name}.second")

    x = conv_bn(images, "prep")
    x = residual(F.max_pool2d(conv_bn(x, "layer1.0"), 2), "layer1.1")
    x = F.max_pool2d(conv_bn(x, "layer2"), 2)
    x = residual(F.max_pool2d(conv_bn(x, "layer3.0"), 2), "layer3.1")
    x = F.max_pool2d(x, x.shape[-1]).flatten(1)
    return F.linear(x, weights["head.weight"]) * 0.125


@pytest.fixture
def images() -> Tensor:
    """Four images of 32x32 in three channels."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("model", "channels", "parameters"),
    [
        ("davidnet", 3, 6_573_120),
        ("davidnet", 1, 6_571_968),
        ("cnn94", 3, 6_573_120),
        ("resnet20", 3, 272_474),
        ("wrn22", 3, 9_658_458),
        ("resnet18-concat", 3, 11_177_290),
        ("resnet50", 3, 23_520_842),
        ("resnet34-wide", 3, 85_080_714),
        ("fastnet", 3, 1_972_792),
    ],
)
def test_models_have_the_published_number_of_parameters(model: str, channels: int, parameters: int) -> None:
    with torch.device("meta"):  # without memory
        net = find_model(model).build(channels, 10, (32, 32))
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_on_images_of_8x8_and_28x28(model: str) -> None:
    net = find_model(model).build(1, 7, (8, 8))
    for side in (8, 28):
        logits = net(torch.rand(2, 1, side, side))
        assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)


def test_davidnet_has_4480_running_statistics() -> None:
    buffers = dict(DavidNet(3, 10).named_buffers())
    assert sum(b.numel() for name, b in buffers.items() if not name.endswith("num_batches_tracked")) == 4_480


def test_the_head_has_no_bias_and_scales_its_logits(images: Tensor) -> None:
    torch.manual_seed(0)
    net, unscaled = DavidNet(3, 10), DavidNet(3, 10, head_scale=1.0)
    unscaled.load_state_dict(net.state_dict())
    assert net.head.bias is None
    assert [name for name, _ in net.named_parameters() if name.startswith("head")] == ["head.weight"]
    assert torch.equal(net(images), unscaled(images) * 0.125)


def test_davidnet_equals_the_original_with_late_pooling(images: Tensor) -> None:
    torch.manual_seed(0)
    net = DavidNet(3, 10).train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones are 1 and 0, which would hide a swap
                module.weight.uniform_(-0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    labels = torch.tensor([3, 1, 4, 1])
    ours, theirs = net(images), original(net, images)
    assert torch.equal(ours, theirs)
    names, parameters = zip(*net.named_parameters(), strict=True)
    our_gradients = torch.autograd.grad(F.cross_entropy(ours, labels), parameters)
    their_gradients = torch.autograd.grad(F.cross_entropy(theirs, labels), parameters)
    for name, a, b in zip(names, our_gradients, their_gradients, strict=True):
        assert b.abs().max() > 0, name
        assert torch.equal(a, b), name


def test_the_last_pool_has_one_gradient_a_channel_at_ties() -> None:
    net = DavidNet(3, 10)
    net.prep = net.layer1 = net.layer2 = net.layer3 = torch.nn.Identity()  # type: ignore[assignment]
    features = torch.ones(2, 512, 4, 4, requires_grad=True)
    net(features)[:, 0].sum().backward()
    assert features.grad is not None
    assert ((features.grad != 0).sum((2, 3)) == 1).all()


def test_pooling_before_batch_norm_changes_outputs(images: Tensor) -> None:
    torch.manual_seed(0)
    net, other = DavidNet(3, 10), DavidNet(3, 10, pool_first=True)
    other.load_state_dict(net.state_dict())
    assert not torch.allclose(net(images), other(images), atol=1e-3)


def test_celu_alpha_replaces_relu_by_celu(images: Tensor) -> None:
    torch.manual_seed(0)
    net, celu = DavidNet(3, 10), DavidNet(3, 10, celu_alpha=0.3)
    celu.load_state_dict(net.state_dict())
    assert net.prep(images).min() == 0
    assert -0.3 <= celu.prep(images).min() < -0.1


def test_an_option_out_of_range_is_refused() -> None:
    for name, value in (("celu_alpha", -1.0), ("head_scale", 0.0)):
        with pytest.raises(UsageError, match=f"--set: davidnet: {name}: expected .*, found {value}"):
            find_model("davidnet").build(3, 10, (32, 32), {name: value})


def test_a_whitened_stem_makes_patches_uncorrelated() -> None:
    generator = torch.Generator().manual_seed(2)
    grey = torch.randn(200, 1, 9, 9, generator=generator)
    images = grey + 0.5 * torch.randn(
        200, 3, 9, 9, generator=generator
    )  # channels go together, as those of photographs
    images[:, :, 1:] += images[:, :, :-1]  # and so do neighbours
    net = FastNet(3, 10)
    net.initialize_from(images)
    with torch.no_grad():
        found = F.conv2d(images, net.stem.weight).transpose(0, 1).flatten(1)
    directions, mirrored = found.chunk(2)
    assert torch.equal(mirrored, -directions)
    assert torch.allclose(torch.cov(directions), torch.eye(12), atol=0.02)
    raw = torch.cov(F.unfold(images, 2).transpose(0, 1).flatten(1))
    assert (raw - torch.eye(12)).abs().max() > 1


def test_a_whitening_stem_is_not_trained() -> None:
    assert [FastNet(1, 10, whiten=whiten).stem.weight.requires_grad for whiten in (True, False)] == [False, True]
    assert {name for name, parameter in FastNet(1, 10).stem.named_parameters() if parameter.requires_grad} == {"bias"}


def test_fastnet_blocks_are_initialized_to_copy_inputs() -> None:
    weights = FastNet(3, 10).state_dict()
    x = torch.randn(2, 24, 6, 6)
    handed_on = F.conv2d(x, weights["blocks.0.first.weight"], padding=1)[:, :24]
    assert torch.allclose(handed_on, x, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_may_fix_batch_norm_scales(model: str) -> None:
    for trained in (True, False):
        with torch.device("meta"):
            net = find_model(model).build(1, 10, (8, 8))
            device = torch.device("meta")
            Learner(net, recipe_for("default", train_scales=trained), steps=2, device=device, scaled=False)
        norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert len(norms) > 5
        assert {norm.weight.requires_grad for norm in norms} == {trained}
        assert all(norm.bias.requires_grad for norm in norms)
