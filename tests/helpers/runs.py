"""Whole runs of forty steps on a small set, disturbed in forks of this process, and what has become of them."""

import math
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # the first step imports it, which takes longer than all forty: not in each fork

import prebake.cli.train
import prebake.train.session
from prebake.cli.run import run_command
from prebake.train.device import autocast
from prebake.train.session import _Session
from prebake.train.tensors import read_tensors
from tests.helpers.commands import ON_CPU, log_of, summary_of, the_run
from tests.helpers.nets import SMALL
from tests.helpers.trials import Trial, trial

STEPS = 40
EPOCHS = 2
CLOCKS = {"images_per_second", "train_seconds", "wait_seconds", "evaluate_seconds"}
SCORES = ("test_accuracy", "test_accuracy_tta", "test_accuracy_shift_tta", "val_accuracy")
METRICS = (*SCORES, "first_loss", "epochs", "parameters")
Act = Callable[[], object]


@dataclass(frozen=True)
class Runs:
    """A shard set to train forty steps on, ten images each, a root for the runs, and the model."""

    shards: Path
    root: Path
    model: str = SMALL

    def attempt(self, *options: object, first: Act | None = None, every: int = 4, seconds: float = 60) -> Trial:
        """Run the command in a fork, with a checkpoint after every so many steps; `first` prepares the fork."""
        arguments = [*options] if options else ["--shards", self.shards, "--resume", "auto", "--out", self.root]

        def act() -> None:
            checkpoint_every(every)
            keep_the_end()
            patched("prebake.train.session.write_report", lambda *_: None)  # to import what draws takes a second
            if first is not None:
                first()
            sys.argv = ["train", *map(str, arguments), *(ON_CPU if "auto" in arguments else ())]
            sys.argv += ["--batch-size", "10"] if "auto" in arguments else []
            sys.argv += [] if "--model" in arguments else ["--model", self.model]
            run_command(prebake.cli.train.main)

        return trial(act, seconds=seconds)

    @property
    def path(self) -> Path:
        """Directory of the only run."""
        return the_run(self.root)

    def under(self, root: Path) -> "Runs":
        """Return the same with another root."""
        return replace(self, root=root)


def patched(target: str, value: object) -> None:
    """Put something in the place of what has that name, for as long as this process lives: a fork's way to patch."""
    pytest.MonkeyPatch().setattr(target, value)


def checkpoint_every(steps: int) -> None:
    """Save after every so many steps, whatever the clock says."""
    original = _Session._between_steps

    def between_steps(self: _Session) -> None:
        self._next_checkpoint = 0.0 if self.trainer.steps_done % steps == 0 else math.inf
        original(self)

    patched("prebake.train.session._Session._between_steps", between_steps)


def keep_the_end() -> None:
    """Let a run leave a checkpoint of its end, to be looked at."""
    original = _Session._finish

    def finish(self: _Session) -> dict[str, Any]:
        self.run.checkpoints.save(self.trainer.steps_done, self.trainer.save())
        return original(self)

    patched("prebake.train.session._Session._finish", finish)
    patched("prebake.train.run_dir.RunDir.drop_checkpoints", lambda _self: None)


def at_step(step: int, act: Act) -> Act:
    """Return what makes a fork call `act` after that step, and after its checkpoint where it has one."""

    def prepare() -> None:
        original = _Session._between_steps

        def between_steps(self: _Session) -> None:
            original(self)
            if self.trainer.steps_done == step:
                act()

        patched("prebake.train.session._Session._between_steps", between_steps)

    return prepare


def kill() -> None:
    """End this process as power cuts do."""
    os.kill(os.getpid(), signal.SIGKILL)


def after(seconds: float, number: signal.Signals) -> Act:
    """Return what makes a fork send itself a signal after so long."""

    def prepare() -> None:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)  # for the last moments, when no handler of ours is there any more
        send_later(seconds, number)

    return prepare


def send_later(seconds: float, number: signal.Signals) -> None:
    """Send this process a signal after so long, whatever it does meanwhile."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Hold two runs against each other, bit by bit: weights, momentum, random numbers, metrics; clocks left out."""
    assert (ours / "weights.safetensors").read_bytes() == (theirs / "weights.safetensors").read_bytes()
    name = f"checkpoint/step-{STEPS:08d}.safetensors"
    (found, about), (wanted, wanted_about) = read_tensors(ours / name), read_tensors(theirs / name)
    assert found.keys() == wanted.keys()
    assert sum(key.startswith("momentum.") for key in found) > 3
    for key in found.keys() - {"waits"}:
        assert torch.equal(found[key], wanted[key]), key
    assert found["waits"].shape == wanted["waits"].shape == (STEPS,)
    assert _without_clocks(about.content) == _without_clocks(wanted_about.content)
    assert _epochs(ours) == _epochs(theirs)
    assert len(_epochs(ours)) == EPOCHS
    assert [summary_of(ours)[key] for key in METRICS] == [summary_of(theirs)[key] for key in METRICS]


def _epochs(run: Path) -> list[dict[str, Any]]:
    return [_without_clocks(line) for line in log_of(run) if line["event"] == "epoch"]


def _without_clocks(content: Any) -> Any:
    if isinstance(content, dict):
        left_out = CLOCKS | {"compile_seconds", "xxh3"}
        return {key: _without_clocks(value) for key, value in content.items() if key not in left_out}
    return [_without_clocks(value) for value in content] if isinstance(content, list) else content


def assert_sensible_clocks(run: Path) -> None:
    """Hold the clocks of a run that was disturbed against what must be true of any."""
    summary = summary_of(run)
    seconds = summary["seconds"]
    assert 0 <= seconds["wait"] <= seconds["train"] < 600
    assert 0 <= summary["utilization"] <= 1
    assert summary["images_per_second"] > 0
    for line in log_of(run):
        if line["event"] == "epoch":
            assert 0 <= line["wait_seconds"] <= line["train_seconds"]


def interrupted_until_done(runs: Runs, number: signal.Signals, seed: int, seconds: float) -> list[int]:
    """Interrupt a run at random times until it is done; return the exit codes."""
    times = random.Random(seed)  # noqa: S311 - no secret
    codes: list[int] = []
    while not codes or codes[-1]:
        # Longer each time, so that it comes to an end however often it is disturbed.
        ended = runs.attempt(first=after(times.uniform(0, seconds * (1 + len(codes) / 4)), number), every=3)
        codes.append(ended.status)
        assert ended.status in (0, -number, 128 + number), ended.said
    return codes


def removed(path: Path) -> None:
    """Remove a run's root, where there is one."""
    shutil.rmtree(path, ignore_errors=True)


def interrupted_at(step: int) -> Callable[..., Any]:
    """Return an `autocast` that raises KeyboardInterrupt at the start of the given step."""
    steps = iter(range(step))

    def begin(device: torch.device, precision: str) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return autocast(device, precision)

    return begin
