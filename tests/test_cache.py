"""The cache: verified copies alone, within its size, nothing dropped that is read, and kills leave it sound."""

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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import prebake.storage.cache
import prebake.storage.store
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.storage.cache import Cache, held_at_once
from tests.helpers.commands import ROOT
from tests.helpers.faults import Operations, failure, kill
from tests.helpers.shaky import Shaky, filled
from tests.helpers.small import IMAGES, LABELS, bake
from tests.helpers.trials import trial


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prebake.storage.store, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(prebake.storage.cache, "POLL_SECONDS", 0.01)
    yield
    Shaky.clear()


@pytest.fixture
def url(done: Path) -> str:
    return filled(done)


@pytest.fixture(scope="session")
def largest(done: Path) -> int:
    return max(shard.size_bytes for shard in ShardSet(done).plan.shards())


@pytest.fixture(scope="session")
def smallest(done: Path, largest: int) -> int:
    """The least that a training takes for its cache: one of the held-out shards, and three of its own."""
    assert held_at_once(ShardSet(done).plan) == 4
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


def reads(name: str) -> int:
    return sum(asked == ("read", name) for asked in Shaky.asked)


def test_what_is_in_the_cache_is_not_fetched_again(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert play(ShardSet(url, Cache(tmp_path / "cache", 10**6))) == 3 * 270
    assert reads("train-e001-000.tar") == 2  # its end, and one piece
    assert reads("train-e001-000.json") == 2  # each time


def test_the_cache_is_never_over_its_size_and_drops_what_was_used_longest_ago(
    url: str, tmp_path: Path, largest: int
) -> None:
    cache = Cache(tmp_path / "cache", 2 * largest)
    data = ShardSet(url, cache)
    names = []
    for epoch in (0, 1, 0, 2, 0):
        with next(data.open_shards("train", epoch)) as shard:
            names.append(shard.path.name)
            assert sum(copies(cache.directory).values()) <= cache.size_bytes
    assert set(copies(cache.directory)) == {names[0], names[3]}
    assert reads("train-e000-000.tar") == 2


def test_what_is_read_is_not_dropped_and_room_is_waited_for(
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


def test_a_cache_too_small_for_a_training_is_refused_with_numbers(
    url: str, tmp_path: Path, largest: int, smallest: int
) -> None:
    data = ShardSet(url, Cache(tmp_path, smallest - 1))
    assert data.cache is not None
    with pytest.raises(UsageError, match=rf"--cache-size: expected at least {smallest} bytes.*found {smallest - 1}"):
        data.cache.check(data.plan)
    with pytest.raises(UsageError, match=rf"takes {largest} bytes, the cache in .* has {largest - 1}"):
        next(ShardSet(url, Cache(tmp_path, largest - 1)).open_shards("train", 0))


def test_the_smallest_cache_that_is_taken_lasts_for_a_training(url: str, tmp_path: Path, smallest: int) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", smallest))
    with Stream(data, "train", [0, 1, 2, 0, 1, 2], 64) as stream:
        for number, _ in enumerate(stream):
            if number in (1, 9, 17):
                assert len(list(data.batches("test", batch_size=10))) == 4
            assert sum(copies(tmp_path / "cache").values()) <= smallest


def test_it_lasts_while_a_held_out_split_of_several_shards_is_scored_beside_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebake.format.shard.SHARD_BYTES", 1)  # a shard for each record
    monkeypatch.setattr("prebake.loader.ring_buffer.RING_SAMPLES", 0)
    low = IMAGES[:, :5]  # of a shape that no other test has divided
    test = np.concatenate([low, low]), np.concatenate([LABELS, LABELS])
    bake(tmp_path / "set", images=low, test=test, dtype="uint8")
    cache = Cache(tmp_path / "cache", 10**9)
    data = ShardSet(filled(tmp_path / "set"), cache)
    assert [len(data.plan.shards(split, 0)) for split in ("train", "test")] == [3, 5]
    with pytest.raises(UsageError, match=r"at least \d+ bytes, which 6 shards") as refused:
        Cache(tmp_path, 1).check(data.plan)
    least = int(re.findall(r"at least (\d+)", str(refused.value))[0])
    data = ShardSet(data.location, Cache(tmp_path / "cache", least))
    with Stream(data, "train", [0, 1, 2], 64) as stream:
        assert_comes_to_hold(tmp_path / "cache", 3)
        with Stream(data, "test", [0], 64) as held_out:
            assert_comes_to_hold(tmp_path / "cache", 6)
            assert sum(len(labels) for _, labels in held_out) == 600
        assert sum(len(labels) for _, labels in stream) == 3 * 270


def test_copies_are_dropped_where_only_a_writer_may_lock_a_file_alone(
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


def test_another_user_s_copy_is_read_and_stays(
    url: str, tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch
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
    assert reads("train-e000-000.tar") == 2
    monkeypatch.setattr(prebake.storage.cache, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(MachineError, match="no room"):
        next(data.open_shards("train", 1))
    assert set(copies(tmp_path / "cache")) == {theirs.name}


def test_bytes_that_differ_are_not_admitted(url: str, tmp_path: Path) -> None:
    Shaky.store["/bucket/set/train-e000-000.tar"].getbuffer()[3000] ^= 1
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with pytest.raises(DataError, match=r"shaky://bucket/set/train-e000-000\.tar: bytes differ from its index"):
        next(data.open_shards("train", 0))
    assert copies(tmp_path / "cache") == {}


def test_bytes_that_differ_once_are_fetched_again(url: str, tmp_path: Path) -> None:
    large = iter(range(10))
    Shaky.spoil = staticmethod(lambda data: b"x" + data[1:] if len(data) > 50_000 and next(large) == 0 else data)
    assert play(ShardSet(url, Cache(tmp_path / "cache", 10**6))) == 3 * 270


def test_a_copy_that_was_changed_is_named_and_what_to_do(url: str, tmp_path: Path) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with next(data.open_shards("train", 0)) as shard:
        path = shard.path
    changed = bytearray(path.read_bytes())
    changed[3000] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=rf"{path}.*bytes differ.*copy of shaky://bucket/set/.*remove it"):
        play(data, range(1))
    path.unlink()
    assert play(data, range(1)) == 270


def test_two_who_want_the_same_fetch_it_once(url: str, tmp_path: Path) -> None:
    def dawdle(_method: str, name: str) -> None:
        time.sleep(0.02 if name.endswith(".tar") else 0)

    Shaky.trouble = staticmethod(dawdle)
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
    assert [reads(f"train-e{epoch:03d}-000.tar") for epoch in range(3)] == [2, 2, 2]


def test_what_a_kill_left_goes_even_where_there_is_room(url: str, tmp_path: Path) -> None:
    left = tmp_path / f"{'0' * 32}.tar.part"
    left.write_bytes(b"1")
    assert play(ShardSet(url, Cache(tmp_path, 10**6)), range(1)) == 270
    assert not left.exists()


@pytest.mark.slow
def test_whoever_stops_in_the_middle_is_not_waited_for_for_ever(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ShardSet(url, Cache(tmp_path / "cache", 10**6))
    with next(data.open_shards("train", 0)) as shard:
        copy = shard.path
    copy.unlink()
    part = copy.with_name(copy.name + ".part")
    held = prebake.storage.cache._taken(part)
    with monkeypatch.context() as patched:
        patched.setattr(prebake.storage.cache, "PATIENCE_SECONDS", 0.3)
        with pytest.raises(MachineError, match=rf"{part}: another process fetches it"):
            next(data.open_shards("train", 0))
    os.close(held)
    assert play(data, range(1)) == 270
    assert not part.exists()


def test_files_that_are_no_copies_stay(url: str, tmp_path: Path, smallest: int) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(bytes(10))
    assert play(ShardSet(url, Cache(tmp_path, smallest))) == 3 * 270
    assert mine.read_bytes() == bytes(10)


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(MachineError, match="--cache: this user has no home"):
        Cache.default()


# Of opening one shard in a cache that has room for one, and another one in it.
SCENE_OPERATIONS = 19


def scene(url: str, directory: Path, size_bytes: int) -> None:
    with next(ShardSet(url, Cache(directory, size_bytes)).open_shards("train", 1)):
        pass


def prepared(url: str, directory: Path, size_bytes: int) -> None:
    with next(ShardSet(url, Cache(directory, size_bytes)).open_shards("train", 0)):
        pass


def assert_whole_after(url: str, directory: Path, size_bytes: int) -> None:
    """Whatever happened: what bears a copy's name is one, and the same again works and leaves nothing else."""
    for path in directory.glob("*.tar"):
        with path.open("rb") as file:
            assert prebake.storage.cache._xxh3(file.fileno()) == path.stem
    scene(url, directory, size_bytes)
    assert all(name.endswith(".tar") for name in copies(directory))
    assert sum(copies(directory).values()) <= size_bytes


# In the sample: before the reservation, and between verification and name.
AT = [pytest.param(at, marks=[] if at in (12, 15) else pytest.mark.slow) for at in range(SCENE_OPERATIONS)]


@pytest.mark.parametrize("at", AT)
def test_killed_before_any_file_operation_the_cache_goes_on(url: str, tmp_path: Path, largest: int, at: int) -> None:
    directory = tmp_path / "cache"
    prepared(url, directory, largest)

    def act() -> None:
        operations = Operations(directory, kill(at))
        scene(url, directory, largest)
        assert not operations.missed, operations.missed
        assert len(operations.seen) <= SCENE_OPERATIONS, operations.seen

    ended = trial(act)
    assert ended.status in (0, -signal.SIGKILL), ended.said
    assert_whole_after(url, directory, largest)


@pytest.mark.parametrize(
    "at", [pytest.param(at, marks=pytest.mark.slow) if at != 13 else at for at in range(SCENE_OPERATIONS)]
)
def test_where_an_operation_fails_nothing_half_is_admitted(url: str, tmp_path: Path, largest: int, at: int) -> None:
    directory = tmp_path / "cache"
    prepared(url, directory, largest)

    def act() -> None:
        Operations(directory, failure(at, 28, for_good=False))
        try:
            scene(url, directory, largest)
        except OSError as error:
            assert error.errno == 28  # noqa: PT017 - a trial has no pytest

    ended = trial(act)
    assert ended.status == 0, ended.said
    assert_whole_after(url, directory, largest)


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
def test_readers_that_are_killed_at_random_share_one_small_cache(done: Path, tmp_path: Path, largest: int) -> None:
    """Three processes read through a cache of two shards' room and are killed; it stays within that, and sound."""
    rng, directory, size_bytes = random.Random(1), tmp_path / "cache", 3 * largest  # noqa: S311 - no secret
    url = f"local://{done}"

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
            with path.open("rb") as file:
                assert prebake.storage.cache._xxh3(file.fileno()) == path.stem
    last = started(2)
    _, said = last.communicate(timeout=60)
    assert last.returncode == 0, said
    assert all(name.endswith(".tar") for name in copies(directory))
