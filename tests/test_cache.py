"""The cache: verified copies only, within its size; nothing in use is removed, and kills leave it intact."""

import contextlib
import errno
import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash

import prebake.storage.cache
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.cache_room import check_cache, shards_held
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.storage.cache import Cache
from prebake.storage.remote import Remote
from tests.helpers.commands import ROOT
from tests.helpers.fake_s3 import PREFIX, FakeS3
from tests.helpers.faults import Operations, failure, kill
from tests.helpers.small import IMAGES, LABELS, bake
from tests.helpers.trials import trial


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebake.storage.cache, "POLL_SECONDS", 0.01)


@pytest.fixture
def url(s3: FakeS3, done: Path) -> str:
    return s3.copy(done)


@pytest.fixture(scope="session")
def largest(done: Path) -> int:
    return max(shard.size_bytes for shard in ShardSet(done).plan.shards())


@pytest.fixture(scope="session")
def smallest(done: Path, largest: int) -> int:
    """The least that a training takes for its cache: one of the held-out shards, and three of its own."""
    assert shards_held(ShardSet(done).plan) == 4
    return 4 * largest


def copies(directory: Path) -> dict[str, int]:
    """Return the copies there, and what is to become one, and their sizes."""
    found = {}
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just got its name
            found[path.name] = path.stat().st_size
    return {name: size for name, size in found.items() if name != "cache.lock"}


def play(data: ShardSet, epochs: range | None = None) -> int:
    """Read epochs through a stream; return how many samples came."""
    with Stream(data, "train", list(epochs or range(data.epochs)), 64) as stream:
        return sum(len(labels) for _, labels in stream)


def held(directory: Path) -> int:
    """Count the copies that somebody holds."""
    count = 0
    for path in directory.glob("*.tar"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            count += 1
        except FileNotFoundError:
            pass  # it has just been dropped
    return count


def assert_comes_to_hold(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while held(directory) != count:
        assert time.monotonic() < deadline, held(directory)
        time.sleep(0.01)


def test_a_cached_file_is_not_downloaded_again(s3: FakeS3, url: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert play(ShardSet(url, Cache(tmp_path / "cache", 10**6))) == 3 * 270
    assert s3.reads("train-e001-000.tar") == 1
    assert s3.reads("train-e001-000.json") == 2  # each time


def test_the_least_recently_used_copies_are_removed(s3: FakeS3, url: str, tmp_path: Path, largest: int) -> None:
    cache = Cache(tmp_path / "cache", 2 * largest)
    data = ShardSet(url, cache)
    names = []
    for epoch in (0, 1, 0, 2, 0):
        with next(data.open_shards("train", epoch)) as shard:
            names.append(shard.path.name)
            assert sum(copies(cache.directory).values()) <= cache.size_bytes
    assert set(copies(cache.directory)) == {names[0], names[3]}
    assert s3.reads("train-e000-000.tar") == 1


def test_copies_in_use_stay_and_others_wait_for_room(
    url: str, tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", 2 * largest)
    data = ShardSet(url, cache)
    first, second = next(data.open_shards("train", 0)), next(data.open_shards("train", 1))
    with monkeypatch.context() as patched:
        patched.setattr(prebake.storage.cache, "PATIENCE_SECONDS", 0.3)
        with pytest.raises(MachineError, match=rf"no room for {largest} bytes more.*larger --cache-size"):
            next(data.open_shards("train", 2))
    threading.Timer(0.1, first.close).start()
    with next(data.open_shards("train", 2)) as third, second:
        assert set(copies(cache.directory)) == {second.path.name, third.path.name}


def test_a_cache_too_small_for_a_training_is_refused(url: str, tmp_path: Path, largest: int, smallest: int) -> None:
    data = ShardSet(url, Cache(tmp_path, smallest - 1))
    assert data.cache is not None
    with pytest.raises(UsageError, match=rf"--cache-size: expected at least {smallest} bytes.*found {smallest - 1}"):
        check_cache(data.cache, data.plan)
    with pytest.raises(UsageError, match=rf"takes {largest} bytes, the cache in .* has {largest - 1}"):
        next(ShardSet(url, Cache(tmp_path, largest - 1)).open_shards("train", 0))


def test_the_smallest_accepted_cache_suffices_for_a_training(url: str, tmp_path: Path, smallest: int) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", smallest))
    with Stream(data, "train", [0, 1, 2, 0, 1, 2], 64) as stream:
        for number, _ in enumerate(stream):
            if number in (1, 9, 17):
                assert len(list(data.batches("test", batch_size=10))) == 4
            assert sum(copies(tmp_path / "cache").values()) <= smallest


def test_it_suffices_for_a_held_out_stream_beside_the_training(
    s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 1)  # a shard for each record
    monkeypatch.setattr("prebake.loader.ring_buffer.RING_SAMPLES", 0)
    low = IMAGES[:, :5]  # of a shape that no other test has divided
    test = np.concatenate([low, low]), np.concatenate([LABELS, LABELS])
    bake(tmp_path / "set", images=low, test=test, dtype="uint8")
    cache = Cache(tmp_path / "cache", 10**9)
    data = ShardSet(s3.copy(tmp_path / "set"), cache)
    assert [len(data.plan.shards(split, 0)) for split in ("train", "test")] == [3, 5]
    with pytest.raises(UsageError, match=r"at least \d+ bytes for 6 shards") as refused:
        check_cache(Cache(tmp_path, 1), data.plan)
    least = int(re.findall(r"at least (\d+)", str(refused.value))[0])
    data = ShardSet(data.location, Cache(tmp_path / "cache", least))
    with Stream(data, "train", [0, 1, 2], 64) as stream:
        assert_comes_to_hold(tmp_path / "cache", 3)
        with Stream(data, "test", [0], 64) as held_out:
            assert_comes_to_hold(tmp_path / "cache", 6)
            assert sum(len(labels) for _, labels in held_out) == 600
        assert sum(len(labels) for _, labels in stream) == 3 * 270


def test_copies_are_removed_where_only_writers_lock_exclusively(
    url: str, tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def as_on_nfs(file: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    data = ShardSet(url, Cache(tmp_path / "cache", largest))
    for epoch in range(3):
        assert sum(len(labels) for _, labels in data.batches("train", epoch, batch_size=100)) == 270
    assert len(copies(tmp_path / "cache")) == 1


def test_a_copy_of_another_user_is_read_and_stays(
    s3: FakeS3, url: str, tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", largest))
    with next(data.open_shards("train", 0)) as shard:
        theirs = shard.path
    opened = os.open

    def denied(path: Path) -> PermissionError:
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def open_theirs(path: Path, flags: int, mode: int = 0o777) -> int:
        if path == theirs and flags & os.O_RDWR:
            raise denied(path)
        return opened(path, flags, mode)

    def touch(path: Path) -> None:
        raise denied(path)

    monkeypatch.setattr(os, "open", open_theirs)
    monkeypatch.setattr(os, "utime", touch)
    assert sum(len(labels) for _, labels in data.batches("train", 0, batch_size=100)) == 270
    assert s3.reads("train-e000-000.tar") == 1
    monkeypatch.setattr(prebake.storage.cache, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(MachineError, match="no room"):
        next(data.open_shards("train", 1))
    assert set(copies(tmp_path / "cache")) == {theirs.name}


def test_a_file_with_other_bytes_is_not_admitted(s3: FakeS3, url: str, tmp_path: Path) -> None:
    changed = bytearray(s3.files[PREFIX + "train-e000-000.tar"])
    changed[3000] ^= 1
    s3.files[PREFIX + "train-e000-000.tar"] = bytes(changed)
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with pytest.raises(DataError, match=r"s3://bucket/set/train-e000-000\.tar: bytes differ from its index"):
        next(data.open_shards("train", 0))
    assert copies(tmp_path / "cache") == {}


def test_a_corrupt_download_is_repeated(s3: FakeS3, url: str, tmp_path: Path) -> None:
    large = iter(range(10))
    s3.spoil = lambda data: b"x" + data[1:] if len(data) > 50_000 and next(large) == 0 else data
    assert play(ShardSet(url, Cache(tmp_path / "cache", 10**6))) == 3 * 270


def test_a_damaged_copy_is_named_with_the_remedy(url: str, tmp_path: Path) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with next(data.open_shards("train", 0)) as shard:
        path = shard.path
    changed = bytearray(path.read_bytes())
    changed[3000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=rf"{path}.*bytes differ.*copy of s3://bucket/set/.*remove it"):
        play(data, range(1))
    path.unlink()
    assert play(data, range(1)) == 270


def test_three_readers_download_a_file_once(s3: FakeS3, url: str, tmp_path: Path) -> None:
    def dawdle(_method: str, name: str) -> None:
        time.sleep(0.02 if name.endswith(".tar") else 0)

    s3.trouble = dawdle
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(play(ShardSet(url, Cache(tmp_path / "cache", 10**6)))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3 * 270] * 3
    assert [s3.reads(f"train-e{epoch:03d}-000.tar") for epoch in range(3)] == [1, 1, 1]


def test_partial_copies_are_removed_though_there_is_room(url: str, tmp_path: Path) -> None:
    left = tmp_path / f"{'0' * 32}.tar.part"
    left.write_bytes(b"1")
    assert play(ShardSet(url, Cache(tmp_path, 10**6)), range(1)) == 270
    assert not left.exists()


@pytest.mark.slow
def test_a_stalled_download_is_not_waited_for_forever(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with next(data.open_shards("train", 0)) as shard:
        copy = shard.path
    copy.unlink()
    part = copy.with_name(copy.name + ".part")
    held = prebake.storage.cache._open_part(part)
    with monkeypatch.context() as patched:
        patched.setattr(prebake.storage.cache, "PATIENCE_SECONDS", 0.3)
        with pytest.raises(MachineError, match=rf"{part}: another process downloads it"):
            next(data.open_shards("train", 0))
    os.close(held)
    assert play(data, range(1)) == 270
    assert not part.exists()


def test_other_files_in_the_directory_stay(url: str, tmp_path: Path, smallest: int) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(bytes(10))
    assert play(ShardSet(url, Cache(tmp_path, smallest))) == 3 * 270
    assert mine.read_bytes() == bytes(10)


def test_a_user_without_a_home_is_told_to_name_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(MachineError, match="--cache: this user has no home"):
        Cache.default()


class LocalFile(Remote):
    """A file of this disk in place of a remote one, since a forked process may not use a store."""

    def download(self, file: int, size_bytes: int) -> None:
        assert os.pwrite(file, Path(self.url).read_bytes(), 0) == size_bytes


# Of opening one shard in a cache that has room for one and holds another.
SCENE_OPERATIONS = 19


def open_shard(epoch: int, done: Path, directory: Path, size_bytes: int) -> None:
    path = done / f"train-e{epoch:03d}-000.tar"
    data = path.read_bytes()
    cache = Cache(directory, size_bytes)
    os.close(cache.open(LocalFile(str(path)), len(data), xxhash.xxh3_128_hexdigest(data))[1])


def assert_intact(done: Path, directory: Path, size_bytes: int) -> None:
    """Check that all copies are complete, and that the cache still works and leaves nothing else."""
    for path in directory.glob("*.tar"):
        assert xxhash.xxh3_128_hexdigest(path.read_bytes()) == path.stem
    open_shard(1, done, directory, size_bytes)
    assert all(name.endswith(".tar") for name in copies(directory))
    assert sum(copies(directory).values()) <= size_bytes


# In the sample: before the reservation, and between verification and name.
AT = [pytest.param(at, marks=[] if at in (12, 15) else pytest.mark.slow) for at in range(SCENE_OPERATIONS)]


@pytest.mark.parametrize("at", AT)
def test_the_cache_survives_a_kill_before_any_operation(done: Path, tmp_path: Path, largest: int, at: int) -> None:
    directory = tmp_path / "cache"
    open_shard(0, done, directory, largest)

    def act() -> None:
        operations = Operations(directory, kill(at))
        open_shard(1, done, directory, largest)
        assert not operations.missed, operations.missed
        assert len(operations.seen) <= SCENE_OPERATIONS, operations.seen

    ended = trial(act)
    assert ended.status in (0, -signal.SIGKILL), ended.said
    assert_intact(done, directory, largest)


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=pytest.mark.slow) if at != 13 else at for at in range(SCENE_OPERATIONS)]
)
def test_a_failed_operation_admits_no_partial_copy(done: Path, tmp_path: Path, largest: int, at: int) -> None:
    directory = tmp_path / "cache"
    open_shard(0, done, directory, largest)

    def act() -> None:
        Operations(directory, failure(at, 28, for_good=False))
        try:
            open_shard(1, done, directory, largest)
        except OSError as error:
            assert error.errno == 28  # noqa: PT017 - a trial has no pytest

    ended = trial(act)
    assert ended.status == 0, ended.said
    assert_intact(done, directory, largest)


READER = """
import sys
from prebake.loader.shard_set import ShardSet
from prebake.storage.cache import Cache
from pathlib import Path
data = ShardSet(sys.argv[1], Cache(Path(sys.argv[2]), int(sys.argv[3])))
for round in range(int(sys.argv[4])):
    for epoch in range(data.epochs):
        assert sum(len(labels) for _, labels in data.batches("train", epoch, batch_size=64)) == 270
"""


@pytest.mark.slow
def test_readers_killed_at_random_share_one_small_cache(url: str, tmp_path: Path, largest: int) -> None:
    """Three processes read through a cache of two shards' room and are killed; it stays within that, and sound."""
    rng, directory, size_bytes = random.Random(1), tmp_path / "cache", 3 * largest  # noqa: S311 - no secret

    def started(rounds: int) -> "subprocess.Popen[str]":
        arguments = [url, str(directory), str(size_bytes), str(rounds)]
        return subprocess.Popen([sys.executable, "-c", READER, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    for _ in range(12):
        readers = [started(10**6) for _ in range(3)]
        time.sleep(rng.uniform(0.5, 2.5))
        if directory.is_dir():
            assert sum(copies(directory).values()) <= size_bytes
        for reader in readers:
            assert reader.poll() is None, reader.communicate()[1]
            reader.kill()
            reader.communicate()
        for path in directory.glob("*.tar"):
            assert xxhash.xxh3_128_hexdigest(path.read_bytes()) == path.stem
    last = started(2)
    _, said = last.communicate(timeout=60)
    assert last.returncode == 0, said
    assert all(name.endswith(".tar") for name in copies(directory))
