"""Several processes train one run on the batches of one process, keep equal weights, and stop together."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import prebake
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.precompute.images import SourceData
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import events_of, log_of, summary_of, the_run
from tests.helpers.nets import PLAIN
from tests.helpers.ranks import BATCH, Recorded, command_in, recorded
from tests.helpers.runs import at_step, kill, patched
from tests.helpers.small import flip_byte

# Where CUDA is, autograd starts threads for it, and a fork of a process that has trained can't train any more.
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs forks that train")
PER_EPOCH = 10


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make evaluation batches small enough that each of four processes gets some."""
    monkeypatch.setattr("prebake.train.evaluate.BATCH_SIZE", 30)


@pytest.fixture(scope="module")
def numbered(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of 205 digits and 100 test images. The first two pixels hold the source index. Read only."""
    out = tmp_path_factory.mktemp("numbered") / "digits"
    train, test = digits.splits["train"], digits.splits["test"]
    images = train.images_NHWC[:205].copy()
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(205) // 100, np.arange(205) % 100
    prebake.bake(
        images,
        train.labels_N[:205],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        classes=digits.classes,
        name="digits",
        recipe="digits",
        augment="plain",
        epochs=2,
        out=out,
    )
    return ShardSet(out)


def settings(**changes: Any) -> Settings:
    """Return the settings of a shuffled run on the CPU in batches of 20."""
    recipe = recipe_for("digits", **{"epochs": 2, "batch_size": BATCH, "model": PLAIN, **changes})
    return Settings(recipe, 0, "cpu", "fp32", shuffle_seed=5)


def indices(data: ShardSet, images: Tensor) -> list[int]:
    """Return the source indices stored in normalized images."""
    pixels = images[:, 0, 0, :2].double() * data.plan.source.std[0] + data.plan.source.mean[0]
    hundreds, ones = (pixels * 255).round().long().unbind(1)
    return (100 * hundreds + ones).tolist()


def global_batches(data: ShardSet, found: list[Recorded]) -> str:
    """Return a hash of the source indices of all steps, with the slices of the ranks concatenated."""
    steps = zip(*(rank.batches for rank in found), strict=True)
    batches = [[index for images, _ in step for index in indices(data, images)] for step in steps]
    assert all(len(batch) == BATCH for batch in batches)
    return hashlib.sha256(str(batches).encode()).hexdigest()


def in_slices(data: ShardSet, chosen: Settings, sizes: list[int]) -> Trainer:
    """Train in one process as several would: split each batch into slices, and average their gradients.

    Running statistics are those of the first slice.
    """
    trainer = Trainer(data, chosen)
    model = trainer.learner.model

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        size = sizes[trainer.state.epoch]
        losses, rights = [], []
        first: list[Tensor] = []
        before = [buffer.clone() for buffer in model.buffers()]
        for slice_images, slice_labels in zip(images.chunk(size), labels.chunk(size), strict=True):
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.data.copy_(value)  # unseen by autograd, which has no need of it
            loss, right = trainer._eager_forward(slice_images, slice_labels)
            losses.append(loss)
            rights.append(right)
            first = first or [buffer.clone() for buffer in model.buffers()]
        for buffer, value in zip(model.buffers(), first, strict=True):
            buffer.data.copy_(value)
        mean = torch.stack(losses).mean()
        trainer.learner.step(mean)
        return mean.detach(), torch.stack(rights).sum()

    trainer.step = step  # type: ignore[method-assign] # the slices' way
    for _ in trainer.run():
        pass
    return trainer


def assert_close(found: Recorded, wanted: Trainer) -> None:
    """Assert that the state of a rank is close to that of a single process."""
    tensors = wanted.save().tensors
    assert found.saved.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if not name.startswith(("random.", "waits")):
            assert torch.allclose(found.saved[name].double(), tensor.double(), rtol=1e-3, atol=2e-5), name
    assert found.losses == pytest.approx([report.train_loss for report in wanted.state.reports], abs=1e-5)
    held_out = [report.held_out_loss for report in wanted.state.reports]
    assert [loss for loss, _ in found.scores] == pytest.approx(held_out, abs=1e-4)


def assert_same_in_all(found: list[Recorded]) -> None:
    """Assert that the weights, statistics, momentum and scores of all ranks are equal bit by bit."""
    first, *others = found
    assert any(name.startswith("momentum.") for name in first.saved)
    for other in others:
        assert other.scores == first.scores
        assert other.losses == first.losses
        for name in first.saved.keys() - {"random.cpu"}:
            assert torch.equal(other.saved[name], first.saved[name]), name


@pytest.mark.parametrize(
    ("model", "changes", "size"),
    [
        pytest.param(PLAIN, {}, 2, id="small-2"),
        *(
            pytest.param(model, changes, size, marks=pytest.mark.slow, id=f"{name}-{size}")
            for name, model, changes in (
                ("averaged", PLAIN, {"ema": 0.9, "bias_lr": 4.0}),
                # Few steps and large slices: rounding grows fast in batch norm over few values.
                ("davidnet", "davidnet", {"batch_size": 100}),
                ("fastnet", "fastnet", {"batch_size": 100, "ema": 0.9, "train_scales": False}),
            )
            for size in (2, 4)
        ),
    ],
)
def test_several_processes_train_the_same_weights_as_one(
    numbered: ShardSet, tmp_path: Path, model: str, changes: dict[str, Any], size: int
) -> None:
    chosen = settings(model=model, **changes)
    found = recorded(size, numbered, chosen, tmp_path / "several")
    assert_same_in_all(found)
    assert_close(found[0], in_slices(numbered, chosen, [size] * 2))


def seen_alone(data: ShardSet) -> str:
    """Return the hash of the batches that a single process reads in two epochs."""
    with Stream(data, "train", [0, 1], BATCH, drop_last=True, shuffle_seed=5) as stream:
        batches = [indices(data, torch.from_numpy(data.normalize(x.numpy())).permute(0, 3, 1, 2)) for x, _ in stream]
    return hashlib.sha256(str(batches).encode()).hexdigest()


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_global_batches_do_not_depend_on_the_process_count(numbered: ShardSet, tmp_path: Path, size: int) -> None:
    assert global_batches(numbered, recorded(size, numbered, settings(), tmp_path / "run")) == seen_alone(numbered)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[2, 1], [1, 2], [4, 2], [2, 4]])
def test_a_run_resumes_with_another_process_count(numbered: ShardSet, tmp_path: Path, sizes: list[int]) -> None:
    first, second = sizes
    begun = recorded(first, numbered, settings(), tmp_path / "begun", until=1)
    done = recorded(second, numbered, settings(), tmp_path / "done", goes_on=tmp_path / "begun" / "state")
    steps = [len(rank.batches) for rank in (*begun, *done)]
    assert steps == [PER_EPOCH] * (first + second)
    assert_same_in_all(done)
    assert_close(done[0], in_slices(numbered, settings(), sizes))


def alone_goes_on(data: ShardSet, root: Path) -> str:
    """Resume a run in one process, train it to its end, and return the step it resumed after."""
    ended = command_in(1, *new_run(data, root))
    assert ended.codes == [0], ended.said
    (step,) = re.findall(r"resuming after step (\d+) of 20", ended.said)
    return str(step)


def stopping(rank: int, step: int, number: signal.Signals) -> Callable[[int], object]:
    """Return a function that makes one rank send itself a signal after a step."""
    return lambda mine: at_step(step, lambda: os.kill(os.getpid(), number))() if mine == rank else None


def new_run(data: ShardSet, root: Path) -> tuple[object, ...]:
    """Return options that start a run, or resume it."""
    return ("--shards", data.path, "--out", root, "--resume", "auto", "--shuffle-seed", 5)


@pytest.mark.parametrize(
    ("size", "rank", "number", "code", "next_size"),
    [
        (2, 1, signal.SIGTERM, 143, 1),
        pytest.param(2, 0, signal.SIGINT, 130, 2, marks=pytest.mark.slow),
        pytest.param(4, 3, signal.SIGTERM, 143, 2, marks=pytest.mark.slow),
        pytest.param(1, 0, signal.SIGTERM, 143, 4, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_any_rank_stops_all_ranks_at_one_step(
    numbered: ShardSet, tmp_path: Path, size: int, rank: int, number: signal.Signals, code: int, next_size: int
) -> None:
    stopped = command_in(size, *new_run(numbered, tmp_path), first=stopping(rank, 7, number), every=100)
    assert stopped.codes == [code] * size, stopped.said
    assert stopped.said.count("resumes this run") == 1
    step = 7 if size == 1 else 9  # sent after step 8, and received by all ranks after step 9
    run = the_run(tmp_path)
    assert [path.name for path in (run / "checkpoint").iterdir()] == [f"step-{step:08d}.safetensors"]
    ended = command_in(next_size, *new_run(numbered, tmp_path))
    assert ended.codes == [0] * next_size, ended.said
    assert f"resuming after step {step} of 20" in ended.said
    assert events_of(run) == ["start", "resume", "epoch", "epoch", "end"]
    assert summary_of(run)["world_sizes"] == [size] + [next_size] * (next_size != size)


@pytest.mark.slow
def test_two_processes_stopped_repeatedly_end_with_the_same_bits(numbered: ShardSet, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command_in(2, *new_run(numbered, whole)).codes == [0, 0]
    for step in (1, 4, 9, 13, 17):
        ended = command_in(2, *new_run(numbered, stopped), first=stopping(step % 2, step, signal.SIGTERM), every=3)
        assert ended.codes == [143, 143], ended.said
    assert command_in(2, *new_run(numbered, stopped)).codes == [0, 0]
    ours, theirs = the_run(stopped), the_run(whole)
    assert (ours / "weights.safetensors").read_bytes() == (theirs / "weights.safetensors").read_bytes()
    epochs = [[line for line in log_of(run) if line["event"] == "epoch"] for run in (ours, theirs)]
    for key in ("train_loss", "train_accuracy", "held_out_loss"):
        assert [line[key] for line in epochs[0]] == [line[key] for line in epochs[1]], key


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rank"), [(2, 0), (2, 1), (4, 2)])
def test_a_killed_rank_ends_the_others_and_the_run_resumes(
    numbered: ShardSet, tmp_path: Path, size: int, rank: int
) -> None:
    dying = command_in(
        size, *new_run(numbered, tmp_path), first=lambda mine: at_step(7, kill)() if mine == rank else None
    )
    assert dying.codes == [-signal.SIGKILL if mine == rank else 4 for mine in range(size)], dying.said
    assert dying.seconds < 30
    assert dying.said.count("another one has ended or does not answer") == size - 1
    assert "Traceback" not in dying.said
    ended = command_in(size, *new_run(numbered, tmp_path))
    assert ended.codes == [0] * size, ended.said
    assert "resuming after step 5 of 20" in ended.said


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_nan_loss_in_one_rank_ends_all_with_exit_code_5(numbered: ShardSet, tmp_path: Path, rank: int) -> None:
    def poison(mine: int) -> None:
        original = Trainer.step

        def step(self: Trainer, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return original(self, images * (float("nan") if mine == rank and self.steps_done == 6 else 1), labels)

        pytest.MonkeyPatch().setattr(Trainer, "step", step)

    ended = command_in(2, *new_run(numbered, tmp_path), first=poison)
    assert ended.codes == [5, 5], ended.said
    assert ended.said.count("error: ") == 1
    assert "the loss of step 7 of 20" in ended.said
    assert events_of(the_run(tmp_path)) == ["start", "diverged"]


@pytest.mark.slow
def test_a_damaged_shard_that_one_rank_meets_ends_all(numbered: ShardSet, tmp_path: Path) -> None:
    shards = ShardSet(shutil.copytree(numbered.path, tmp_path / "shards"))
    # Batches of 204 in two slices: the second record, from sample 128 on, is in the second one only.
    (extents,) = (list(shard.index.extents) for shard in shards.open_shards("train", 1))
    flip_byte(shards.path / "train-e001-000.tar", extents[1].offset + 700)
    options = ("--shards", shards.path, "--out", tmp_path / "runs", "--batch-size", 204)
    ended = command_in(2, *options)
    assert ended.codes == [4, 3], ended.said
    assert "record e001-r00001: bytes differ" in ended.said
    assert ended.seconds < 30


@pytest.mark.slow
def test_a_rank_that_cannot_handle_signals_is_ended(numbered: ShardSet, tmp_path: Path) -> None:
    def prepare(rank: int) -> None:
        patched("prebake.train.distributed.STOP_SECONDS", 2.0)
        pid = os.getpid()
        if rank == 0:
            at_step(7, lambda: threading.Timer(1, os.kill, (pid, signal.SIGTERM)).start())()
        else:
            subprocess.Popen(["/bin/sh", "-c", f"sleep 15; kill -9 {pid}"])
            at_step(8, lambda: os.kill(pid, signal.SIGSTOP))()

    ended = command_in(2, *new_run(numbered, tmp_path), first=prepare)
    assert ended.codes == [143, -signal.SIGKILL], ended.said
    assert "Traceback" not in ended.said
    assert alone_goes_on(numbered, tmp_path) == "5"


@pytest.mark.slow
def test_all_ranks_train_every_run_and_rank_0_prints(shards: Path, tmp_path: Path) -> None:
    options = ("--shards", shards, "--out", tmp_path, "--runs", 2, "--epochs", 1, "--json")
    ended = command_in(2, *options)
    assert ended.codes == [0, 0], ended.said
    results = [json.loads(line) for line in ended.said.splitlines() if line.startswith("{")]
    assert [result.get("dataset") for result in results] == ["digits"] * 2 + ["mirrored"] * 2 + [None] * 2
    assert {tuple(result["world_sizes"]) for result in results[:4]} == {(2,)}
    assert command_in(2, *options, "--resume", "auto").said.count("finished already") == 4
    run = next(path for path in tmp_path.iterdir())
    assert command_in(2, "--resume", run).codes == [0, 0]
    assert command_in(2, *options).codes == [2, 2]


@pytest.mark.parametrize(
    ("size", "options", "word"),
    [
        (3, ("--batch-size", 20), "batches of 20 can't be split into 3 equal parts of at least 2, .*; 18 or 21 can"),
        pytest.param(4, ("--batch-size", 6), "6 .* into 4 .*; 8 can", marks=pytest.mark.slow),
        pytest.param(4, ("--batch-size", 205), "205 .* into 4 .*; 204 can", marks=pytest.mark.slow),
        pytest.param(2, ("--compile",), "--compile: for one process only", marks=pytest.mark.slow),
        pytest.param(2, ("--sync-batchnorm",), "--sync-batchnorm: torch has it for CUDA only", marks=pytest.mark.slow),
        pytest.param(2, ("--epochs", "x"), "invalid int value", marks=pytest.mark.slow),
    ],
)
def test_all_ranks_refuse_bad_options_and_rank_0_prints(
    numbered: ShardSet, tmp_path: Path, size: int, options: tuple[object, ...], word: str
) -> None:
    ended = command_in(size, "--shards", numbered.path, "--out", tmp_path / "runs", *options)
    assert ended.codes == [2] * size, ended.said
    assert len(re.findall("error: ", ended.said)) == 1
    assert re.search(word, ended.said), ended.said
    assert not (tmp_path / "runs").exists()
