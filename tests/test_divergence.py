"""A loss that is no number: where, at which rate, on which images; and what was good before stays."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prebake.errors import DivergedError
from prebake.loader.shard_set import ShardSet
from prebake.train.evaluate import Score
from prebake.train.recipes import recipe_for, schedule
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU, Command, events_of, log_of, the_run

Record = Callable[[str, object], None]


def poison(monkeypatch: pytest.MonkeyPatch, step: int, value: float = math.nan) -> None:
    """Make the loss of one step, counted from 0, something else than a number."""
    original, count = Trainer.step, [0]

    def stepped(self: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, right = original(self, images, labels)
        count[0] += 1
        return (torch.full_like(loss, value) if count[0] == step + 1 else loss), right

    monkeypatch.setattr(Trainer, "step", stepped)


def test_the_named_images_follow_the_shuffled_order(tiny: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def noted(_self: Trainer, _images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        given.append(labels.tolist())
        return torch.full((), math.nan if len(given) == 5 else 1.0), torch.zeros((), dtype=torch.int64)

    monkeypatch.setattr(Trainer, "step", noted)
    trainer = Trainer(tiny, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32", shuffle_seed=3))
    with pytest.raises(DivergedError) as caught:
        list(trainer.run())
    labels: dict[int, int] = {}
    for record in tiny.records("train", 1):
        labels_N, index_N = record.labels_N, record.index_N
        labels.update(zip(index_N.tolist(), labels_N.tolist(), strict=True))
    images = caught.value.facts["images"]
    assert [labels[image] for image in images] == given[4]
    assert images != images_of(tiny, 1, 1, 64)


def images_of(data: ShardSet, epoch: int, step: int, batch_size: int) -> list[int]:
    """Return the source indices of a batch, read the plain way."""
    indices = [int(index) for record in data.records("train", epoch) for index in record.index_N]
    return indices[step * batch_size : (step + 1) * batch_size]


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_the_first_bad_step_is_named_with_its_lr_and_images(
    tiny: ShardSet, monkeypatch: pytest.MonkeyPatch, value: float, shown: str
) -> None:
    poison(monkeypatch, 4, value)
    trainer = Trainer(tiny, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32"))
    with pytest.raises(DivergedError) as caught:
        list(trainer.run())
    assert trainer.steps_done == 5  # at once, on the CPU
    rate = schedule(trainer.settings.recipe, 6)[0][4]
    images = images_of(tiny, 1, 1, 64)
    assert caught.value.facts == {"step": 4, "epoch": 1, "lr": rate, "loss": shown, "images": images}
    first = ", ".join(map(str, images[:8]))
    assert str(caught.value) == (
        f"digits: the loss of step 5 of 6 (epoch 1, lr {rate:.4g}) is {shown}, on a batch of 64 images with the "
        f"source indices {first} and 56 more; a lower --lr than 0.1 may help"
    )


def test_divergence_is_found_at_the_next_check_without_syncs(tiny: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 1)
    trainer = Trainer(tiny, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32"))
    monkeypatch.setattr("prebake.train.trainer.math.isfinite", lambda _value: True)  # nobody looks at each step

    def look() -> None:
        if trainer.steps_done == 2:
            monkeypatch.undo()
            trainer.save()

    with pytest.raises(DivergedError, match=r"step 2 of 6 \(epoch 0"):
        list(trainer.run(look))
    assert trainer.steps_done == 2  # and no later


@pytest.mark.parametrize("kind", ["weight", "momentum"])
def test_a_state_that_is_not_finite_is_never_saved(tiny: ShardSet, kind: str) -> None:
    trainer = Trainer(tiny, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32"))
    next(iter(trainer.run()))
    weight = trainer.learner.model.head.weight
    assert isinstance(weight, torch.nn.Parameter)
    tensor = weight.detach() if kind == "weight" else trainer.learner.optimizer.state[weight]["momentum_buffer"]
    tensor[3, 5] = math.inf
    name = "model" if kind == "weight" else "momentum"
    with pytest.raises(DivergedError, match=rf"not finite after step 3: {name}.head.weight; a lower --lr"):
        trainer.save()


def test_a_diverged_run_keeps_a_checkpoint_but_cannot_resume(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, record_property: Record
) -> None:
    options = ("--shards", shards / "digits", "--model", "resnet20", "--out", tmp_path, *ON_CPU)
    monkeypatch.setattr("prebake.train.session.CHECKPOINT_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        poison(patch, 4)
        ended = command(*options)
    assert ended.code == 5
    run = the_run(tmp_path)
    there = {path.name: path.read_bytes() for path in (run / "checkpoint").iterdir()}
    assert sorted(there) == ["step-00000003.safetensors", "step-00000004.safetensors"]
    event: dict[str, Any] = log_of(run)[-1]
    assert (event["event"], event["step"], event["epoch"], len(event["images"])) == ("diverged", 4, 1, 64)
    for again in (("--resume", run), (*options, "--resume", "auto")):
        refused = command(*again)
        assert refused.code == 5
        assert f"{run}: this run has diverged" in refused.err
        assert "the loss of step 5 of 6" in refused.err
    assert {path.name: path.read_bytes() for path in (run / "checkpoint").iterdir()} == there
    assert command(*options, "--overwrite").code == 0
    assert "diverged" not in events_of(run)
    record_property("cases", 3)


def test_a_held_out_loss_that_is_no_number_ends_with_5_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr("prebake.train.trainer.evaluate", lambda *_, **__: Score(math.nan, 0.1, None))
    ended = command("--shards", shards / "digits", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    assert ended.code == 5
    assert "the test loss after epoch 0 is nan, and the training loss was finite" in ended.err
    assert events_of(the_run(tmp_path)) == ["start", "diverged"]
