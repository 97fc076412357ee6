"""Writing: whatever goes wrong and whenever, a file has its final name only when it is whole."""

import errno
import itertools
import os
import resource
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prebake.format.columns import standard_columns
from prebake.format.index import Index
from prebake.format.manifest import Epoch, Plan, Shard, Source
from prebake.format.record import Frame
from prebake.format.verify import damage
from prebake.format.writer import create_shard, empty_records
from prebake.storage.atomic import PART, remove_shards, write_atomic
from tests.helpers.trials import trial

PLAN = Plan(
    source=Source("some", ("a", "b"), (0.5,), (0.25,), {"train": "aa"}, "default"),
    augmentation={"name": "plain"},
    dtype="uint8",
    seed=0,
    splits={"train": (Epoch(300, (2, 3, 1)),)},
)
SHARD = PLAN.shards()[0]  # three records: 128, 128 and 44 samples


def fill(first: int, frame: Frame) -> None:
    """Write samples that tell their own positions."""
    positions = np.arange(first, first + frame.layout.samples)
    frame.images_NHWC[:] = (positions % 251).astype(np.uint8)[:, None, None, None]
    frame.index_N[:] = positions
    frame.labels_N[:] = positions % 2


def write(directory: Path, using: Callable[[int, Frame], None] = fill, shard: Shard = SHARD) -> None:
    with create_shard(directory, shard, PLAN.identity) as archive:
        for first, frame in empty_records(shard):
            using(first, frame)
            archive.write(frame)


def final_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(PART))


class SmallDisk:
    """A disk with little space left, which takes at most `most` bytes a write."""

    def __init__(self, patch: pytest.MonkeyPatch, space: int, most: int = 10**9) -> None:
        self.left, self.most, self.writes = space, most, 0
        self._write = os.write
        patch.setattr(os, "write", self.write)

    def write(self, file: int, data: memoryview) -> int:
        count = min(len(data), self.left, self.most)
        if not count:
            no_space()
        self.left -= count
        self.writes += 1
        return self._write(file, data[:count])


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, but for its call `number`, which finds the disk full."""
    calls = itertools.count()
    return lambda *arguments: no_space() if next(calls) == number else function(*arguments)


def test_a_complete_shard_is_an_archive_and_its_index(tmp_path: Path) -> None:
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-e000-000.json", "train-e000-000.tar"]
    assert damage(tmp_path, SHARD, PLAN) is None
    assert (tmp_path / SHARD.tar).stat().st_size == SHARD.size_bytes


def test_fill_gets_each_record_s_first_sample_and_its_layout(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def noting(first: int, frame: Frame) -> None:
        asked.append((first, frame.layout.samples))
        fill(first, frame)

    write(tmp_path, noting)
    assert asked == [(0, 128), (128, 128), (256, 44)]


def test_a_later_shard_starts_at_its_own_first_sample(tmp_path: Path) -> None:
    shard = Shard("train", 0, 1, 5, 640, 130, 128, standard_columns((2, 3, 1), "uint8"))
    asked: list[int] = []

    def noting(first: int, frame: Frame) -> None:
        asked.append(first)
        fill(first, frame)

    write(tmp_path, noting, shard)
    assert asked == [640, 768]
    assert [e.key for e in Index.read(tmp_path, shard, PLAN.identity).extents] == ["e000-r00005", "e000-r00006"]


@pytest.mark.parametrize("record", [0, 1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_nothing_has_a_final_name_when_filling_fails(record: int, error: type[BaseException], tmp_path: Path) -> None:
    def failing(first: int, frame: Frame) -> None:
        if first == record * 128:
            raise error
        fill(first, frame)

    with pytest.raises(error):
        write(tmp_path, failing)
    assert final_names(tmp_path) == []


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    tar, index = ((tmp_path / name).stat().st_size for name in (SHARD.tar, SHARD.index))
    for space in (*range(0, tar + index, 127), tar - 1, tar, tar + 1, tar + index - 1):
        directory = tmp_path / str(space)
        directory.mkdir()
        with monkeypatch.context() as patch:
            SmallDisk(patch, space)
            with pytest.raises(OSError, match="No space left") as caught:
                write(directory)
        assert caught.value.errno == errno.ENOSPC
        assert SHARD.index not in final_names(directory)
        assert (SHARD.tar in final_names(directory)) == (space >= tar)
        assert final_names(directory) == sorted(path.name for path in directory.iterdir())
    with monkeypatch.context() as patch:
        SmallDisk(patch, tar + index)
        write(tmp_path)
    assert damage(tmp_path, SHARD, PLAN) is None


def test_a_file_size_limit_leaves_no_part_of_a_shard(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(OSError, match="too large"):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("call", "calls"), [("fsync", 4), ("replace", 2)])
def test_an_index_exists_only_beside_a_complete_archive(
    call: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count():
        directory = tmp_path / str(number)
        directory.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing_at(number, getattr(os, call)))
            try:
                write(directory)
            except OSError:
                # Only when it is whole does it get its name; that it has it may be what is not known to last.
                assert SHARD.index not in final_names(directory) or (call, number) == ("fsync", 3)
            else:
                break
        assert number < 10
        assert list(directory.glob("*.part")) == []
        # What is left over hinders nobody: the next run writes the same bytes.
        write(directory)
        assert damage(directory, SHARD, PLAN) is None
    assert number == calls  # of the archive and its index
    assert damage(directory, SHARD, PLAN) is None


def test_files_are_synced_before_and_after_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        found = os.fstat(descriptor)
        events.append("fsync of the directory" if stat.S_ISDIR(found.st_mode) else f"fsync of {found.st_size}")
        fsync(descriptor)

    def naming(path: Path, target: Path) -> None:
        events.append(f"name of {target.name}")
        rename(path, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", naming)
    write(tmp_path)
    assert events == [
        f"fsync of {SHARD.size_bytes}",
        f"name of {SHARD.tar}",
        "fsync of the directory",
        f"fsync of {(tmp_path / SHARD.index).stat().st_size}",
        f"name of {SHARD.index}",
        "fsync of the directory",
    ]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_writing_works_if_directories_cannot_be_synced(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    write(tmp_path)
    assert damage(tmp_path, SHARD, PLAN) is None


def test_links_under_the_temporary_name_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / f"{SHARD.tar}{PART}").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / f"{SHARD.index}{PART}")
    ended = trial(lambda: write(tmp_path), seconds=10)
    assert ended.status == 0, ended.said
    assert damage(tmp_path, SHARD, PLAN) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", SHARD.index, SHARD.tar]
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_indexes_are_removed_before_the_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [replace(SHARD, epoch=epoch) for epoch in range(2)]
    for shard in shards:
        write(tmp_path, shard=shard)
    events: list[str] = []
    fsync, unlink = os.fsync, os.unlink

    def syncing(descriptor: int) -> None:
        events.append("fsync")
        fsync(descriptor)

    def removing(path: Path) -> None:
        events.append(path.suffix)
        unlink(path)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "unlink", removing)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert remove_shards(tmp_path.iterdir()) == size
    assert events == [".json", ".json", "fsync", ".tar", ".tar", "fsync"]
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    expected = [(tmp_path / name).read_bytes() for name in (SHARD.tar, SHARD.index)]
    with monkeypatch.context() as patch:
        disk = SmallDisk(patch, 10**6, most=77)
        write(tmp_path)
    assert disk.writes > SHARD.size_bytes // 77
    assert [(tmp_path / name).read_bytes() for name in (SHARD.tar, SHARD.index)] == expected


def test_a_failed_replacement_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_atomic(path, b"old")
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, no_space)
            with pytest.raises(OSError, match="No space left"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]
    assert path.read_bytes() == b"new"
