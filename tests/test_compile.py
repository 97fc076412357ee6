"""Compiling: the same training, ready before its first step, and errors that say what is missing."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import prebake
from prebake.errors import MachineError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.train.compile import check_compiler
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU, Command, log_of, summary_of, the_run

CPU = torch.device("cpu")


def trainer(data: ShardSet, *, compiled: bool) -> Trainer:
    """Return a trainer that has not begun, for two epochs on the CPU."""
    return Trainer(data, Settings(recipe_for("digits", epochs=2), 0, "cpu", "fp32", compiled))


def run(trainer: Trainer) -> Trainer:
    """Train to the end."""
    for _ in trainer.run():
        pass
    return trainer


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Hold states of models against each other, bit by bit."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile trace and check as always, but run the graphs as they are, which takes no C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def test_warming_up_changes_nothing_but_the_clock(tiny: ShardSet) -> None:
    warm, cold = trainer(tiny, compiled=False), trainer(tiny, compiled=False)
    random = torch.get_rng_state()
    warm.warm_up()
    assert torch.equal(torch.get_rng_state(), random)
    assert warm.state.compile_seconds > 0
    warm.state.compile_seconds = 0.0
    ours, theirs = warm.save(), cold.save()
    assert_same(ours.tensors, theirs.tensors)
    assert ours.values == theirs.values
    assert all(parameter.grad is None for parameter in warm.learner.model.parameters())
    run(warm)
    run(cold)
    assert_same(warm.learner.model.state_dict(), cold.learner.model.state_dict())


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_compiled_training_is_the_same_training(tiny: ShardSet, trained: Trainer) -> None:
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = run(trainer(tiny, compiled=True))
    ours, theirs = found.learner.model.state_dict(), trained.learner.model.state_dict()
    assert list(ours) == list(theirs)
    assert_same(ours, theirs)
    assert found.state.first_loss == trained.state.first_loss
    assert found.state.compile_seconds > 0
    assert trained.state.compile_seconds == 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_a_resumed_compiled_run_equals_an_uninterrupted_one(tiny: ShardSet, trained: Trainer) -> None:
    stopped = trainer(tiny, compiled=True)
    next(iter(stopped.run()))
    resumed = trainer(tiny, compiled=True)
    resumed.restore(stopped.save())
    run(resumed)
    assert_same(resumed.learner.model.state_dict(), trained.learner.model.state_dict())
    # Each of the two compiled.
    assert resumed.state.compile_seconds > stopped.state.compile_seconds


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.slow
def test_one_command_compiles_for_as_many_sets_as_there_are(
    shards: Path, tmp_path: Path, command: Command, rng: np.random.Generator
) -> None:
    shutil.copytree(shards / "digits", tmp_path / "shards" / "digits")
    colours = rng.integers(0, 256, (64, 8, 8, 3), np.uint8)
    prebake.bake(colours, rng.integers(0, 5, 64), epochs=1, out=tmp_path / "shards" / "colours")
    # torch.compile gives up on what it has compiled so many times for other shapes; the default is 8.
    with torch._dynamo.config.patch(cache_size_limit=1):
        options = ("--epochs", 1, "--recipe", "digits", "--compile", "--out", tmp_path / "runs", *ON_CPU)
        ended = command("--shards", tmp_path / "shards", *options)
    assert ended.code == 0, ended.err


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.slow
def test_compile_is_an_option_and_appears_in_the_summary(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--epochs", 1, *ON_CPU)
    for name, extra in (("eager", ()), ("compiled", ("--compile",))):
        ended = command(*options, "--out", tmp_path / name, *extra)
        assert ended.code == 0, ended.err
    eager, compiled = the_run(tmp_path / "eager"), the_run(tmp_path / "compiled")
    assert eager.name != compiled.name
    assert [log_of(run)[0]["settings"]["compiled"] for run in (eager, compiled)] == [False, True]
    assert [summary_of(run)["compiled"] for run in (eager, compiled)] == [False, True]
    assert summary_of(eager)["seconds"]["compile"] == 0
    assert summary_of(compiled)["seconds"]["compile"] > 0


def test_without_a_compiler_train_exits_4_and_writes_nothing(
    shards: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", "--compile", *ON_CPU)
    assert ended.code == 4
    assert "error: --compile: the CPU needs a C++ compiler, and there is no no-such-compiler" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_compiler_is_sought_as_torch_seeks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[str] = []

    def which(name: str) -> str:
        sought.append(name)
        return name

    monkeypatch.setattr("shutil.which", which)
    for value in ("my-compiler --option", ""):
        monkeypatch.setenv("CXX", value)
        check_compiler(CPU)
    monkeypatch.delenv("CXX")
    for platform in ("linux", "darwin"):
        monkeypatch.setattr("sys.platform", platform)
        check_compiler(CPU)
    assert sought == ["my-compiler", sought[1], "g++", "clang++"]
    assert sought[1] in ("g++", "clang++")


def test_cuda_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "triton" else None)
    check_compiler(torch.device("cuda:1"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MachineError, match="CUDA needs the package triton"):
        check_compiler(torch.device("cuda:1"))


def test_other_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="--compile: expected cuda or cpu, found mps"):
        check_compiler(torch.device("mps"))


def test_a_failed_compilation_is_reported(tiny: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("ptxas\n  too old")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(MachineError, match=r"torch\.compile failed .*ptxas too old.*train without --compile"):
        run(trainer(tiny, compiled=True))


def test_out_of_memory_is_not_reported_as_a_failed_compile(tiny: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: full)
    begun = trainer(tiny, compiled=True)
    with pytest.raises(torch.OutOfMemoryError):
        begun.warm_up()


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two epochs of 128 pictures of CIFAR-10's shape: noise around a colour of each class."""
    rng = np.random.default_rng(0)
    labels = np.arange(128) % 4
    pixels = rng.integers(0, 128, (128, 32, 32, 3)) + rng.integers(0, 128, (4, 1, 1, 3))[labels]
    out = tmp_path_factory.mktemp("colours") / "set"
    prebake.bake(pixels.astype(np.uint8), labels, epochs=2, out=out)
    return ShardSet(out)


def assert_close_training(data: ShardSet, device: str, precision: str) -> None:
    """Train eagerly and compiled, and hold the losses against each other."""
    recipe = recipe_for("default", epochs=2, batch_size=32, peak_lr=0.02)
    eager, compiled = (run(Trainer(data, Settings(recipe, 0, device, precision, each))) for each in (False, True))
    assert compiled.state.first_loss == pytest.approx(eager.state.first_loss, rel=0.02)
    for ours, theirs in zip(compiled.state.reports, eager.state.reports, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=0.05)
    assert eager.state.reports[1].train_loss < eager.state.reports[0].train_loss
    assert list(compiled.learner.model.state_dict()) == list(eager.learner.model.state_dict())


# bfloat16 for itself: there, the compiler rounds where eager torch does not, and the other way round.
# Some releases of torch warn while they compile; that is their own business.
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inductor_trains_as_eager_torch_does_on_the_cpu(colours: ShardSet, precision: str) -> None:
    assert_close_training(colours, "cpu", precision)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_train_as_eager_torch_does(colours: ShardSet, precision: str) -> None:
    assert_close_training(colours, "cuda", precision)
