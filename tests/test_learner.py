"""`Learner`: the update of a step, its learning rates, and the averaged weights."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prebake.loader.shard_set import ShardSet
from prebake.train.models.fastnet import FastNet
from prebake.train.optim import Learner
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.nets import small_net

STEPS = 10


def learner(*, scaled: bool = False, **changes: float) -> Learner:
    torch.manual_seed(1)
    recipe = recipe_for("digits", weight_decay=0.0, **changes)
    return Learner(small_net(1, 10), recipe, steps=STEPS, device=torch.device("cpu"), scaled=scaled)


def losses(learner: Learner, count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(3)  # the net drops out
    for _ in range(count):
        images = torch.randn(8, 1, 8, 8, generator=generator)
        labels = torch.randint(10, (8,), generator=generator)
        yield F.cross_entropy(learner.model(images), labels)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_eval_model_averages_weights_and_running_statistics() -> None:
    mine = learner(ema=0.75)
    expected: dict[str, Tensor] = {}
    for loss in losses(mine, STEPS):
        mine.step(loss)
        now = copied(mine.model)
        expected = {name: 0.75 * expected[name] + 0.25 * now[name] for name in now} if expected else now
    kept = mine.eval_model.state_dict()
    assert kept.keys() == expected.keys()
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], atol=1e-6), name
    assert not torch.allclose(kept["0.weight"], mine.model.state_dict()["0.weight"], atol=1e-4)


def test_without_an_average_the_last_weights_are_kept() -> None:
    mine = learner()
    assert mine.eval_model is mine.model


def test_overflow_skips_the_step_and_halves_the_loss_scale() -> None:
    mine, plain = learner(scaled=True), learner()
    steps = [*losses(mine, 1), *losses(plain, 1)]
    mine.step(steps[0])
    plain.step(steps[1])
    scaled, unscaled = copied(mine.model), copied(plain.model)
    assert all(torch.allclose(scaled[name], unscaled[name], atol=1e-6) for name in scaled)
    scale = mine.values()["scaler"]["scale"]
    mine.step(next(losses(mine, 1)) * 1e38)
    after = copied(mine.model)
    assert all(torch.equal(after[name], scaled[name]) for name, _ in mine.model.named_parameters())
    assert mine.values()["scaler"]["scale"] == scale / 2
    assert mine.scheduler.last_epoch == 2
    other = learner(scaled=True)
    other.restore({name: tensor.clone() for name, tensor in mine.tensors().items()}, mine.values())
    assert other.values() == mine.values()


def test_momentum_is_right_if_the_first_step_overflows() -> None:
    mine = learner(scaled=True)
    mine.step(next(losses(mine, 1)) * float("inf"))
    momenta = [tensor for name, tensor in mine.tensors().items() if name.startswith("momentum.")]
    assert momenta
    assert all(not momentum.any() for momentum in momenta)
    mine.step(next(losses(mine, 1)))
    assert all(momentum.abs().max() < 1 for momentum in momenta)


def test_batch_norm_biases_and_scales_have_their_own_rates() -> None:
    common, faster = learner(start=1.0), learner(start=1.0, bias_lr=8.0, train_scales=False)
    before = copied(common.model)
    for mine in (common, faster):
        mine.step(next(losses(mine, 1)))
    moved = {name: [mine.model.state_dict()[name] - before[name] for mine in (common, faster)] for name in before}
    assert torch.allclose(moved["1.bias"][1], 8 * moved["1.bias"][0], atol=1e-7)
    assert torch.equal(moved["0.weight"][0], moved["0.weight"][1])
    assert moved["1.weight"][0].abs().max() > 0
    assert moved["1.weight"][1].abs().max() == 0


def test_a_fresh_run_whitens_its_stem_with_its_own_images(tiny: ShardSet) -> None:
    settings = Settings(recipe_for("fast", epochs=1, batch_size=64, peak_lr=0.1), 0, "cpu", "fp32")
    trainer = Trainer(tiny, settings)
    assert isinstance(trainer.learner.model, FastNet)
    before = trainer.learner.model.stem.weight.clone()
    assert len(list(trainer.run())) == 1
    after = trainer.learner.model.stem.weight
    assert not torch.equal(after, before)
    images_NHWC, _ = next(tiny.batches("train", 0, batch_size=tiny.samples("train")))
    images = torch.from_numpy(tiny.normalize(images_NHWC)).permute(0, 3, 1, 2)
    other = FastNet(1, 10)
    other.initialize_from(images)
    assert torch.equal(after, other.stem.weight)
