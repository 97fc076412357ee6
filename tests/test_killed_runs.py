"""A run that is killed at any time resumes, and ends with the same bits as an uninterrupted run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import prebake
import prebake.train.checkpoint
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from tests.helpers.commands import ON_CPU, ROOT, events_of, log_of, summary_of, the_run
from tests.helpers.runs import (
    STEPS,
    Act,
    Runs,
    assert_same_run,
    assert_sensible_clocks,
    at_step,
    interrupted_until_done,
    kill,
    patched,
    removed,
)

Record = Callable[[str, object], None]


# Where CUDA is, autograd starts threads for it, and a fork of a process that has trained can't train any more.
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="needs forks that train")


@pytest.fixture(scope="module")
def forty(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 205 digits: twenty steps of ten images each, and five images not used. Read only."""
    train, test = digits.splits["train"], digits.splits["test"]
    out = tmp_path_factory.mktemp("forty") / "digits"
    prebake.bake(
        train.images_NHWC[:205],
        train.labels_N[:205],
        test=(test.images_NHWC[:100], test.labels_N[:100]),
        classes=digits.classes,
        name="digits",
        recipe="digits",
        epochs=2,
        out=out,
    )
    return out


def undisturbed_run(runs: Runs) -> Path:
    """Train without interruption."""
    ended = runs.attempt()
    assert ended.status == 0, ended.said
    return runs.path


@pytest.fixture(scope="module")
def whole(forty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the small net. Read only."""
    return undisturbed_run(Runs(forty, tmp_path_factory.mktemp("whole")))


@pytest.fixture
def runs(forty: Path, tmp_path: Path) -> Runs:
    """Return the directories for runs of the small net."""
    return Runs(forty, tmp_path / "runs")


def killed_at_each(runs: Runs, steps: list[int], whole: Path, every: int) -> None:
    """Kill a run after each of these steps, resume it, and compare its end with the uninterrupted run."""
    for step in steps:
        each = runs.under(runs.root / str(step))
        assert each.attempt(first=at_step(step, kill), every=every).status == -signal.SIGKILL
        ended = each.attempt(every=every)
        assert ended.status == 0, ended.said
        if step >= every:
            assert f"resuming after step {step // every * every} of {STEPS}" in ended.said
        assert_same_run(each.path, whole)
        assert_sensible_clocks(each.path)
        removed(each.root)


def test_a_run_killed_after_any_step_resumes_exactly(runs: Runs, whole: Path, record_property: Record) -> None:
    steps = [1, 7, 20, 23, 40]
    killed_at_each(runs, steps, whole, every=4)
    record_property("cases", len(steps))


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 4])
def test_a_run_killed_after_every_step_resumes_exactly(
    runs: Runs, whole: Path, record_property: Record, every: int
) -> None:
    killed_at_each(runs, list(range(1, STEPS + 1)), whole, every)
    record_property("cases", STEPS)


@pytest.mark.slow
def test_davidnet_killed_after_every_step_resumes_exactly(forty: Path, tmp_path: Path, record_property: Record) -> None:
    whole = undisturbed_run(Runs(forty, tmp_path / "whole", "davidnet"))
    killed_at_each(Runs(forty, tmp_path / "runs", "davidnet"), list(range(1, STEPS + 1)), whole, every=7)
    record_property("cases", STEPS)


def test_a_run_killed_repeatedly_resumes_exactly(runs: Runs, whole: Path, record_property: Record) -> None:
    steps = [3, 5, 11, 20, 21, 38]
    for step in steps:
        assert runs.attempt(first=at_step(step, kill), every=2).status == -signal.SIGKILL
    assert runs.attempt(every=2).status == 0
    assert_same_run(runs.path, whole)
    assert_sensible_clocks(runs.path)
    assert [event for event in events_of(runs.path) if event != "epoch"] == ["start", *["resume"] * 6, "end"]
    record_property("cases", len(steps))


def random_times(runs: Runs, whole: Path, number: signal.Signals, chains: int) -> int:
    """Interrupt runs at random times until they are finished; return the number of interruptions."""
    times = 0
    for chain in range(chains):
        each = runs.under(runs.root / str(chain))
        codes = interrupted_until_done(each, number, chain, seconds=0.3)
        times += len(codes) - 1
        assert_same_run(each.path, whole)
        assert_sensible_clocks(each.path)
        removed(each.root)
    return times


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_interrupted_at_random_times_resumes_exactly(
    runs: Runs, whole: Path, number: signal.Signals, record_property: Record
) -> None:
    record_property("cases", random_times(runs, whole, number, 3))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runs_killed_at_random_times_resume_exactly(
    runs: Runs, whole: Path, number: signal.Signals, record_property: Record
) -> None:
    record_property("cases", random_times(runs, whole, number, 25))


def _half_written() -> None:
    write = os.write

    def half(descriptor: int, data: memoryview) -> None:
        write(descriptor, data[: len(data) // 2])
        kill()

    patched("os.write", half)


def _before_fsync() -> None:
    patched("os.fsync", lambda _descriptor: kill())


def _on(event: str) -> Act:
    def prepare() -> None:
        sys.addaudithook(lambda name, _arguments: kill() if name == event else None)

    return prepare


# Before each operation of writing a checkpoint, and of dropping the one that is too old then.
POINTS: dict[str, Act] = {
    "open": _on("open"),
    "half written": _half_written,
    "fsync": _before_fsync,
    "rename": _on("os.rename"),
    "remove": _on("os.remove"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_during_a_checkpoint_uses_a_complete_one(
    point: str, runs: Runs, whole: Path, record_property: Record
) -> None:
    def prepare() -> None:
        original = prebake.train.checkpoint.Checkpoints.save

        def save(self: prebake.train.checkpoint.Checkpoints, step: int, saved: object) -> None:
            if step == 12:
                POINTS[point]()
            original(self, step, saved)  # type: ignore[arg-type] # as it came

        patched("prebake.train.checkpoint.Checkpoints.save", save)

    assert runs.attempt(first=prepare).status == -signal.SIGKILL
    ended = runs.attempt(first=at_step(16, kill))
    assert f"resuming after step {12 if point == 'remove' else 8} of {STEPS}" in ended.said
    names = sorted(path.name for path in (runs.path / "checkpoint").iterdir())
    assert names == ["step-00000012.safetensors", "step-00000016.safetensors"]
    ended = runs.attempt()
    assert ended.status == 0, ended.said
    assert_same_run(runs.path, whole)
    record_property("cases", 1)


def test_a_damaged_checkpoint_is_named_and_the_previous_used(runs: Runs, whole: Path, record_property: Record) -> None:
    assert runs.attempt(first=at_step(14, kill)).status == -signal.SIGKILL
    older, newer = sorted((runs.path / "checkpoint").iterdir())
    data = bytearray(newer.read_bytes())
    data[len(data) // 2] ^= 1
    newer.write_bytes(data)
    ended = runs.attempt()
    assert ended.status == 0
    (line,) = [line for line in ended.said.splitlines() if str(newer) in line]
    assert "changed since it was written" in line
    assert f"resuming from {older.name}" in line
    assert_same_run(runs.path, whole)
    record_property("cases", 1)


def test_two_damaged_checkpoints_end_the_run_with_exit_code_3(runs: Runs) -> None:
    assert runs.attempt(first=at_step(14, kill)).status == -signal.SIGKILL
    there = sorted((runs.path / "checkpoint").iterdir())
    there[0].write_bytes(b"")
    there[1].unlink()
    there[1].mkdir()  # which can't be read, whoever asks
    ended = runs.attempt()
    assert ended.status == 3
    assert all(str(path) in ended.said for path in there)
    assert ended.said.splitlines()[-1].endswith("--overwrite (overwrite=True) starts the run anew")
    assert sorted((runs.path / "checkpoint").iterdir()) == there


def test_a_checkpoint_of_another_run_is_none_of_this_one_s(runs: Runs) -> None:
    assert runs.attempt(first=at_step(14, kill)).status == -signal.SIGKILL
    options = ("--shards", runs.shards, "--out", runs.root, "--seed", 1, "--resume", "auto")
    assert runs.attempt(*options, first=at_step(14, kill)).status == -signal.SIGKILL
    ours, theirs = sorted(runs.root.iterdir())
    for path in (theirs / "checkpoint").iterdir():
        (ours / "checkpoint" / path.name).write_bytes(path.read_bytes())
    ended = runs.attempt()
    assert ended.status == 3
    assert "step-00000012.safetensors: of another run" in ended.said


def test_a_run_resumes_after_its_damaged_shard_is_repaired(runs: Runs, whole: Path, tmp_path: Path) -> None:
    copied = Runs(Path(shutil.copytree(runs.shards, tmp_path / "digits")), runs.root)
    tar = copied.shards / "train-e001-000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    ended = copied.attempt(every=1000)
    assert ended.status == 3
    assert f"error: {tar}, record e001-r00000: bytes differ" in ended.said
    tar.write_bytes(content)
    ended = copied.attempt()
    assert ended.status == 0, ended.said
    assert f"resuming after step 20 of {STEPS}" in ended.said
    assert_same_run(runs.path, whole)


SCRIPT = """
import sys, prebake.train.session
from prebake.cli.run import run_command
from prebake.cli.train import main
prebake.train.session.CHECKPOINT_SECONDS = 0.5
sys.argv[0] = "train"
run_command(main)
"""


@pytest.mark.slow
def test_an_mnist_run_killed_at_random_times_resumes_exactly(
    data_dir: Path, tmp_path: Path, record_property: Record
) -> None:
    source = load("mnist", data_dir)
    train, test = source.splits["train"], source.splits["test"]
    prebake.bake(
        train.images_NHWC[:2600],
        train.labels_N[:2600],
        test=(test.images_NHWC[:500], test.labels_N[:500]),
        name="mnist",
        epochs=1,
        out=tmp_path / "mnist",
    )

    def start(root: Path) -> subprocess.Popen[bytes]:
        options = ["--shards", tmp_path / "mnist", "--out", root, "--resume", "auto", "--batch-size", 64, *ON_CPU]
        command = [sys.executable, "-c", SCRIPT, *map(str, options)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    started = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - started
    whole = the_run(tmp_path / "whole")
    kills, chain, times = 0, 0, random.Random(0)  # noqa: S311 - no secret
    while kills < 20:
        chain += 1
        code: int | None = None
        while code != 0:
            process = start(tmp_path / str(chain))
            try:
                code = process.wait(times.uniform(0.3 * seconds, 1.1 * seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
                kills += 1
            assert code in (0, -signal.SIGKILL)
        run = the_run(tmp_path / str(chain))
        assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
        for key in ("test_accuracy", "first_loss"):
            assert summary_of(run)[key] == summary_of(whole)[key]
        losses = [[x["train_loss"] for x in log_of(r) if x["event"] == "epoch"] for r in (run, whole)]
        assert losses[0] == losses[1]
        assert_sensible_clocks(run)
    record_property("cases", kills)
