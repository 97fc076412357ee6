"""Soft-label sets: written, read in step with their parent, and refused where they don't fit."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import prebake
from prebake import Loader
from prebake.cli.main import main
from prebake.errors import DataError, UsageError
from prebake.format.manifest import MANIFEST
from prebake.format.soft_labels import DIRECTORY, SoftLabelPlan, Teacher, write_soft_labels
from prebake.format.verify import damage
from prebake.loader.shard_set import ShardSet
from prebake.loader.soft_labels import SoftLabels
from tests.attacks.hostile import reseal

CLASSES = 3
TEACHERS = (Teacher("ab" * 32, "digits"), Teacher("cd" * 32, "digits"))
Change = Callable[[dict[str, Any]], object]
Command = Callable[..., tuple[int, str]]


def probabilities(index_N: NDArray[np.uint32], epoch: int) -> NDArray[np.float16]:
    """Return the soft labels of a view: they tell source index and epoch."""
    first_N = ((index_N + 7 * epoch) % 64 / 64).astype(np.float16)
    return np.stack([first_N, 1 - first_N, 0 * first_N], axis=1)


def write_set(data: ShardSet, directory: Path, epochs: int) -> SoftLabelPlan:
    plan = SoftLabelPlan(data.plan, TEACHERS, averaged=4, precision="float32", epochs=epochs)
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes(plan.to_bytes())
    for epoch in range(epochs):
        index_N = np.concatenate([record.index_N.copy() for record in data.records("train", epoch)])
        for shard in plan.shards(epoch):
            samples = index_N[shard.first_sample : shard.first_sample + shard.samples]
            write_soft_labels(directory, plan, shard, probabilities(samples, epoch))
    return plan


def bake(out: Path, seed: int = 0) -> ShardSet:
    """Bake two epochs of 700 images of 40x40, in records of 128 and the last of 60."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 40, 40, 3), dtype=np.uint8)
    prebake.bake(pixels, np.arange(700) % CLASSES, epochs=2, dtype="uint8", seed=seed, out=out)
    return ShardSet(out)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """A set of several shards an epoch, with soft labels named `teacher`; read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prebake.format.shard.SHARD_BYTES", 2 * 2**20)
        data = bake(tmp_path_factory.mktemp("parent") / "set")
        assert len(data.plan.shards("train", 0)) == 2
        write_set(data, data.path / DIRECTORY / "teacher", epochs=2)
    return data


@pytest.fixture
def copied(parent: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """A copy to damage."""
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 2 * 2**20)
    return ShardSet(shutil.copytree(parent.path, tmp_path / "set"))


def reseal_plan(data: ShardSet, change: Change) -> None:
    reseal(data.path / DIRECTORY / "teacher" / MANIFEST, change)


def test_soft_labels_are_in_step_with_the_records(copied: ShardSet) -> None:
    soft_labels = SoftLabels(copied, "teacher")
    assert soft_labels.plan.teachers == TEACHERS
    for epoch in range(2):
        records = copied.records("train", epoch)
        for shard in copied.plan.shards("train", epoch):
            with soft_labels.open(shard) as reader:
                for number in range(shard.record_count):
                    soft_labels_NK = reader.read(number)
                    assert soft_labels_NK.dtype == np.float16
                    assert np.array_equal(soft_labels_NK, probabilities(next(records).index_N, epoch))
        assert next(records, None) is None


def test_keys_and_shards_are_those_of_the_parent(copied: ShardSet) -> None:
    plan = SoftLabels(copied, "teacher").plan
    for own, shard in zip(plan.shards(), copied.plan.shards("train"), strict=True):
        assert own.tar == shard.tar
        assert [key for key, _ in own.records()] == [key for key, _ in shard.records()]
        assert [layout.samples for layout in own.layouts] == [layout.samples for layout in shard.layouts]


def test_identity_ignores_the_epochs_and_nothing_else(parent: ShardSet) -> None:
    plan = SoftLabelPlan(parent.plan, TEACHERS, 4, "float32", 2)
    assert replace(plan, epochs=1).identity == plan.identity
    others = [
        replace(plan, parent=replace(parent.plan, seed=9)),
        replace(plan, teachers=TEACHERS[:1]),
        replace(plan, averaged=1),
        replace(plan, precision="bfloat16"),
    ]
    assert len({plan.identity, *(other.identity for other in others)}) == 5


def test_verification_covers_soft_labels(copied: ShardSet) -> None:
    soft_labels = SoftLabels(copied, "teacher")
    shard = soft_labels.plan.shards()[0]
    assert damage(soft_labels.location, shard, soft_labels.plan) is None
    with (copied.path / DIRECTORY / "teacher" / shard.tar).open("r+b") as file:
        file.seek(700)
        file.write(b"\xff")
    assert "bytes differ from the index" in str(damage(soft_labels.location, shard, soft_labels.plan))
    with pytest.raises(DataError, match="record e000-r00000: bytes differ"), soft_labels.open(shard) as reader:
        reader.read(0)


def test_soft_labels_of_another_parent_are_refused(copied: ShardSet, tmp_path: Path) -> None:
    other = bake(tmp_path / "other", seed=1)
    shutil.copytree(copied.path / DIRECTORY, other.path / DIRECTORY)
    with pytest.raises(DataError, match=f"expected soft labels of the shard set {other.plan.identity}, found some of"):
        SoftLabels(other, "teacher")


def test_fewer_epochs_than_asked_are_refused(copied: ShardSet) -> None:
    write_set(copied, copied.path / DIRECTORY / "short", epochs=1)
    with pytest.raises(DataError, match="expected soft labels of 2 epochs, found 1"):
        SoftLabels(copied, "short")
    assert SoftLabels(copied, "short", epochs=1).plan.epochs == 1


def test_a_missing_shard_is_refused_by_name(copied: ShardSet) -> None:
    (copied.path / DIRECTORY / "teacher" / "train-e001-001.json").unlink()
    with pytest.raises(DataError, match=r"train-e001-001\.tar missing"):
        SoftLabels(copied, "teacher")
    assert SoftLabels(copied, "teacher", epochs=1).missing(2) == ["train-e001-001.tar"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["columns"][0].update(shape=[4]), r"columns: expected .*'shape': \[3\].*, found .*'shape': \[4\]"),
        (lambda c: c["columns"][0].update(dtype="float32"), "columns: expected"),
        (lambda c: c.update(teachers=[]), "contradicts itself"),
        (lambda c: c.update(precision="float16"), "contradicts itself"),
        (lambda c: c.update(epochs=0), "epochs: expected a whole number from 1"),
        (lambda c: c.update(epochs=2**40), "contradicts itself"),
        (lambda c: c.update(extra=1), "contradicts itself"),
        (lambda c: c.update(version=1), "expected format prebake version 2"),
        (lambda c: c.pop("averaged"), "averaged is missing"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Change, message: str, copied: ShardSet) -> None:
    reseal_plan(copied, change)
    with pytest.raises(DataError, match=message):
        SoftLabels(copied, "teacher")


@pytest.mark.parametrize("name", ["../teacher", "", "a/b", ".hidden"])
def test_a_name_that_is_a_path_is_refused(name: str, parent: ShardSet) -> None:
    with pytest.raises(UsageError, match="expected a name like"):
        SoftLabels(parent, name)


def test_absent_soft_labels_are_named(parent: ShardSet) -> None:
    with pytest.raises(DataError, match=r"soft-labels/none: no manifest\.json here"):
        SoftLabels(parent, "none")


def test_a_soft_label_set_is_not_taken_for_a_shard_set(parent: ShardSet) -> None:
    with pytest.raises(DataError, match="holds soft labels; name the shard set"):
        ShardSet(parent.path / DIRECTORY / "teacher")


@pytest.mark.parametrize("value", [np.nan, -0.5, 1.5, np.inf])
def test_only_probabilities_are_written(value: float, parent: ShardSet, tmp_path: Path) -> None:
    plan = SoftLabelPlan(parent.plan, TEACHERS, 1, "float32", 1)
    shard = plan.shards()[0]
    soft_labels_NK = np.full((shard.samples, CLASSES), 0.25, np.float32)
    soft_labels_NK[-1, -1] = value
    with pytest.raises(UsageError, match="expected probabilities from 0 to 1"):
        write_soft_labels(tmp_path, plan, shard, soft_labels_NK)
    with pytest.raises(UsageError, match="expected the shape"):
        write_soft_labels(tmp_path, plan, shard, soft_labels_NK[:-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_loader_hands_out_soft_labels_with_their_samples(copied: ShardSet, shuffle_seed: int | None) -> None:
    seen = 0
    columns = {"x": "images", "i": "index"}
    for rank in range(2):
        loader = Loader(
            copied, batch_size=50, columns=columns, soft_labels="teacher", shuffle_seed=shuffle_seed,
            rank=rank, world_size=2,
        )  # fmt: skip
        for epoch in range(2):
            for batch in loader:
                assert list(batch) == ["x", "i", "soft_labels"]
                assert batch["soft_labels"].dtype == torch.float32
                wanted = probabilities(batch["i"].numpy().astype(np.uint32), epoch)
                assert np.array_equal(batch["soft_labels"].numpy(), wanted.astype(np.float32))
                seen += len(batch["i"])
    assert seen == 2 * 700


def test_loader_refuses_damaged_and_unknown_soft_labels(copied: ShardSet) -> None:
    with pytest.raises(DataError):
        Loader(copied, batch_size=50, soft_labels="nobody")
    tar = next((copied.path / DIRECTORY / "teacher").glob("train-e000-000.tar"))
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match="bytes differ from the index"):
        list(Loader(copied, batch_size=50, soft_labels="teacher"))


@pytest.fixture
def shards_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process; return its exit code and output."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prebake", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


def test_info_and_verify_know_the_soft_labels(copied: ShardSet, shards_command: Command) -> None:
    assert "soft labels   teacher\n" in shards_command("info", copied.path)[1]
    code, said = shards_command("verify", copied.path)
    assert code == 0, said
    assert f"{len(copied.plan.shards()) + len(copied.plan.shards('train'))} shards, " in said


@pytest.mark.parametrize("broken", ["train-e000-000.tar", "train-e001-000.json", MANIFEST])
def test_verify_names_damaged_soft_labels(copied: ShardSet, broken: str, shards_command: Command) -> None:
    path = copied.path / DIRECTORY / "teacher" / broken
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, said = shards_command("verify", copied.path)
    assert code == 3
    assert str(path) in said
    assert f"1 shards damaged ({DIRECTORY}/teacher/" in said
    assert f"Remove {path.parent}, and write the soft labels again" in said


def test_drop_keeps_soft_labels_and_says_so(copied: ShardSet, shards_command: Command) -> None:
    code, said = shards_command("drop", copied.path, "--epochs", "1-")
    assert code == 0
    assert f"{copied.path / DIRECTORY}: teacher kept" in said
