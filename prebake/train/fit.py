"""Train from Python, as `prebake train` does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prebake.console import log
from prebake.errors import UsageError
from prebake.loader.shard_set import ShardSet
from prebake.storage.files import expand_user, parse_path
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.jobs import TrainOptions, job_of, jobs
from prebake.train.models import AnyModel
from prebake.train.run_dir import RunDir
from prebake.train.session import train
from prebake.train.tensorboard import check_tensorboard
from prebake.train.threads import use_threads
from prebake.train.weights import load_weights

__all__ = ["FitResult", "fit", "train_all"]


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
        summary: the content of `summary.json`, such as `test_accuracy`.
        run: the run's directory.
        model: the trained network, on the CPU and in evaluation mode.
    """

    summary: Mapping[str, Any]
    run: Path
    model: nn.Module


def fit(
    data: str | Path | ShardSet,
    model: AnyModel | None = None,
    recipe: str | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    shuffle_seed: int | None = None,
    replay: bool = False,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,  # noqa: A002 - the command's option
    out: str | Path = "runs",
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    threads: int | None = None,
) -> FitResult:
    """Train a model on one shard set. Every argument is an option of `prebake train`.

    Messages name the options of the command: `--batch-size` is `batch_size` here. docs/training.md describes training,
    docs/recipes.md the recipes, and docs/adding-a-model.md models of your own.

    An interruption (KeyboardInterrupt) leaves a checkpoint; `resume=True` continues from it.

    Args:
        data: directory or URL of a shard set, or an opened one.
        model: a name of ours, `timm:NAME`, `FILE.py:NAME`, an `nn.Module`, which is trained in place, or a builder
            such as a network's class, which is passed the arguments that docs/adding-a-model.md lists. A network's
            weights tell its run from others: to resume, pass one with the initial weights that it had at first.
            None: the recipe's model.
        recipe: name of a recipe. None: the one that the shards suggest.
        epochs: None: the recipe's or the shards' number, whichever is smaller.
        batch_size: None: the recipe's.
        lr: peak learning rate. None: the recipe's.
        hyperparameters: other hyperparameters of the recipe and options of the model, by name.
        seed: of the initial weights and of dropout. A network that exists already keeps its weights.
        shuffle_seed: of an order of the records. None: the order in the shards.
        replay: allow more epochs than views: epoch e plays view e modulo their number.
        device: `auto`, `cuda`, `mps` or `cpu`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        compile: whether to compile the step.
        out: directory that holds the runs.
        resume: resume an unfinished run of the same settings, or return a finished one.
        overwrite: repeat a run that exists already.
        tensorboard: also log to TensorBoard.
        threads: of the CPU. None: `OMP_NUM_THREADS`, or the cores that this process may use.

    Raises:
        UsageError: arguments that contradict each other or the data, or a run of these settings exists.
        DataError: no usable shards.
        MachineError: no such device, compiler or package, or memory or disk is full.
        DivergedError: a loss is not finite.
    """
    if resume and overwrite:
        raise UsageError("resume, overwrite: give one of the two")
    use_threads(threads)
    options = TrainOptions(
        shards=data.location if isinstance(data, ShardSet) else parse_path(str(data)),
        model=model,
        recipe=recipe,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        changes=hyperparameters or {},
        seed=seed,
        shuffle_seed=shuffle_seed,
        replay=replay,
        device=device,
        precision=precision,
        compile=compile,
        out=expand_user(Path(out)),
        resume="auto" if resume else None,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )
    results = train_all(options)
    if len(results) != 1:
        raise UsageError(f"data: expected one shard set, found {len(results)} in {data}; all of them were trained")
    ((run, summary),) = results
    return FitResult(summary, run.path, load_weights(run.path / "weights.safetensors", model).model)


def train_all(options: TrainOptions, processes: ProcessGroup = SINGLE_PROCESS) -> list[tuple[RunDir, dict[str, Any]]]:
    """Train all that the options of `prebake train` ask for, one run after the other; return runs and summaries."""
    if options.tensorboard:
        check_tensorboard()
    if options.resume in (None, "auto"):
        found = processes.run_on_all(lambda: jobs(options, processes))
        return [(job.run, train(job, options, processes)) for job in found]
    run, shards = processes.run_on_main(lambda: RunDir.open(Path(str(options.resume))))
    summary = processes.run_on_main(run.finished)
    if summary is not None:
        log(f"{summary['dataset']}: finished already, in {run.path}")
        return [(run, summary)]
    return [(run, train(processes.run_on_all(lambda: job_of(run, shards, options, processes)), options, processes))]
