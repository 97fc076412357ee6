"""SIGTERM and Ctrl-C leave a checkpoint and print one line with the command that resumes the run."""

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prebake.train.evaluate
from prebake.loader.shard_set import ShardSet
from prebake.storage.lock import locked
from prebake.train.run_dir import RunDir
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU, ROOT, events_of, the_run
from tests.helpers.nets import SMALL
from tests.helpers.runs import Act, Runs, at_step, patched, send_later

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs forks that train")

Record = Callable[[str, object], None]
KINDS = [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
SECONDS = 5.0
PATIENCE = 30.0  # a stop takes about a second, and more on a busy machine; a run that ignores the signal takes longer


@pytest.fixture
def runs(tiny: ShardSet, tmp_path: Path) -> Runs:
    """The small net on 200 digits: two epochs of twenty steps of ten images."""
    return Runs(tiny.path, tmp_path / "my runs")


def checkpoints(run: Path) -> list[str]:
    """Return the names of the checkpoints of a run."""
    return sorted(path.name for path in run.glob("checkpoint/*"))


def raising(number: signal.Signals) -> Act:
    """Return a function that sends this process a signal."""
    return lambda: signal.raise_signal(number)


@pytest.mark.parametrize(("number", "code", "word"), KINDS)
def test_a_signal_leaves_a_checkpoint_and_prints_how_to_resume(
    number: signal.Signals, code: int, word: str, runs: Runs, record_property: Record
) -> None:
    ended = runs.attempt(first=at_step(13, raising(number)), every=1000)
    assert ended.status == code
    line = f"{word}; prebake train --resume {shlex.quote(str(runs.path))} --model {SMALL} resumes this run"
    assert ended.said.splitlines()[-1] == line
    assert checkpoints(runs.path) == ["step-00000013.safetensors"]
    # What it says is what works, typed as it stands.
    words = shlex.split(line.split("; ")[1].split(" resumes")[0])
    assert words[:2] == ["prebake", "train"]
    ended = runs.attempt(*words[2:])
    assert ended.status == 0, ended.said
    assert "resuming after step 13 of 40" in ended.said
    record_property("cases", 1)


def test_a_signal_waits_for_the_end_of_the_step(runs: Runs) -> None:
    def first() -> None:
        original, steps = Trainer._eager_forward, [0]

        def forward(self: Trainer, *batch: Any) -> Any:
            result = original(self, *batch)  # the running statistics have changed, the weights have not
            steps[0] += 1
            if steps[0] == 7:
                signal.raise_signal(signal.SIGTERM)
            return result

        patched("prebake.train.trainer.Trainer._eager_forward", forward)

    assert runs.attempt(first=first, every=1000).status == 143
    assert checkpoints(runs.path) == ["step-00000007.safetensors"]


def in_evaluation() -> None:
    """Send SIGTERM during a long evaluation."""
    original = prebake.train.evaluate.evaluate

    def evaluate(*args: Any, **options: Any) -> Any:
        original(*args, **options)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)

    patched("prebake.train.trainer.evaluate", evaluate)


def in_warm_up() -> None:
    """Send SIGTERM while a compiler runs."""

    def rehearse(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)

    patched("prebake.train.trainer.rehearse", rehearse)


@pytest.mark.parametrize(
    ("first", "options", "there"),
    [
        pytest.param(in_evaluation, (), ["step-00000020.safetensors"], id="evaluation"),
        pytest.param(in_warm_up, ("--compile",), [], id="compiling"),  # nothing was learnt that could be lost
    ],
)
def test_it_ends_within_seconds_whatever_it_does(
    first: Act, options: tuple[str, ...], there: list[str], runs: Runs, record_property: Record
) -> None:
    command = ("--shards", runs.shards, "--out", runs.root, "--batch-size", 10, *ON_CPU, *options)
    ended = runs.attempt(*command, first=first, every=1000, seconds=PATIENCE)
    assert ended.status == 143, ended.said
    assert checkpoints(runs.path) == there
    record_property("cases", 1)


@pytest.fixture
def unfinished(runs: Runs, tmp_path: Path) -> Iterator[Runs]:
    """The same shards, while their second epoch is being baked."""
    copied = Path(shutil.copytree(runs.shards, tmp_path / "baking"))
    (copied / "train-e001-000.json").unlink()
    with locked(copied):
        yield Runs(copied, runs.root)


def after_an_epoch() -> None:
    """Send this process SIGTERM when it has finished an epoch and waits for the next one."""
    original = RunDir.log

    def log(self: RunDir, event: str, **content: object) -> None:
        original(self, event, **content)
        if event == "epoch":
            send_later(0.3, signal.SIGTERM)

    patched("prebake.train.run_dir.RunDir.log", log)


def test_it_ends_within_seconds_while_it_waits_for_shards(unfinished: Runs, record_property: Record) -> None:
    command = ("--shards", unfinished.shards, "--out", unfinished.root, "--batch-size", 10, "--follow", *ON_CPU)
    ended = unfinished.attempt(*command, first=after_an_epoch, every=1000, seconds=PATIENCE)
    assert ended.status == 143, ended.said
    assert "waiting for train epoch 1" in ended.said
    assert checkpoints(unfinished.path) == ["step-00000020.safetensors"]
    assert events_of(unfinished.path) == ["start", "epoch"]
    record_property("cases", 1)


def test_a_second_signal_ends_at_once(runs: Runs) -> None:
    def first() -> None:
        def slow(*_: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)

        patched("prebake.train.checkpoint.write_tensors", slow)
        at_step(5, raising(signal.SIGINT))()

    ended = runs.attempt(first=first, every=1000, seconds=PATIENCE)
    assert ended.status == 130


def swallowed() -> None:
    """Send SIGTERM where all exceptions are suppressed, as in a finalizer."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


def test_a_swallowed_signal_stops_after_the_next_step(runs: Runs) -> None:
    ended = runs.attempt(first=at_step(5, swallowed), every=1000, seconds=PATIENCE)
    assert ended.status == 143, ended.said
    assert checkpoints(runs.path) == ["step-00000006.safetensors"]


def test_a_swallowed_signal_stops_a_run_that_waits_for_shards(unfinished: Runs) -> None:
    command = ("--shards", unfinished.shards, "--out", unfinished.root, "--batch-size", 10, "--follow", *ON_CPU)
    ended = unfinished.attempt(*command, first=at_step(20, swallowed), every=1000, seconds=PATIENCE)
    assert ended.status == 143, ended.said
    assert checkpoints(unfinished.path) == ["step-00000020.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "word"), KINDS)
def test_davidnet_in_a_new_process_ends_within_5_seconds(
    number: signal.Signals, code: int, word: str, shards: Path, tmp_path: Path, record_property: Record
) -> None:
    options = ["--shards", shards / "digits", "--out", tmp_path, "--epochs", 500, "--replay", *ON_CPU]
    for turn in range(5):
        again = ["--resume", "auto"] if turn else []
        process = subprocess.Popen(
            [sys.executable, "-m", "train", *map(str, options), *again], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        with contextlib.closing(process.stderr) as said:
            while "epoch " not in said.readline():
                pass
            process.send_signal(number)
            started = time.monotonic()
            rest = said.read().splitlines()
            assert process.wait() == code
        assert time.monotonic() - started < SECONDS
        assert rest[-1].startswith(f"{word}; prebake train --resume ")
        assert checkpoints(the_run(tmp_path))
    record_property("cases", 5)
