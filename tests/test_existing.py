"""A directory with shards: the bake resumes, repairs, refuses or replaces them, and touches no other file."""

import collections
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from numpy.typing import NDArray

from prebake.errors import DataError, MachineError, UsageError
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.precompute.drop import drop_epochs
from tests.helpers.small import IMAGES, LABELS, TEST, bake, files, flip_byte, stamps

ROOT = Path(__file__).resolve().parents[1]


def test_two_epochs_and_then_five_are_five_at_once(tmp_path: Path) -> None:
    two = bake(tmp_path / "set", epochs=2)
    before = stamps(two.path)
    five = bake(tmp_path / "set", epochs=5)
    assert five.epochs == 5
    assert {name: stamp for name, stamp in stamps(five.path).items() if name in before} == before
    assert files(five.path) == files(bake(tmp_path / "at once", epochs=5).path)


def test_fewer_epochs_than_are_there_leave_all_as_it_is(there: Path) -> None:
    before = files(there)
    assert bake(there, epochs=1).epochs == 3
    assert files(there) == before


def test_a_second_run_finds_all_done_and_writes_no_shard(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(there), files(there), (there / "bake.lock").read_bytes()
    bake(there)
    assert (stamps(there), files(there), (there / "bake.lock").read_bytes()) == before
    assert "already has all 3 epochs" in capsys.readouterr().err


def test_a_second_run_does_not_touch_the_manifest_either(there: Path) -> None:
    before = (there / "manifest.json").stat()
    bake(there)
    after = (there / "manifest.json").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def changed(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of which one value is another."""
    array = array.copy()
    array.reshape(-1)[7] ^= 1
    return array


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"augment": Augmentation("standard", 2, "reflect", "random", 3)}, r"augmentation\.cutout is 2 there, 3 asked"),
        ({"augment": "plain"}, r"augmentation\.name is 'standard' there, 'plain' asked for"),
        ({"seed": 1}, "seed is 0 there, 1 asked for"),
        ({"dtype": "uint8"}, "dtype is 'float16' there, 'uint8' asked for"),
        ({"images": changed(IMAGES)}, r"source\.sha256\.train"),
        ({"labels": LABELS[::-1]}, r"source\.sha256\.train"),
        ({"test": (TEST[0], TEST[1][::-1])}, r"source\.sha256\.test"),
        ({"test": None}, r"source\.sha256\.test"),
        ({"val_fraction": 0.2}, r"source\.sha256\.train"),
        ({"val_fraction": 0}, r"source\.sha256\.val"),
        ({"classes": "abcdf"}, r"source\.classes"),
        ({"name": "others"}, r"source\.name is 'images' there, 'others' asked for"),
    ],
)
def test_another_plan_is_refused_unless_overwrite_is_given(
    changes: dict[str, Any], named: str, there: Path, tmp_path: Path
) -> None:
    before = files(there), stamps(there)
    with pytest.raises(DataError, match=named) as caught:
        bake(there, **changes)
    assert "--overwrite" in str(caught.value)
    assert (files(there), stamps(there)) == before
    (there / "notes.txt").write_text("mine")
    (there / "other-000.tar").write_text("mine too")
    bake(there, **changes, epochs=1, overwrite=True)
    expected = files(bake(tmp_path / "fresh", **changes, epochs=1).path)
    assert files(there) == {**expected, "notes.txt": b"mine", "other-000.tar": b"mine too"}


def test_shards_without_a_manifest_are_refused(there: Path, done: Path) -> None:
    (there / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds .*-000\..*, but no manifest\.json"):
        bake(there)
    bake(there, overwrite=True)
    assert files(there) == files(done)


def test_a_damaged_manifest_is_refused_and_replaced_when_asked(there: Path, done: Path) -> None:
    flip_byte(there / "manifest.json", 50)
    with pytest.raises(DataError, match=r"manifest\.json: .*bake the set again: the same command with --overwrite"):
        bake(there)
    bake(there, overwrite=True)
    assert files(there) == files(done)


@pytest.mark.parametrize(
    "harm",
    [
        lambda directory: flip_byte(directory / "train-e001-000.tar", 3000),
        lambda directory: flip_byte(directory / "train-e001-000.tar", -1),
        lambda directory: flip_byte(directory / "train-e001-000.json", 30),
        lambda directory: (directory / "train-e001-000.json").write_bytes(b""),
        lambda directory: (directory / "train-e001-000.json").unlink(),
        lambda directory: (directory / "train-e001-000.tar").unlink(),
        lambda directory: (directory / "train-e001-000.tar").write_bytes(b""),
        lambda directory: shutil.copy(directory / "train-e002-000.tar", directory / "train-e001-000.tar"),
        lambda directory: (directory / f"train-e001-000.tar.{'0a' * 8}.part").write_bytes(b"half"),
        lambda directory: (directory / "manifest.json.part").write_bytes(b"half"),
    ],
    ids=["flip", "last byte", "index", "no index", "index gone", "tar gone", "empty", "copy", "part", "manifest part"],
)
def test_a_second_bake_repairs_damaged_shards_only(harm: Callable[[Path], object], there: Path, done: Path) -> None:
    before = stamps(there)
    harm(there)
    bake(there)
    assert files(there) == files(done)
    after = stamps(there)
    assert {name for name in after if after[name] != before[name]} <= {"train-e001-000.tar", "train-e001-000.json"}


def test_a_directory_in_which_another_process_bakes_is_refused(there: Path) -> None:
    code = """
import sys
from pathlib import Path
from prebake.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
    before = files(there)
    command = [sys.executable, "-c", code, str(there)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        for act in (lambda: bake(there, epochs=4, overwrite=True), lambda: drop_epochs(ShardSet(there), 1)):
            with pytest.raises(DataError, match=rf"process {other.pid} on .* is baking here"):
                act()
        assert files(there) == before
        other.communicate()
    assert other.returncode == 0
    assert bake(there, epochs=4).missing() == []


KILLED = """
import sys
import numpy as np
import prebake
images = np.arange(200 * 16).astype(np.uint8).reshape(200, 4, 4)
augment = prebake.Augmentation("standard", 1, "zero", "random", 1)
prebake.bake(images, np.arange(200) % 7, augment=augment, epochs=800, dtype="uint8", out=sys.argv[1], workers=2)
"""


@pytest.mark.slow  # 800 epochs; test_kills.py kills small bakes
def test_a_bake_killed_twice_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    out, fresh = tmp_path / "killed", tmp_path / "fresh"
    for lines in (1, 40):
        # Its progress fills the pipe, so it can't end before it is killed.
        command = [sys.executable, "-c", KILLED, str(out)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for _ in range(lines):
                assert "done" in process.stderr.readline()
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        data = ShardSet(out)
        missing = set(data.missing())
        whole = [shard for shard in data.plan.shards() if shard.tar not in missing]
        assert len(whole) >= lines
        assert missing
        assert [damage(out, shard, data.plan) for shard in whole] == [None] * len(whole)
    for directory in (out, fresh):
        subprocess.run([sys.executable, "-c", KILLED, str(directory)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert files(out) == files(fresh)
    assert len(files(out)) == 1 + 2 * 800


def test_an_error_in_one_worker_ends_the_bake(tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def failing(path: Path, target: Path) -> None:
        if target.name == "train-e001-000.tar":
            raise OSError(28, "No space left on device", str(target))
        replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(MachineError, match=r"train-e001-000\.tar: No space .* still to be written, .* free"):
            bake(tmp_path / "set", workers=2)
    left = {path.name for path in (tmp_path / "set").iterdir()}
    assert not left & {"train-e001-000.tar", "train-e001-000.json"}
    assert "manifest.json" in left
    bake(tmp_path / "set")
    assert files(tmp_path / "set") == files(done)


def test_dropped_epochs_are_baked_again_to_the_same_bytes(there: Path, done: Path) -> None:
    freed = drop_epochs(ShardSet(there), 1)
    gone = {name: data for name, data in files(done).items() if name.startswith(("train-e001", "train-e002"))}
    assert freed == sum(len(data) for data in gone.values())
    assert set(files(there)) == set(files(done)) - set(gone)
    assert (ShardSet(there).epochs, ShardSet(there).missing()) == (1, [])
    assert files(there) == files(bake(there, epochs=1).path)
    bake(there)
    assert files(there) == files(done)


def test_epoch_zero_can_not_be_dropped(there: Path) -> None:
    before = files(there)
    with pytest.raises(UsageError, match="at least epoch 0 must remain"):
        drop_epochs(ShardSet(there), 0)
    assert files(there) == before


def test_too_little_space_is_reported_before_anything_is_written(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(shard.size_bytes for shard in ShardSet(done).plan.shards())
    usage = collections.namedtuple("usage", "total used free")
    for free in (0, needed - 1):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(10**9, 0, free))
        with pytest.raises(MachineError, match=r"to be written.*free.*--dtype uint8"):
            bake(tmp_path / "set")
        assert files(tmp_path / "set") == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, needed))
    assert files(bake(tmp_path / "set").path) == files(done)


def test_overwrite_keeps_the_old_set_if_the_new_one_does_not_fit(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used() -> int:
        return sum(path.stat().st_size for path in there.iterdir())

    before = {path.name: path.read_bytes() for path in there.iterdir()}
    size = used()  # a disk that the old set has filled
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - used()))
    with pytest.raises(MachineError, match="to be written"):
        bake(there, dtype="float32", overwrite=True)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before
    bake(there, dtype="uint8", overwrite=True)  # half the bytes fit into what the old set frees
    assert ShardSet(there).plan.dtype == "uint8"
