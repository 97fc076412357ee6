"""`python -m train`: what else a user can get wrong, a test for each with its exit code and its words."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prebake
from prebake.format.document import serialize
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData
from prebake.storage.lock import locked
from tests.helpers.commands import ON_CPU, ROOT, Command, log_of, summary_of, the_run
from tests.helpers.runs import interrupted_at

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Scene:
    """A copy of the tiny shards, a run on them that was interrupted, and the way to run the command."""

    shards: Path
    run: Path
    command: Command
    digits: SourceData

    @property
    def options(self) -> tuple[object, ...]:
        """Those that the run was begun with."""
        return ("--shards", self.shards, "--out", self.run.parent, *ON_CPU)

    def bake(self, directory: str, **changes: Any) -> Path:
        """Bake other shards beside these."""
        train, test = self.digits.splits["train"], self.digits.splits["test"]
        arguments = {
            "data": train.images_NHWC[:200],
            "labels": train.labels_N[:200],
            "test": (test.images_NHWC[:100], test.labels_N[:100]),
            "classes": self.digits.classes,
            "name": "digits",
            "recipe": "digits",
            "epochs": 2,
            "out": self.shards.parent / directory,
        }
        prebake.bake(**{**arguments, **changes})
        return self.shards.parent / directory


@pytest.fixture
def scene(shards: Path, digits: SourceData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Scene:
    """The run stands after its first epoch."""
    copied = Path(shutil.copytree(shards / "digits", tmp_path / "digits"))
    with monkeypatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(3))
        assert command("--shards", copied, "--out", tmp_path / "runs", *ON_CPU).code == 130
    return Scene(copied, the_run(tmp_path / "runs"), command, digits)


def another_data_set(scene: Scene) -> tuple[object, ...]:
    return ("--resume", scene.run, "--shards", scene.bake("other", name="svhn"))


def another_augmentation(scene: Scene) -> tuple[object, ...]:
    return ("--resume", scene.run, "--shards", scene.bake("other", augment="plain"))


def other_classes(scene: Scene) -> tuple[object, ...]:
    return ("--resume", scene.run, "--shards", scene.bake("other", classes=[*scene.digits.classes, "ten"]))


def fewer_variants(scene: Scene) -> tuple[object, ...]:
    return ("--resume", scene.run, "--shards", scene.bake("other", epochs=1))


def newer_version(scene: Scene) -> tuple[object, ...]:
    path = scene.shards / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["checksum"]
    path.write_bytes(serialize({**content, "version": 3}))
    return ("--resume", scene.run)


def unreadable_checkpoint(scene: Scene) -> tuple[object, ...]:
    for path in (scene.run / "checkpoint").iterdir():
        path.unlink()
        path.mkdir()
    return ("--resume", scene.run)


def checkpoint_of_other_classes(scene: Scene) -> tuple[object, ...]:
    (ours,) = (scene.run / "checkpoint").iterdir()
    runs = scene.run.parent.parent / "others"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prebake.train.trainer.autocast", interrupted_at(3))
        other = scene.bake("other", classes=[*scene.digits.classes, "ten"])
        assert scene.command("--shards", other, "--out", runs, *ON_CPU).code == 130
    shutil.copy(next(the_run(runs).glob("checkpoint/*")), ours)
    return ("--resume", scene.run)


def no_run(scene: Scene) -> tuple[object, ...]:
    return ("--resume", scene.shards)


def never(_scene: Scene) -> tuple[object, ...]:
    return ("--resume", "never")


def strange_settings(scene: Scene) -> tuple[object, ...]:
    line = {**log_of(scene.run)[0]}
    line["settings"]["recipe"]["batch_size"] = "many"
    (scene.run / "log.jsonl").write_text(json.dumps(line) + "\n")
    return ("--resume", scene.run)


def another_machine(scene: Scene) -> tuple[object, ...]:
    line = {**log_of(scene.run)[0]}
    line["settings"]["device"] = "mps" if not torch.backends.mps.is_available() else "cuda"
    (scene.run / "log.jsonl").write_text(json.dumps(line) + "\n")
    return ("--resume", scene.run)


def out_is_a_file(scene: Scene) -> tuple[object, ...]:
    return ("--shards", scene.shards, "--out", scene.shards / "manifest.json", *ON_CPU)


def out_is_in_a_file(scene: Scene) -> tuple[object, ...]:
    return ("--shards", scene.shards, "--out", scene.shards / "manifest.json" / "runs", *ON_CPU)


def out_is_read_only(scene: Scene) -> tuple[object, ...]:
    if os.geteuid() == 0:
        return ("--shards", scene.shards, "--out", "/proc/self/runs", *ON_CPU)  # where root makes no directory either
    scene.run.parent.chmod(0o500)
    return ("--shards", scene.shards, "--out", scene.run.parent, "--seed", 5, *ON_CPU)


def one_image(scene: Scene) -> tuple[object, ...]:
    train = scene.digits.splits["train"]
    one = scene.bake("one", data=train.images_NHWC[:1], labels=train.labels_N[:1], test=None, epochs=1)
    return ("--shards", one, "--out", scene.run.parent, *ON_CPU)


def batches_of_one(scene: Scene) -> tuple[object, ...]:
    return (*scene.options, "--batch-size", 1)


def strange_summary(scene: Scene) -> tuple[object, ...]:
    (scene.run / "summary.json").write_text('{"dataset": "digits"}')
    return (*scene.options, "--resume", "auto")


TABLE: list[tuple[Callable[[Scene], tuple[object, ...]], int, str]] = [
    (another_data_set, 3, "holds no shards of digits; there are svhn"),
    (another_augmentation, 3, "source, augmentation, dtype or seed differ"),
    (other_classes, 3, "other shards than"),
    (fewer_variants, 3, "plays 2 views, found 1; bake as many epochs as there were"),
    (newer_version, 3, "expected format prebake version 2, found prebake version 3"),
    (unreadable_checkpoint, 3, "can't be read (Is a directory)"),
    (checkpoint_of_other_classes, 3, "of another run"),
    (no_run, 3, "holds no run (no settings"),
    (never, 3, "never: holds no run (no settings"),
    (strange_settings, 3, "log.jsonl holds no usable settings (batch_size: expected <class 'int'>, found 'many')"),
    (strange_summary, 3, "summary.json: not the summary of a run"),
    (another_machine, 4, "and can be resumed only there (--device: this machine has no "),
    (out_is_a_file, 4, "manifest.json"),
    (out_is_in_a_file, 4, "manifest.json"),
    (out_is_read_only, 4, "runs"),
    (one_image, 2, "batches of 64 are larger than the 1 training images"),
    (batches_of_one, 2, "--batch-size: expected at least 2, as batch norm needs, found 1"),
]


@pytest.mark.parametrize(("make", "code", "words"), TABLE, ids=[make.__name__ for make, _, _ in TABLE])
def test_bad_input_ends_with_its_exit_code_and_message(
    make: Callable[[Scene], tuple[object, ...]], code: int, words: str, scene: Scene, record_property: Record
) -> None:
    arguments = make(scene)
    before = sorted(scene.run.parent.rglob("*"))
    ended = scene.command(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert sorted(scene.run.parent.rglob("*")) == before
    record_property("cases", 1)


def test_a_second_training_of_a_run_ends_and_names_the_first(scene: Scene) -> None:
    with locked(scene.run, "run.lock", "training"):
        for options in (("--resume", scene.run), (*scene.options, "--resume", "auto"), (*scene.options, "--overwrite")):
            before = (scene.run / "log.jsonl").read_bytes()
            ended = scene.command(*options)
            assert ended.code == 3
            assert f"{scene.run}: process {os.getpid()} on " in ended.err
            assert "is training here" in ended.err
            assert (scene.run / "log.jsonl").read_bytes() == before
    assert scene.command("--resume", scene.run).code == 0


def test_a_clock_that_is_set_back_makes_no_second_negative(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    ahead = time.time_ns() // 10**9 + 10**6
    for path in (scene.shards, *scene.shards.iterdir(), scene.run, *scene.run.rglob("*")):
        os.utime(path, (ahead, ahead))
    assert scene.command("--resume", scene.run).code == 0
    summary = summary_of(scene.run)
    assert all(value >= 0 for value in summary["seconds"].values())
    assert 0 <= summary["utilization"] <= 1


def test_the_last_partial_batch_is_dropped_only_in_training(scene: Scene) -> None:
    ended = scene.command(*scene.options, "--batch-size", 99, "--seed", 3)
    assert ended.code == 0, ended.err
    run = the_run(scene.run.parent, "digits-digits-s3")
    epochs = [line for line in log_of(run) if line["event"] == "epoch"]
    for line in epochs:
        assert line["images_per_second"] == pytest.approx(2 * 99 / line["train_seconds"])
        assert line["train_accuracy"] * 2 * 99 == pytest.approx(round(line["train_accuracy"] * 2 * 99))
    # 100 test images in one batch of fewer than 500.
    assert summary_of(run)["test_accuracy"] * 100 == pytest.approx(round(summary_of(run)["test_accuracy"] * 100))
    assert ShardSet(scene.shards).samples("test") == 100


def test_a_set_of_two_images_and_one_epoch_can_be_trained_on(
    tmp_path: Path, command: Command, rng: np.random.Generator
) -> None:
    images = rng.integers(0, 256, (2, 8, 8, 1), np.uint8)
    prebake.bake(images, np.array([0, 1]), test=(images[:1], np.array([0])), epochs=1, out=tmp_path / "two")
    ended = command("--shards", tmp_path / "two", "--out", tmp_path / "runs", "--batch-size", 2, *ON_CPU)
    assert ended.code == 0, ended.err
    assert summary_of(the_run(tmp_path / "runs"))["test_accuracy"] in (0.0, 1.0)


SCRIPT = """
import sys
from prebake.cli.run import run_command
from prebake.cli.train import main
codes = []
while "--" in sys.argv:
    end = sys.argv.index("--")
    rest, sys.argv[1:] = sys.argv[end + 1 :], sys.argv[1:end]
    try:
        run_command(main)
    except SystemExit as ended:
        codes.append(ended.code)
    sys.argv[1:] = rest
print(codes)
"""


@pytest.mark.slow
def test_locale_c_and_unusual_file_names_change_nothing(shards: Path, tmp_path: Path) -> None:
    home = tmp_path / "Größe 大 mit Leerraum"
    copied, runs = shutil.copytree(shards / "digits", home / "digits set"), home / "meine Läufe"
    commands = [
        ["--shards", copied, "--out", runs, "--epochs", 1, "--json", *ON_CPU],
        ["--shards", copied, "--out", runs, "--epochs", 1, "--resume", "auto", *ON_CPU],
        ["--shards", copied, "--out", runs, "--epochs", 1, *ON_CPU],
        ["--shards", home / "nothing here"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(word) for command in commands for word in (*command, "--"))],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    summary, *_, codes = done.stdout.splitlines()
    assert codes == b"[0, 0, 2, 3]", done.stderr
    assert json.loads(summary) == summary_of(the_run(runs))
    assert done.stderr.splitlines()[-1].startswith(b"error: --shards: no directory named ")


def test_a_user_without_a_home_trains_from_local_shards(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache is for what comes by URL; an option of it that is wrong is refused all the same."""

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # its drawings take time
    # The first trains the rest of the run; the second finds nothing left to do.
    for again in (("--resume", scene.run), (*scene.options, "--resume", "auto")):
        refused = scene.command(*again, "--cache-size", "10 apples")
        assert (refused.code, "--cache-size: expected a size" in refused.err) == (2, True), refused.err
        ended = scene.command(*again)
        assert ended.code == 0, ended.err
