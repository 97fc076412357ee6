"""The training loop is deterministic, resumes exactly, and reports divergence and held-out scores."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prebake
from prebake.errors import DivergedError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from prebake.train.evaluate import evaluate
from prebake.train.recipes import recipe_for
from prebake.train.state import EpochReport, Settings
from prebake.train.trainer import Trainer
from tests.helpers.nets import SMALL


def settings(epochs: int = 1, seed: int = 0, **changes: Any) -> Settings:
    """Return the settings of a small run on the CPU."""
    return Settings(recipe_for("digits", epochs=epochs, **changes), seed, "cpu", "fp32")


def run(trainer: Trainer) -> Trainer:
    """Train to the end."""
    for _ in trainer.run():
        pass
    return trainer


def assert_same_weights(a: Trainer, b: Trainer) -> None:
    """Assert that parameters and running statistics are equal bit by bit."""
    ours, theirs = a.learner.model.state_dict(), b.learner.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def without_clocks(reports: Sequence[EpochReport]) -> list[EpochReport]:
    """Set the fields that may differ between equal runs to zero."""
    clocks = {"images_per_second": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "evaluate_seconds": 0.0}
    return [replace(report, **clocks) for report in reports]  # type: ignore[arg-type] # all of these are floats


def test_training_is_deterministic_and_depends_on_the_seed(tiny: ShardSet) -> None:
    first, second, other = (run(Trainer(tiny, settings(seed=seed))) for seed in (3, 3, 4))
    assert_same_weights(first, second)
    assert without_clocks(first.state.reports) == without_clocks(second.state.reports)
    assert first.state.first_loss == second.state.first_loss
    assert first.state.first_loss != other.state.first_loss
    assert not torch.equal(
        first.learner.model.state_dict()["head.weight"], other.learner.model.state_dict()["head.weight"]
    )


def test_the_first_batchs_loss_is_that_of_guessing(tiny: ShardSet) -> None:
    trainer = run(Trainer(tiny, settings(batch_size=128)))
    assert trainer.state.first_loss == pytest.approx(math.log(10), abs=0.3)


def test_training_learns(trained: Trainer) -> None:
    first, last = trained.state.reports
    assert last.train_loss < first.train_loss - 0.1
    assert last.train_accuracy > 2 / 10


def test_reports_add_up(trained: Trainer, tiny: ShardSet) -> None:
    assert [report.epoch for report in trained.state.reports] == [0, 1]
    assert trained.state.epoch == 2
    assert trained.steps == 2 * (tiny.samples("train") // 64) == 6
    assert len(trained.state.waits) == trained.steps
    for report in trained.state.reports:
        assert 0 <= report.wait_seconds <= report.train_seconds
        assert 0 <= report.train_accuracy <= 1
        assert report.images_per_second == pytest.approx(3 * 64 / report.train_seconds)


def test_a_resumed_run_equals_an_uninterrupted_one(tiny: ShardSet, trained: Trainer) -> None:
    stopped = Trainer(tiny, settings(epochs=2))
    next(iter(stopped.run()))
    resumed = Trainer(tiny, settings(epochs=2))
    resumed.restore(stopped.save())
    run(resumed)
    assert_same_weights(resumed, trained)
    assert without_clocks(resumed.state.reports) == without_clocks(trained.state.reports)
    assert resumed.state.first_loss == trained.state.first_loss
    assert len(resumed.state.waits) == len(trained.state.waits)


def test_a_resumed_run_restores_weights_and_their_average(tiny: ShardSet) -> None:
    chosen = settings(epochs=2, model=SMALL, ema=0.9, bias_lr=4.0, low_momentum=0.8)
    whole = run(Trainer(tiny, chosen))
    stopped = Trainer(tiny, chosen)
    next(iter(stopped.run()))
    saved = stopped.save()
    resumed = Trainer(tiny, chosen)
    resumed.restore(saved)
    run(resumed)
    ours, theirs = resumed.save().tensors, whole.save().tensors
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("average.") for name in ours)
    for name in ours.keys() - {"waits"}:
        assert torch.equal(ours[name], theirs[name]), name
    assert without_clocks(resumed.state.reports) == without_clocks(whole.state.reports)
    assert (
        resumed.evaluate("test")
        == whole.evaluate("test")
        != evaluate(whole.learner.model, tiny, "test", torch.device("cpu"), "fp32")
    )


def test_a_loss_that_is_not_finite_ends_the_run_with_exit_code_5(tiny: ShardSet) -> None:
    trainer = Trainer(tiny, settings(epochs=5, peak_lr=1e9))
    with pytest.raises(
        DivergedError, match=r"digits: the loss of step \d+ of 15 .* is (nan|inf), on .*a lower --lr"
    ) as caught:
        run(trainer)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_epochs_are_evaluated_on_val_or_else_on_test(digits: SourceData, tmp_path: Path, val_fraction: float) -> None:
    train, test = digits.splits["train"], digits.splits["test"]
    prebake.bake(
        train.images_NHWC[:100],
        train.labels_N[:100],
        test=(test.images_NHWC[:30], test.labels_N[:30]),
        val_fraction=val_fraction,
        epochs=1,
        out=tmp_path / "set",
    )
    trainer = run(Trainer(ShardSet(tmp_path / "set"), settings()))
    (report,) = trainer.state.reports
    split, other = ("val", "test") if val_fraction else ("test", "train")
    assert report.held_out == trainer.held_out == split
    score = trainer.evaluate(split)
    assert (report.held_out_loss, report.held_out_accuracy) == (score.loss, score.accuracy)
    assert score.loss != trainer.evaluate(other).loss


def test_a_run_without_held_out_data_reports_none(digits: SourceData, tmp_path: Path) -> None:
    train = digits.splits["train"]
    prebake.bake(train.images_NHWC[:70], train.labels_N[:70], epochs=1, out=tmp_path / "set")
    (report,) = run(Trainer(ShardSet(tmp_path / "set"), settings())).state.reports
    assert (report.held_out, report.held_out_loss, report.held_out_accuracy) == (None, None, None)
    assert math.isfinite(report.train_loss)


def test_evaluation_uses_eval_mode_and_restores_train_mode(trained: Trainer) -> None:
    before = {name: tensor.clone() for name, tensor in trained.learner.model.state_dict().items()}
    modes: list[bool] = []
    hook = trained.learner.model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trained.evaluate("test")
    hook.remove()
    assert modes == [False]
    assert trained.learner.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.learner.model.state_dict().items())


def test_epoch_e_plays_view_e_mod_the_baked_epochs(tiny: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[list[int]] = []

    def recorder(*arguments: Any, **_options: Any) -> None:
        played.append(list(arguments[2]))
        raise InterruptedError

    monkeypatch.setattr("prebake.loader.loader.Stream", recorder)
    trainer = Trainer(tiny, settings(epochs=5))
    for done in (0, 3):
        trainer.state.epoch = done
        with pytest.raises(InterruptedError):
            next(iter(trainer.run()))
    assert played == [[0, 1, 0, 1, 0], [1, 0]]


def test_training_takes_every_encoding_alike(digits: SourceData, tmp_path: Path) -> None:
    train = digits.splits["train"]
    losses = []
    for dtype in ("float16", "uint8", "float32"):
        prebake.bake(
            train.images_NHWC[:64],
            train.labels_N[:64],
            augment="plain",
            dtype=dtype,
            epochs=1,
            out=tmp_path / dtype,
        )
        losses.append(run(Trainer(ShardSet(tmp_path / dtype), settings())).state.first_loss)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_on_cuda_a_run_resumes_with_its_scale_and_average(baked: ShardSet, precision: str) -> None:
    settings = Settings(recipe_for("digits", epochs=2, ema=0.9), 0, "cuda", precision)
    begun = Trainer(baked, settings)
    first = next(iter(begun.run()))
    resumed = Trainer(baked, settings)
    resumed.restore(begun.save())
    assert resumed.learner.values() == begun.learner.values()
    (second,) = resumed.run()
    assert second.train_loss < first.train_loss
    kept, last = (model.state_dict() for model in (resumed.learner.eval_model, resumed.learner.model))
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
