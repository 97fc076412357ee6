"""Train one run from its last checkpoint until it ends or is interrupted."""

import contextlib
import gc
import math
import re
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from prebake.console import log
from prebake.errors import DataError, DivergedError, MachineError
from prebake.loader.shard_set import ShardSet
from prebake.signals import TerminatedError, check_signals, defer_signals
from prebake.storage.lock import locked
from prebake.train.device import keep_freed_memory, peak_bytes
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.evaluate import final_shape, final_split, predict
from prebake.train.jobs import Job, TrainOptions
from prebake.train.models import is_users_own
from prebake.train.report import write_report
from prebake.train.run_dir import LOCK
from prebake.train.state import Settings
from prebake.train.summary import cost, epoch_line, summarize, utilization_line
from prebake.train.tensorboard import write_scalars
from prebake.train.trainer import Trainer
from prebake.train.weights import Trained, save_weights

__all__ = ["train"]

CHECKPOINT_SECONDS = 60.0
# All-reduced between two steps: 0, this value to write a checkpoint, or the number of a signal that stops the run.
CHECKPOINT_SIGNAL = 1
# CUDA raises torch.OutOfMemoryError. MPS, the CPU's allocator and oneDNN (the last pattern) raise RuntimeError.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|could not create a primitive")


def train(job: Job, options: TrainOptions, processes: ProcessGroup = SINGLE_PROCESS) -> dict[str, Any]:
    """Train a run to its end and return its summary. A finished run is not changed.

    An interruption leaves a checkpoint, and the exception's message names the command that resumes the run. Several
    processes stop at the same step. Only rank 0 reads and writes the run's files.

    Args:
        job: what to train.
        options: the command's. This function reads `follow`, `overwrite`, `resume`, `tensorboard`, `usd_per_hour`.
        processes: the group of processes that train it.

    Raises:
        DataError: shards or checkpoints are not usable, or another command trains this run.
        MachineError: memory is full, or torch.compile failed.
        DivergedError: a loss is not finite.
    """
    run = job.run
    with contextlib.ExitStack() as lock:
        summary = processes.run_on_main(lambda: _open(job, lock, options))
        if summary is not None:
            return summary
        if torch.device(job.settings.device).type == "cpu":
            keep_freed_memory()
        try:
            with processes.defer_signals() as received:
                gc.collect()  # the previous run's trainer is a reference cycle that holds device memory
                return _Session(job, options, processes, received).train()
        except DivergedError as error:
            if not processes.is_main:
                sys.exit(error.exit_code)  # rank 0 prints the message
            run.log("diverged", message=str(error), **error.facts)
            raise
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not OUT_OF_MEMORY.search(str(error)):
                raise
            raise _out_of_memory(job.settings, error) from error
        except (KeyboardInterrupt, TerminatedError) as error:
            if not processes.is_main:
                sys.exit(130 if isinstance(error, KeyboardInterrupt) else 143)  # as above
            raise type(error)(_how_to_resume(job)) from None


def _open(job: Job, lock: contextlib.ExitStack, options: TrainOptions) -> dict[str, Any] | None:
    """Lock the run's directory until `lock` is closed; return the summary of a finished run."""
    run = job.run
    run.path.mkdir(parents=True, exist_ok=True)
    lock.enter_context(locked(run.path, LOCK, "training"))
    if options.overwrite:
        _try_to_read(job.data)  # before the old run is removed
        run.clear()
    elif not options.resume:
        run.refuse_existing()  # again: another process may have held the lock until now
    summary = run.finished()
    if summary is not None:
        run.drop_checkpoints()
        log(f"{job.data.name}: finished already, in {run.path}")
    return summary


def _try_to_read(data: ShardSet) -> None:
    """Read a few images if the first epoch is complete."""
    if not data.missing("train", 0):
        next(data.batches("train", 0, batch_size=2))


def _how_to_resume(job: Job) -> str:
    command = ["prebake", "train", "--resume", str(job.run.path)]
    if is_users_own(job.model.name):
        command += ["--model", job.model.name]
    return f"{shlex.join(command)} resumes this run"


def _out_of_memory(settings: Settings, error: Exception) -> MachineError:
    device = torch.device(settings.device)
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    smaller = max(1, settings.recipe.batch_size // 2)
    precision = ", --precision bf16" if settings.precision == "fp32" else ""
    return MachineError(
        f"out of memory on {device}: batches of {settings.recipe.batch_size} in {settings.precision}, "
        f"peak use {peak_bytes(device) / 1e9:.2f} GB ({reason}). "
        f"Try a smaller batch (--batch-size {smaller}){precision}, or another --device"
    )


class _Session:
    def __init__(self, job: Job, options: TrainOptions, processes: ProcessGroup, received: Sequence[int]) -> None:
        self.data, self.settings, self.run, self._options = job.data, job.settings, job.run, options
        self._processes, self._received = processes, received
        if job.settings.compiled:
            torch.compiler.reset()  # frees the memory of earlier runs, and resets the limit of 8 recompilations
        self.trainer = Trainer(job.data, job.settings, model=job.model, follow=options.follow, processes=processes)
        saved = processes.run_on_main(self.run.checkpoints.load)
        if saved is not None:
            self.trainer.restore(saved)
        self._saved = self._position()
        self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS

    def train(self) -> dict[str, Any]:
        trainer, recipe, name = self.trainer, self.settings.recipe, self.data.name
        if self._processes.is_main:
            size = self._processes.size
            self.run.begin(self.data.location, trainer.state.reports, trainer.steps_done, world_size=size)
        what = f"{recipe.name} ({recipe.model}) on {self.settings.device} in {self.settings.precision}"
        log(f"{name}: {what}, into {self.run.path}")
        if trainer.steps_done:
            log(f"{name}: resuming after step {trainer.steps_done} of {trainer.steps}")
        try:
            reports = trainer.run(self._between_steps)
            tensorboard = self._options.tensorboard and self._processes.is_main
            for report in write_scalars(reports, self.run.path / "tensorboard") if tensorboard else reports:
                if self._processes.is_main:
                    self.run.log("epoch", **asdict(report))
                log(epoch_line(name, report, recipe.epochs))
            self._handle_signal(self._processes.pending_signal())
            return self._finish()
        except (KeyboardInterrupt, TerminatedError, DataError, OSError) as error:
            if self._processes.size > 1 and isinstance(error, (DataError, OSError)):
                raise  # the other processes wait in the next step, so no state can be gathered
            # All of these are raised between two steps, so the state is consistent.
            try:
                self._save()
            except OSError as reason:
                log(f"{name}: could not write a checkpoint ({reason})")
            raise

    def _between_steps(self) -> None:
        check_signals()
        checkpoint = self._processes.is_main and time.monotonic() >= self._next_checkpoint
        if checkpoint:
            self._next_checkpoint = math.inf  # until all processes have received the signal
        number = max([CHECKPOINT_SIGNAL if checkpoint else 0, *self._received])
        self._handle_signal(self._processes.all_reduce_signal(number))

    def _handle_signal(self, number: int) -> None:
        """Write a checkpoint or stop. All processes receive the same number between the same two steps."""
        if number == CHECKPOINT_SIGNAL:
            with defer_signals(), self.trainer.pause_clock():
                self._save()
            self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        elif number:
            raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError

    def _save(self) -> None:
        if self._position() != self._saved:
            saved = self.trainer.save()
            if self._processes.is_main:
                self.run.checkpoints.save(self.trainer.steps_done, saved)
            self._saved = self._position()

    def _position(self) -> tuple[int, int]:
        return self.trainer.state.epoch, self.trainer.state.step

    def _finish(self) -> dict[str, Any]:
        trainer, data, run = self.trainer, self.data, self.run
        started = time.perf_counter()
        split, settings = final_split(data), self.settings
        predictions = (
            predict(
                trainer.learner.eval_model,
                data,
                split,
                trainer.device,
                settings.precision,
                tta=True,
                processes=self._processes,
            )
            if split
            else None
        )
        score = predictions.score() if predictions and split == "test" else None
        summary = summarize(trainer, run.path, score, time.perf_counter() - started)
        if self._options.usd_per_hour is not None:
            summary["cost"] = cost([summary["seconds"]], self._options.usd_per_hour)
        if not self._processes.is_main:
            return summary
        log(utilization_line(summary))
        source, model = data.plan.source, trainer.learner.eval_model
        save_weights(
            run.weights,
            Trained(model, settings.recipe, source.classes, final_shape(data), source.mean, source.std),
        )
        write_report(replace(run.read(), summary=summary), data, trainer.learner.eval_model, predictions)
        run.finish(summary)
        return summary
