"""Baking to what lies elsewhere: the same bytes, the manifest first, each index after its shard, one plan alone."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import prebake.cli.precompute
import prebake.storage.store
import prebake.storage.temp_dir
from prebake.cli.run import run_command
from prebake.errors import DataError, MachineError
from prebake.format.manifest import MANIFEST
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import torchvision_transform
from prebake.storage.cache import Cache
from tests.helpers.commands import Command
from tests.helpers.shaky import Shaky, filled
from tests.helpers.small import AUGMENTATION, bake, files, source_and_plan
from tests.helpers.trials import trial

URL = "shaky://bucket/set"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(prebake.storage.store, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "scratch").mkdir()
    Shaky.clear()
    yield
    assert list((tmp_path / "scratch").iterdir()) == []
    Shaky.clear()


def bake_there(**changes: Any) -> None:
    bake(URL, **changes)  # type: ignore[arg-type] # a URL, as a user gives it


def there() -> dict[str, bytes]:
    return Shaky("x").names("bucket/set")


def written() -> list[str]:
    return [name for method, name in Shaky.asked if method in ("claim", "write")]


def test_a_bake_elsewhere_has_the_same_bytes_and_the_right_order(done: Path) -> None:
    bake_there()
    assert there() == files(done)
    methods = [method for method, _ in Shaky.asked]
    assert Shaky.asked[methods.index("claim")] == ("claim", MANIFEST)
    assert methods.count("list") == 2  # before the bake, however many shards it has
    names = written()
    assert names[0] == MANIFEST
    assert len(names) == len(set(names))
    for name in names[1:]:
        if name.endswith(".json"):
            assert names.index(name.replace(".json", ".tar")) < names.index(name)


@pytest.mark.slow
def test_processes_upload_what_they_bake(tmp_path: Path) -> None:
    turned = replace(AUGMENTATION, transform=torchvision_transform("RandomRotation", degrees=15))
    bake(tmp_path / "here", augment=turned)
    (tmp_path / "there").mkdir()
    # They have memories of their own, so that a directory is the store.
    bake(f"local://{tmp_path / 'there'}", augment=turned)  # type: ignore[arg-type] # as above
    assert files(tmp_path / "there") == files(tmp_path / "here")


def test_again_it_uploads_what_is_missing_only(done: Path) -> None:
    filled(done)
    for name in ("train-e001-000.json", "test-000.tar", "test-000.json"):
        del Shaky.store[f"/bucket/set/{name}"]
    bake_there()
    assert there() == files(done)
    assert set(written()) == {MANIFEST, "train-e001-000.tar", "train-e001-000.json", "test-000.tar", "test-000.json"}
    Shaky.asked.clear()
    bake_there()
    assert written() == [MANIFEST]  # a claim that is not granted
    assert Shaky.asked.count(("claim", MANIFEST)) == 1


@pytest.mark.slow
def test_a_larger_number_of_epochs_adds_some_and_a_smaller_one_takes_none(done: Path) -> None:
    bake_there(epochs=2)
    bake_there(epochs=3)
    assert there() == files(done)
    Shaky.asked.clear()
    bake_there(epochs=1)
    assert there() == files(done)


def test_another_plan_is_refused_by_name_of_what_differs(done: Path) -> None:
    filled(done)
    with pytest.raises(DataError, match=rf"{URL}: holds other shards.*seed is 0 there, 1 asked for"):
        bake_there(seed=1)
    assert there() == files(done)


def test_shards_without_a_manifest_are_refused(done: Path) -> None:
    filled(done)
    del Shaky.store[f"/bucket/set/{MANIFEST}"]
    with pytest.raises(DataError, match=rf"{URL}: holds test-000\.json, .* but no manifest\.json"):
        bake_there()


def test_whoever_claims_second_is_refused(done: Path) -> None:
    """The other's manifest comes between the look and the claim."""
    other = (done / MANIFEST).read_bytes()

    def trouble(method: str, _name: str) -> None:
        if method == "claim" and not there():
            Shaky("x").pipe_file(f"/bucket/set/{MANIFEST}", other)

    Shaky.trouble = staticmethod(trouble)
    with pytest.raises(DataError, match=r"holds other shards.*seed is 0 there, 1 asked for"):
        bake_there(seed=1)
    assert there() == {MANIFEST: other}
    bake_there()
    assert there() == files(done)


def not_implemented() -> OSError:
    """What s3fs raises."""
    error = OSError(38, "A header you provided implies functionality that is not implemented")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": 501}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    "error",
    [
        not_implemented(),
        pytest.param(NotImplementedError("File mode not supported"), marks=pytest.mark.slow),
        TypeError("Old.pipe_file() got an unexpected keyword argument 'mode'"),
    ],
)
def test_a_store_that_knows_no_claims_is_asked_first_and_written_to(done: Path, error: Exception) -> None:
    Shaky.trouble = staticmethod(lambda method, _name: error if method == "claim" else None)
    bake_there()
    assert there() == files(done)
    Shaky.asked.clear()
    bake_there()
    assert written() == [MANIFEST]  # a claim that is not granted
    with pytest.raises(DataError, match="holds other shards"):
        bake_there(seed=1)


def test_a_store_that_can_not_write_at_all_is_named_at_once() -> None:
    Shaky.trouble = staticmethod(lambda method, _name: not_implemented() if method in ("claim", "write") else None)
    with pytest.raises(MachineError, match=rf"{URL}/{MANIFEST}: .*not implemented"):
        bake_there()
    assert written() == [MANIFEST] * 2


def test_overwrite_replaces_another_plan_and_goes_on_with_the_same(done: Path, tmp_path: Path) -> None:
    filled(done)
    bake_there(dtype="uint8", epochs=2, overwrite=True)
    assert there() == files(bake(tmp_path / "here", dtype="uint8", epochs=2).path)
    removed = [name for method, name in Shaky.asked if method == "remove"]
    assert removed == sorted(removed, key=lambda name: name.endswith(".tar"))
    del Shaky.store["/bucket/set/train-e001-000.json"]
    Shaky.asked.clear()
    bake_there(dtype="uint8", epochs=2, overwrite=True)
    assert set(written()) == {MANIFEST, "train-e001-000.tar", "train-e001-000.json"}


@pytest.mark.parametrize("moment", ["baked", "uploaded"])
def test_whoever_still_bakes_a_shard_of_a_set_that_is_overwritten_leaves_no_index(tmp_path: Path, moment: str) -> None:
    mine, other = (source_and_plan(seed=seed)[1].to_bytes() for seed in (0, 1))

    def take_over() -> None:
        MemoryFileSystem.pipe_file(Shaky("x"), f"/bucket/set/{MANIFEST}", other)

    def after_reading(data: bytes) -> bytes:
        if (data, moment) == (mine, "baked"):  # asked for before its first shard is begun
            take_over()
        return data

    def before_writing(_method: str, name: str) -> None:
        if (name, moment) == ("test-000.tar", "uploaded"):
            take_over()

    Shaky.spoil, Shaky.trouble = staticmethod(after_reading), staticmethod(before_writing)
    with pytest.raises(DataError, match=rf"{URL}/{MANIFEST}: of another plan now"):
        bake_there(workers=1)
    assert set(there()) == {MANIFEST} | ({"test-000.tar"} if moment == "uploaded" else set())
    bake_there(seed=1)
    assert there() == files(bake(tmp_path / "here", seed=1).path)


@pytest.mark.parametrize("moment", [MANIFEST, "test-000.tar"])
def test_shards_that_another_plan_s_writer_still_left_are_baked_over(done: Path, tmp_path: Path, moment: str) -> None:
    filled(done)
    late = {f"train-e001-000.{ending}": (done / f"train-e001-000.{ending}").read_bytes() for ending in ("tar", "json")}

    def trouble(method: str, name: str) -> None:
        if (method, name) == ("write", moment):
            for left, data in late.items():
                MemoryFileSystem.pipe_file(Shaky("x"), f"/bucket/set/{left}", data)

    Shaky.trouble = staticmethod(trouble)
    bake_there(seed=1, overwrite=True, workers=1)
    assert there() == files(bake(tmp_path / "here", seed=1).path)


def test_what_fails_on_the_way_is_done_again_and_what_fails_for_good_is_said(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[tuple[str, str], int] = {}

    def trouble(method: str, name: str) -> Exception | None:
        calls[method, name] = calls.get((method, name), 0) + 1
        return OSError("busy") if calls[method, name] == 1 else None

    Shaky.trouble = staticmethod(trouble)
    bake_there()
    assert there() == files(done)
    Shaky.clear()
    Shaky.trouble = staticmethod(lambda _method, name: OSError("full") if name == "train-e001-000.tar" else None)
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(MachineError, match=rf"{URL}/train-e001-000.tar: no answer in .*full"):
        bake_there()
    assert "train-e001-000.json" not in there()


def test_an_upload_that_was_cut_off_late_is_tried_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: list[float] = [0.0]
    cut: list[str] = []

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def trouble(_method: str, name: str) -> Exception | None:
        if name != "train-e001-000.tar" or len(cut) == 3:
            return None
        cut.append(name)
        clock[0] += 500
        return OSError("reset")

    monkeypatch.setattr(prebake.storage.store, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    Shaky.trouble = staticmethod(trouble)
    bake_there()
    assert there() == files(done)
    assert len(cut) == 3


def test_a_set_that_is_unfinished_is_said_to_be_so(done: Path, tmp_path: Path, command: Command) -> None:
    filled(done)
    del Shaky.store["/bucket/set/train-e001-000.json"]
    with pytest.raises(DataError, match=rf"{URL}: train epoch 1 is not baked yet.*same --out"):
        next(ShardSet(URL, Cache(tmp_path / "cache", 10**6)).batches("train", 1, batch_size=1))
    ended = command("--shards", URL, "--cache", tmp_path / "cache")
    assert ended.code == 3
    assert f"{URL}: unfinished, 1 shards are missing (train-e001-000.tar)" in ended.err


@pytest.mark.slow
def test_a_kill_leaves_scratch_that_the_next_bake_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act() -> None:
        with prebake.storage.temp_dir.scratch() as here:
            (here / "x").write_bytes(b"1")
            signal.raise_signal(signal.SIGKILL)

    assert trial(act).status == -signal.SIGKILL
    (left,) = (tmp_path / "scratch").iterdir()
    with prebake.storage.temp_dir.scratch():
        assert left.is_dir()  # too young: its maker may be about to lock it
    monkeypatch.setattr(prebake.storage.temp_dir, "YOUNG_SECONDS", -1)
    with prebake.storage.temp_dir.scratch() as first, prebake.storage.temp_dir.scratch():
        assert first.is_dir()
        assert not left.is_dir()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "https://host/x"], 2, "--out: https://host/x: over HTTP shards are read, not written"),
        pytest.param(
            ["--out", "nothing://x"],
            2,
            "nothing://x/digits/manifest.json: nothing:// is unknown",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--out", "shaky://bucket/x", "--dry-run"], 0, "0 of", marks=pytest.mark.slow),
    ],
)
def test_precompute_takes_urls(
    arguments: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["precompute", "--dataset", "digits", "--epochs", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(prebake.cli.precompute.main)
    said = capsys.readouterr()
    assert ended.value.code == code
    assert words in said.err or "no end known free" in said.out
    assert there() == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--shards", URL, "--follow"], 2, "--follow: a bake can be followed on one machine alone"),
        (
            ["--shards", URL, "--cache-size", "10 apples"],
            2,
            "--cache-size: expected a size such as 500MB or 4GB",
        ),
        (["--shards", URL, "--cache-size", "100kB"], 2, "--cache-size: expected at least 325632 bytes"),
        (["--shards", "shaky://bucket/none"], 3, "--shards: shaky://bucket/none holds no shard set"),
        (["--shards", "shaky://bucket", "--dataset", "mnist"], 3, "shaky://bucket holds no shard set"),
    ],
)
def test_train_takes_urls(
    done: Path, tmp_path: Path, command: Command, arguments: list[str], code: int, words: str
) -> None:
    filled(done)
    ended = command(*arguments, "--cache", tmp_path / "cache", "--out", tmp_path / "runs")
    assert ended.code == code
    assert words in ended.err
    assert not (tmp_path / "runs").exists()
