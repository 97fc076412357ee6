"""Training with --follow can start before the bake ends."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import prebake
from prebake.errors import DataError
from prebake.loader.follow import wait_for_epoch
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from prebake.storage.lock import is_locked, locked

ROOT = Path(__file__).parent.parent


@pytest.fixture
def unfinished(digits: SourceData, tmp_path: Path) -> ShardSet:
    """Two epochs of digits. The index of the second is removed."""
    test = digits.splits["test"]
    out = tmp_path / "shards" / "digits"
    prebake.bake(test.images_NHWC, test.labels_N, name="digits", recipe="digits", epochs=2, out=out)
    (out / "train-e001-000.json").rename(out / "aside")
    return ShardSet(out)


def test_a_whole_epoch_is_not_waited_for(unfinished: ShardSet) -> None:
    wait_for_epoch(unfinished, "train", 0, threading.Event())
    assert not is_locked(unfinished.path)


def test_an_epoch_that_no_bake_writes_is_an_error(unfinished: ShardSet) -> None:
    with pytest.raises(DataError, match=r"train-e001-000\.tar.*nobody bakes"):
        wait_for_epoch(unfinished, "train", 1, threading.Event())


def test_an_epoch_that_a_bake_writes_is_waited_for(unfinished: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    waiter = threading.Thread(target=wait_for_epoch, args=(unfinished, "train", 1, threading.Event()))
    with locked(unfinished.path):
        assert is_locked(unfinished.path)
        waiter.start()
        waiter.join(0.3)
        assert waiter.is_alive()
        (unfinished.path / "aside").rename(unfinished.path / "train-e001-000.json")
        waiter.join(10)
    assert not waiter.is_alive()
    assert "waiting for train epoch 1" in capsys.readouterr().err


def test_a_bake_that_dies_ends_the_waiting(unfinished: ShardSet) -> None:
    code = (
        "import sys, pathlib, prebake.storage.lock as l\n"
        "with l.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(unfinished.path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    found: list[BaseException] = []

    def wait() -> None:
        try:
            wait_for_epoch(unfinished, "train", 1, threading.Event())
        except DataError as error:
            found.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive()
    holder.kill()
    holder.communicate()
    waiter.join(10)
    assert len(found) == 1


@pytest.mark.slow
def test_the_two_commands_run_side_by_side(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shards, runs = str(tmp_path / "shards"), str(tmp_path / "runs")
    training = [sys.executable, "-m", "train", "--shards", shards, "--follow", "--epochs", "2", "--out", runs]
    baking = [sys.executable, "-m", "precompute", "--dataset", "digits", "--epochs", "2", "--out", shards]
    with subprocess.Popen(training, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as trainer:
        subprocess.run(baking, cwd=ROOT, env=environment, check=True)
        out, _ = trainer.communicate()
    assert trainer.returncode == 0
    assert "digits    2" in out


def test_follow_exits_with_3_if_no_bake_runs(unfinished: ShardSet, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", "--shards", str(unfinished.path), "--follow", "--batch-size", "64"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "runs")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "nobody bakes it" in done.stderr
