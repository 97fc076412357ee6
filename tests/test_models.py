"""The nets: their size, the images they take, and DavidNet against a plain writing-out of the original."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prebake.errors import UsageError
from prebake.train.models import MODELS, DavidNet, FastNet, build
from prebake.train.recipes import RECIPES, recipe_for


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


@pytest.mark.parametrize(("channels", "parameters"), [(3, 6_573_120), (1, 6_571_968)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_davidnet_has_exactly_the_published_number_of_parameters(recipe: str, channels: int, parameters: int) -> None:
    model = build(recipe_for(recipe, model="davidnet"), channels, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("cnn94", 6_573_120),
        ("resnet20", 272_474),
        ("wrn22", 9_658_458),
        ("resnet18-concat", 11_177_290),
        ("resnet50", 23_520_842),
        ("resnet34-wide", 85_080_714),
        ("fastnet", 1_972_792),
    ],
)
def test_the_other_nets_have_the_number_of_parameters_that_they_are_known_by(model: str, parameters: int) -> None:
    net = build(recipe_for("default", model=model), 3, 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("model", MODELS)
def test_every_net_takes_images_of_every_mission_size_and_learns_from_them(model: str) -> None:
    net = build(recipe_for("default", model=model), 1, 7)
    for side in (8, 28):
        logits = net(torch.rand(2, 1, side, side))
        assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_davidnet_has_as_many_running_statistics_as_articles_count() -> None:
    buffers = dict(DavidNet(3, 10).named_buffers())
    assert sum(b.numel() for name, b in buffers.items() if not name.endswith("num_batches_tracked")) == 4_480


def test_the_head_has_no_bias_and_only_scales_its_logits(images: Tensor) -> None:
    torch.manual_seed(0)
    net, unscaled = DavidNet(3, 10), DavidNet(3, 10, head_scale=1.0)
    unscaled.load_state_dict(net.state_dict())
    assert net.head.bias is None
    assert [name for name, _ in net.named_parameters() if name.startswith("head")] == ["head.weight"]
    assert torch.equal(net(images), unscaled(images) * 0.125)


def test_pooling_before_the_activation_gives_the_originals_outputs_and_gradients_exactly(images: Tensor) -> None:
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


def test_the_last_pool_learns_at_one_place_of_each_channel_even_where_all_are_alike() -> None:
    net = DavidNet(3, 10)
    net.prep = net.layer1 = net.layer2 = net.layer3 = torch.nn.Identity()  # type: ignore[assignment]
    features = torch.ones(2, 512, 4, 4, requires_grad=True)
    net(features)[:, 0].sum().backward()
    assert features.grad is not None
    assert ((features.grad != 0).sum((2, 3)) == 1).all()


def test_pooling_before_batch_norm_is_another_net(images: Tensor) -> None:
    torch.manual_seed(0)
    net, other = DavidNet(3, 10), DavidNet(3, 10, pool_first=True)
    other.load_state_dict(net.state_dict())
    assert not torch.allclose(net(images), other(images), atol=1e-3)


def test_an_activation_that_is_asked_for_is_the_one_in_use(images: Tensor) -> None:
    torch.manual_seed(0)
    net, celu = DavidNet(3, 10), DavidNet(3, 10, celu_alpha=0.3)
    celu.load_state_dict(net.state_dict())
    assert net.prep(images).min() == 0
    assert -0.3 <= celu.prep(images).min() < -0.1


def test_an_unknown_model_is_refused_with_a_list_of_those_there() -> None:
    with pytest.raises(UsageError, match="no model named 'resnet9'") as caught:
        build(recipe_for("default", model="resnet9"), 3, 10)
    assert all(name in str(caught.value) for name in MODELS)


def test_a_whitened_stem_makes_patches_of_variance_1_that_do_not_vary_together() -> None:
    generator = torch.Generator().manual_seed(2)
    grey = torch.randn(200, 1, 9, 9, generator=generator)
    images = grey + 0.5 * torch.randn(
        200, 3, 9, 9, generator=generator
    )  # channels go together, as those of photographs
    images[:, :, 1:] += images[:, :, :-1]  # and so do neighbours
    net = FastNet(3, 10)
    net.whiten(images)
    with torch.no_grad():
        found = F.conv2d(images, net.stem.weight).transpose(0, 1).flatten(1)
    directions, mirrored = found.chunk(2)
    assert torch.equal(mirrored, -directions)
    assert torch.allclose(torch.cov(directions), torch.eye(12), atol=0.02)
    raw = torch.cov(F.unfold(images, 2).transpose(0, 1).flatten(1))
    assert (raw - torch.eye(12)).abs().max() > 1


def test_a_whitening_stem_is_not_trained_and_another_is() -> None:
    assert [FastNet(1, 10, whiten=whiten).stem.weight.requires_grad for whiten in (True, False)] == [False, True]
    assert {name for name, parameter in FastNet(1, 10).stem.named_parameters() if parameter.requires_grad} == {"bias"}


def test_fastnets_blocks_begin_by_handing_on_what_they_get() -> None:
    weights = FastNet(3, 10).state_dict()
    x = torch.randn(2, 24, 6, 6)
    handed_on = F.conv2d(x, weights["blocks.0.first.weight"], padding=1)[:, :24]
    assert torch.allclose(handed_on, x, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_batch_norms_scales_are_trained_or_fixed_as_the_recipe_says(model: str) -> None:
    for trained in (True, False):
        with torch.device("meta"):  # which needs no memory
            net = build(recipe_for("default", model=model, train_scales=trained), 1, 10)
        norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert len(norms) > 5
        assert {norm.weight.requires_grad for norm in norms} == {trained}
        assert all(norm.bias.requires_grad for norm in norms)
