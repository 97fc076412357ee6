"""Bakes to a remote directory: the same bytes, the manifest first, each index after its shard, one plan only."""

import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prebake.cli.precompute
import prebake.storage.store
import prebake.storage.temp_dir
from prebake.cli.run import run_command
from prebake.errors import DataError, MachineError
from prebake.format.manifest import MANIFEST
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import torchvision_transform
from prebake.storage.cache import Cache
from prebake.storage.temp_dir import temp_dir
from tests.helpers.commands import Command
from tests.helpers.fake_s3 import PREFIX, URL, FakeS3
from tests.helpers.small import AUGMENTATION, bake, files, source_and_plan
from tests.helpers.trials import trial

INDEX, TAR = "train-e001-000.json", "train-e001-000.tar"


@pytest.fixture(autouse=True)
def no_temp_files_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "temp").mkdir()
    yield
    assert list((tmp_path / "temp").iterdir()) == []


def bake_remote(**changes: Any) -> None:
    bake(URL, **changes)  # type: ignore[arg-type] # a URL, as a user gives it


def test_a_remote_bake_writes_the_same_bytes_in_order(s3: FakeS3, done: Path) -> None:
    bake_remote()
    assert s3.set() == files(done)
    methods = [method for method, _ in s3.asked]
    assert s3.asked[methods.index("create")] == ("create", MANIFEST)
    assert methods.count("list") == 2  # before the bake, however many shards it has
    names = s3.written()
    assert names[0] == MANIFEST
    assert len(names) == len(set(names))
    for name in names[1:]:
        if name.endswith(".json"):
            assert names.index(name.replace(".json", ".tar")) < names.index(name)


@pytest.mark.slow
def test_worker_processes_upload_their_shards(s3: FakeS3, tmp_path: Path) -> None:
    turned = replace(AUGMENTATION, transform=torchvision_transform("RandomRotation", degrees=15))
    bake(tmp_path / "here", augment=turned)
    bake_remote(augment=turned)
    assert s3.set() == files(tmp_path / "here")


def test_a_second_bake_uploads_only_missing_shards(s3: FakeS3, done: Path) -> None:
    s3.copy(done)
    for name in (INDEX, "test-000.tar", "test-000.json"):
        del s3.files[PREFIX + name]
    bake_remote()
    assert s3.set() == files(done)
    assert set(s3.written()) == {MANIFEST, TAR, INDEX, "test-000.tar", "test-000.json"}
    s3.asked.clear()
    bake_remote()
    assert s3.written() == [MANIFEST]  # and that is not created
    assert s3.asked.count(("create", MANIFEST)) == 1


@pytest.mark.slow
def test_more_epochs_add_shards_and_fewer_remove_none(s3: FakeS3, done: Path) -> None:
    bake_remote(epochs=2)
    bake_remote(epochs=3)
    assert s3.set() == files(done)
    bake_remote(epochs=1)
    assert s3.set() == files(done)


def test_another_plan_is_refused_with_its_differences(s3: FakeS3, done: Path) -> None:
    s3.copy(done)
    with pytest.raises(DataError, match=rf"{URL}: holds other shards.*seed is 0 there, 1 asked for"):
        bake_remote(seed=1)
    assert s3.set() == files(done)


def test_shards_without_a_manifest_are_refused(s3: FakeS3, done: Path) -> None:
    s3.copy(done)
    del s3.files[PREFIX + MANIFEST]
    with pytest.raises(DataError, match=rf"{URL}: holds test-000\.json, .* but no manifest\.json"):
        bake_remote()


def test_of_two_plans_the_second_to_write_is_refused(s3: FakeS3, done: Path) -> None:
    other = (done / MANIFEST).read_bytes()

    def other_comes_first(method: str, _name: str) -> None:
        if method == "create":
            s3.files.setdefault(PREFIX + MANIFEST, other)

    s3.trouble = other_comes_first
    with pytest.raises(DataError, match=r"holds other shards.*seed is 0 there, 1 asked for"):
        bake_remote(seed=1)
    assert s3.set() == {MANIFEST: other}
    bake_remote()
    assert s3.set() == files(done)


def test_a_store_without_conditional_writes_is_asked_first(s3: FakeS3, done: Path) -> None:
    s3.trouble = lambda method, _name: 501 if method == "create" else None
    bake_remote()
    assert s3.set() == files(done)
    s3.asked.clear()
    bake_remote()
    assert s3.written() == [MANIFEST]  # and that is not created
    with pytest.raises(DataError, match="holds other shards"):
        bake_remote(seed=1)


def test_a_read_only_store_is_named_at_once(s3: FakeS3) -> None:
    s3.trouble = lambda method, _name: 501 if method in ("create", "write") else None
    with pytest.raises(MachineError, match=rf"{URL}/{MANIFEST}: .*does not know such a request.*501"):
        bake_remote()
    assert s3.written() == [MANIFEST] * 2


def test_overwrite_replaces_another_plan_and_resumes(s3: FakeS3, done: Path, tmp_path: Path) -> None:
    s3.copy(done)
    bake_remote(dtype="uint8", epochs=2, overwrite=True)
    assert s3.set() == files(bake(tmp_path / "here", dtype="uint8", epochs=2).path)
    removed = [name for method, name in s3.asked if method == "remove"]
    suffixes = [name.rpartition(".")[2] for name in removed]
    assert suffixes == sorted(suffixes, key="tar".__eq__)
    del s3.files[PREFIX + INDEX]
    s3.asked.clear()
    bake_remote(dtype="uint8", epochs=2, overwrite=True)
    assert set(s3.written()) == {MANIFEST, TAR, INDEX}


@pytest.mark.parametrize("moment", ["baked", "uploaded"])
def test_a_bake_whose_set_is_overwritten_writes_no_index(s3: FakeS3, tmp_path: Path, moment: str) -> None:
    mine, other = (source_and_plan(seed=seed)[1].to_bytes() for seed in (0, 1))

    def take_over() -> None:
        s3.files[PREFIX + MANIFEST] = other

    def after_reading(data: bytes) -> bytes:
        if (data, moment) == (mine, "baked"):  # read before its first shard is baked
            take_over()
        return data

    def before_writing(_method: str, name: str) -> None:
        if (name, moment) == ("test-000.tar", "uploaded"):
            take_over()

    s3.spoil, s3.trouble = after_reading, before_writing
    with pytest.raises(DataError, match=rf"{URL}/{MANIFEST}: of another plan now"):
        bake_remote(workers=1)
    assert set(s3.set()) == {MANIFEST} | ({"test-000.tar"} if moment == "uploaded" else set())
    bake_remote(seed=1)
    assert s3.set() == files(bake(tmp_path / "here", seed=1).path)


@pytest.mark.parametrize("moment", [MANIFEST, "test-000.tar"])
def test_late_shards_of_an_overwritten_set_are_replaced(s3: FakeS3, done: Path, tmp_path: Path, moment: str) -> None:
    s3.copy(done)

    def other_writes_late(method: str, name: str) -> None:
        if (method, name) == ("write", moment):
            s3.files.update({PREFIX + late: (done / late).read_bytes() for late in (TAR, INDEX)})

    s3.trouble = other_writes_late
    bake_remote(seed=1, overwrite=True, workers=1)
    assert s3.set() == files(bake(tmp_path / "here", seed=1).path)


def test_failed_uploads_are_repeated_until_the_deadline(
    s3: FakeS3, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[tuple[str, str], int] = {}

    def fail_first(method: str, name: str) -> int | None:
        calls[method, name] = calls.get((method, name), 0) + 1
        return 503 if calls[method, name] == 1 else None

    s3.trouble = fail_first
    bake_remote()
    assert s3.set() == files(done)
    s3.clear()
    s3.trouble = lambda _method, name: 503 if name == TAR else None
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(MachineError, match=rf"{URL}/{TAR}: no answer in .*503"):
        bake_remote()
    assert INDEX not in s3.set()


def test_an_unfinished_set_is_reported(s3: FakeS3, done: Path, tmp_path: Path, command: Command) -> None:
    s3.copy(done)
    del s3.files[PREFIX + INDEX]
    with pytest.raises(DataError, match=rf"{URL}: train epoch 1 is not baked yet.*same --out"):
        next(ShardSet(URL, Cache(tmp_path / "cache", 10**6)).batches("train", 1, batch_size=1))
    ended = command("--shards", URL, "--cache", tmp_path / "cache")
    assert ended.code == 3
    assert f"{URL}: unfinished, 1 shards are missing ({TAR})" in ended.err


@pytest.mark.slow
def test_temp_dirs_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        with temp_dir() as here:
            (here / "x").write_bytes(b"1")
            signal.raise_signal(signal.SIGKILL)

    assert trial(act).status == -signal.SIGKILL
    (left,) = (tmp_path / "temp").iterdir()
    with temp_dir():
        assert left.is_dir()  # too young: its process may be about to lock it
    monkeypatch.setattr(prebake.storage.temp_dir, "YOUNG_SECONDS", -1)
    with temp_dir() as first, temp_dir():
        assert first.is_dir()
        assert not left.is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "https://host/x"], 2, "--out: https://host/x: HTTP is for reading only"),
        (["--out", "memory://x"], 2, "memory://...: unknown kind of URL"),
        pytest.param(["--out", "s3://bucket/x", "--dry-run"], 0, "digits", marks=pytest.mark.slow),
    ],
)
def test_precompute_takes_urls(
    s3: FakeS3,
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["precompute", "--dataset", "digits", "--epochs", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(prebake.cli.precompute.main)
    said = capsys.readouterr()
    assert ended.value.code == code
    assert words in said.err + said.out
    assert s3.files == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shards", URL, "--follow"], 2, "--follow: only a bake on this machine can be followed"),
        (["--shards", URL, "--cache-size", "10 apples"], 2, "--cache-size: expected a size such as 500MB or 4GB"),
        (["--shards", URL, "--cache-size", "100kB"], 2, r"--cache-size: expected at least \d+ bytes for 4 shards"),
        (["--shards", "s3://bucket/none"], 3, "--shards: s3://bucket/none holds no shard set"),
        (["--shards", "s3://bucket", "--dataset", "mnist"], 3, "s3://bucket holds no shard set"),
    ],
)
def test_train_takes_urls(
    s3: FakeS3, done: Path, tmp_path: Path, command: Command, arguments: list[str], code: int, words: str
) -> None:
    s3.copy(done)
    ended = command(*arguments, "--cache", tmp_path / "cache", "--out", tmp_path / "runs")
    assert ended.code == code
    assert re.search(words, ended.err)
    assert not (tmp_path / "runs").exists()
