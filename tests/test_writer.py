"""Writing: whatever goes wrong and whenever, a file has its final name only when it is whole."""

import errno
import itertools
import os
import resource
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.index import Index
from shards.plan import Epoch, Plan, Shard, Source
from shards.record import Frame
from shards.verify import damage
from shards.writer import PART, write_shard, write_whole

PLAN = Plan(
    source=Source("some", ("a", "b"), (0.5,), (0.25,), {"train": "aa"}, "default"),
    augmentation={"name": "plain"},
    encoding="uint8",
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
    write_shard(directory, shard, PLAN.identity, using)


def final_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(PART))


# Not os.replace: pathlib keeps a reference of its own to that before Python 3.11.
OWNERS: dict[str, Any] = {"fsync": os, "replace": Path}


class SmallDisk(FileIO):
    """A file on a disk with little space left, which takes at most `most` bytes a write."""

    left = most = writes = 0

    def write(self, data: Any, /) -> int:
        disk = SmallDisk
        count = min(len(data), disk.left, disk.most)
        if not count:
            no_space()
        disk.left -= count
        disk.writes += 1
        return super().write(memoryview(data)[:count])


def small_disk(patch: pytest.MonkeyPatch, space: int, most: int = 10**9) -> None:
    """Let every file that is opened for writing share `space` bytes."""
    SmallDisk.left, SmallDisk.most, SmallDisk.writes = space, most, 0
    patch.setattr(Path, "open", lambda self, mode="r", **_: SmallDisk(self, mode.replace("b", "")))


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_at(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, but for its call `number`, which finds the disk full."""
    calls = itertools.count()
    return lambda *arguments: no_space() if next(calls) == number else function(*arguments)


def test_a_whole_shard_is_a_tar_and_its_index(tmp_path: Path) -> None:
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


def test_a_shard_in_the_middle_of_an_epoch_starts_at_its_own_first_sample(tmp_path: Path) -> None:
    shard = Shard("train", 0, 1, 5, 640, 130, 128, (2, 3, 1), "uint8")
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


def test_nothing_is_left_of_a_shard_for_which_the_disk_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    tar, index = ((tmp_path / name).stat().st_size for name in (SHARD.tar, SHARD.index))
    for space in (*range(0, tar + index, 127), tar - 1, tar, tar + 1, tar + index - 1):
        directory = tmp_path / str(space)
        directory.mkdir()
        with monkeypatch.context() as patch:
            small_disk(patch, space)
            with pytest.raises(OSError, match="No space left") as caught:
                write(directory)
        assert caught.value.errno == errno.ENOSPC
        assert SHARD.index not in final_names(directory)
        assert (SHARD.tar in final_names(directory)) == (space >= tar)
        assert final_names(directory) == sorted(path.name for path in directory.iterdir())
    with monkeypatch.context() as patch:
        small_disk(patch, tar + index)
        write(tmp_path)
    assert damage(tmp_path, SHARD, PLAN) is None


def test_nothing_is_left_of_a_shard_larger_than_the_kernel_lets_files_be(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(OSError, match="too large"):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_index_stands_only_beside_a_whole_tar_whatever_call_fails(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in itertools.count():
        directory = tmp_path / str(number)
        directory.mkdir()
        with monkeypatch.context() as patch:
            owner = OWNERS[call]
            patch.setattr(owner, call, failing_at(number, getattr(owner, call)))
            try:
                write(directory)
            except OSError:
                assert SHARD.index not in final_names(directory)
            else:
                break
        assert number < 10
        # What is left over hinders nobody: the next run writes the same bytes.
        write(directory)
        assert damage(directory, SHARD, PLAN) is None
    assert number == 2  # the archive and its index
    assert damage(directory, SHARD, PLAN) is None


def test_the_index_gets_its_name_after_the_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[str, list[str]]] = []
    replace = Path.replace

    def noting(self: Path, target: Path) -> Path:
        done = replace(self, target)
        named.append((Path(target).name, final_names(tmp_path)))
        return done

    monkeypatch.setattr(Path, "replace", noting)
    write(tmp_path)
    assert named == [(SHARD.tar, [SHARD.tar]), (SHARD.index, [SHARD.index, SHARD.tar])]


def test_the_bytes_are_on_the_disk_before_they_get_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def syncing(descriptor: int) -> None:
        events.append(f"fsync of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def naming(self: Path, target: Path) -> Path:
        events.append(f"name of {self.stat().st_size}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", naming)
    write(tmp_path)
    tar, index = SHARD.size_bytes, (tmp_path / SHARD.index).stat().st_size
    for size in (tar, index):
        assert events.index(f"fsync of {size}") < events.index(f"name of {size}")


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    expected = [(tmp_path / name).read_bytes() for name in (SHARD.tar, SHARD.index)]
    with monkeypatch.context() as patch:
        small_disk(patch, 10**6, most=77)
        write(tmp_path)
    assert SmallDisk.writes > SHARD.size_bytes // 77
    assert [(tmp_path / name).read_bytes() for name in (SHARD.tar, SHARD.index)] == expected


def test_a_small_file_keeps_its_old_content_when_its_successor_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.json"
    write_whole(path, b"old")
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(OWNERS[call], call, no_space)
            with pytest.raises(OSError, match="No space left"):
                write_whole(path, b"new")
        assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]
    assert path.read_bytes() == b"new"
