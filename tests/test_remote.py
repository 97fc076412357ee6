"""Shards elsewhere: read as those here, whatever the store does on the way; errors name URLs without credentials."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem

import prebake.storage.remote
import prebake.storage.store
from prebake.cli.main import main
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.describe import digest
from prebake.loader.prefetcher import Prefetcher
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.storage.cache import Cache
from prebake.storage.files import parse_path
from prebake.storage.remote import Remote
from prebake.storage.store import Question, Store
from tests.helpers.shaky import Shaky, filled

MB = 10**6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nobody pause long, and no file go unfetched because of another test."""
    monkeypatch.setattr(prebake.storage.store, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(prebake.storage.store, "MAX_PAUSE", 0.02)
    monkeypatch.setattr(prebake.storage.remote, "PIECE_BYTES", 16 * 1024)
    yield
    Shaky.clear()


@pytest.fixture
def url(done: Path) -> str:
    return filled(done)


@pytest.fixture
def there(url: str, tmp_path: Path) -> ShardSet:
    return ShardSet(url, Cache(tmp_path / "cache", MB))


def once_each(error: Callable[[], Exception]) -> Callable[[str, str], Exception | None]:
    """Return a trouble that lets each first, third and so on call on a file fail."""
    calls: dict[tuple[str, str], int] = {}

    def trouble(method: str, name: str) -> Exception | None:
        calls[method, name] = calls.get((method, name), 0) + 1
        return error() if calls[method, name] % 2 else None

    return trouble


def assert_same(found: ShardSet, expected: ShardSet) -> None:
    for split, epochs in (("test", 1), ("val", 1), ("train", expected.epochs)):
        for epoch in range(epochs):
            pairs = zip(found.records(split, epoch), expected.records(split, epoch), strict=True)
            for one, other in pairs:
                assert all(np.array_equal(one[name], other[name]) for name in ("images", "index", "labels"))


def test_a_set_elsewhere_is_read_as_one_here(there: ShardSet, done: Path) -> None:
    here = ShardSet(done)
    assert (there.plan, there.missing(), digest(there)) == (here.plan, [], digest(here))
    assert_same(there, here)


@pytest.mark.parametrize("start", [0, 130])
def test_a_stream_gives_the_same_batches_from_elsewhere(there: ShardSet, done: Path, start: int) -> None:
    options = {"start": start, "shuffle_seed": 3, "first_epoch": 1}
    with (
        Stream(there, "train", [0, 2, 1], 64, **options) as found,  # type: ignore[arg-type] # of several types
        Stream(ShardSet(done), "train", [0, 2, 1], 64, **options) as expected,  # type: ignore[arg-type] # likewise
    ):
        for (images, labels), (others, other_labels) in zip(found, expected, strict=True):
            assert images.equal(others)
            assert labels.equal(other_labels)


@pytest.mark.parametrize(
    "error",
    [
        lambda: OSError("gone away"),
        pytest.param(lambda: TimeoutError(), marks=pytest.mark.slow),
        pytest.param(lambda: ConnectionError("reset"), marks=pytest.mark.slow),
    ],
)
def test_what_fails_is_asked_again(url: str, done: Path, tmp_path: Path, error: Callable[[], Exception]) -> None:
    Shaky.trouble = staticmethod(once_each(error))
    assert_same(ShardSet(url, Cache(tmp_path, MB)), ShardSet(done))


def test_short_bodies_are_asked_for_again(url: str, done: Path, tmp_path: Path) -> None:
    calls = iter(range(10**6))
    Shaky.spoil = staticmethod(lambda data: data[: len(data) // 2] if next(calls) % 3 == 0 else data)
    assert_same(ShardSet(url, Cache(tmp_path, MB)), ShardSet(done))


def test_a_server_that_gives_more_than_a_range_is_not_asked_again(there: ShardSet) -> None:
    Shaky.spoil = staticmethod(lambda data: data + b"more" if len(data) == 1 else data)
    with pytest.raises(MachineError, match=r"2 bytes were asked for, 5 came: .*no.* range requests"):
        next(there.batches("train", batch_size=1))
    assert Shaky.asked.count(("read", "train-e000-000.tar")) == 1


def test_without_an_answer_it_ends_after_the_deadline_and_names_the_url(
    there: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.3)
    Shaky.trouble = staticmethod(lambda _method, _name: OSError("no route to host"))
    with pytest.raises(MachineError, match=r"shaky://bucket/set.*no answer in \d+ s.*no route to host"):
        next(there.batches("train", batch_size=1))


def test_patience_begins_anew_with_each_answer(there: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of all pieces, asked for together, half is answered each time: together that takes longer than the patience.
    monkeypatch.setattr(prebake.storage.remote, "PIECE_BYTES", 1024)
    monkeypatch.setattr(prebake.storage.remote, "AT_ONCE", 128)
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(prebake.storage.store, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.04)
    Shaky.trouble = staticmethod(once_each(lambda: OSError("busy")))
    assert len(list(there.batches("train", batch_size=100))) == 3


def test_what_is_too_much_at_once_for_a_slow_link_is_asked_for_a_little_at_a_time(
    there: ShardSet, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebake.storage.remote, "PIECE_BYTES", 8 * 1024)
    ask_once, asked = Store._ask_once, []

    def share_a_link(self: Store, method: str, questions: Sequence[Question], seconds: float) -> list[Any]:
        asked.append(len(questions))
        if len(questions) > 1:
            return [TimeoutError()] * len(questions)  # none of them within its seconds
        return ask_once(self, method, questions, seconds)

    monkeypatch.setattr(Store, "_ask_once", share_a_link)
    assert_same(there, ShardSet(done))
    assert max(asked) == prebake.storage.remote.AT_ONCE


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError("Access Denied"), 4, "access denied (403 Forbidden)"),
        (OSError("Forbidden: bucket"), 4, "access denied (403 Forbidden)"),
        (FileNotFoundError("x"), 3, "no manifest.json here"),
    ],
)
def test_what_asking_again_will_not_change_ends_at_once(url: str, error: Exception, code: int, words: str) -> None:
    Shaky.trouble = staticmethod(lambda _method, _name: error)
    with pytest.raises((DataError, MachineError), match=re.escape(words)) as raised:
        ShardSet(url)
    assert raised.value.exit_code == code
    assert len(Shaky.asked) == 1


class Old(AsyncFileSystem):  # type: ignore[misc] # fsspec ships no types
    """An asynchronous file system of before there were claims."""

    protocol = "old"
    cachable = False
    files: dict[str, bytes] = {}  # noqa: RUF012 - of all instances

    async def _pipe_file(self, path: str, value: bytes) -> None:
        self.files[path] = value

    async def _cat_file(self, path: str, start: int, end: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][start:end]


def test_a_file_system_of_before_there_were_claims_takes_one() -> None:
    fsspec.register_implementation("old", Old, clobber=True)
    Old.files.clear()
    assert Remote("old://b/x").write(b"1", claim=True)
    assert not Remote("old://b/x").write(b"2", claim=True)
    assert Old.files == {"b/x": b"1"}


def test_a_missing_archive_is_named(there: ShardSet) -> None:
    del Shaky.store["/bucket/set/train-e000-000.tar"]
    with pytest.raises(DataError, match=r"shaky://bucket/set/train-e000-000\.tar: no such file.*same --out"):
        next(there.batches("train", batch_size=1))


@pytest.mark.parametrize("change", [lambda data: data[:-100], lambda data: data + b"x"])
def test_an_archive_of_another_size_is_refused(
    there: ShardSet, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.3)
    path = "/bucket/set/train-e000-000.tar"
    data = Shaky("x").store[path].getvalue()
    del Shaky.store[path]
    Shaky("x").pipe_file(path, change(data))
    with pytest.raises((DataError, MachineError), match=r"train-e000-000\.tar.*(more found|came)"):
        next(there.batches("train", batch_size=1))


def test_verify_reads_what_is_there_and_not_the_cache(
    there: ShardSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in there.batches("train", batch_size=100):
        pass
    archive = Shaky.store["/bucket/set/train-e000-000.tar"]
    archive.getbuffer()[3000] ^= 1
    monkeypatch.setattr("sys.argv", ["prebake", "verify", str(there.location)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 3
    assert "1 shards damaged (train-e000-000.tar)" in said.err
    assert "train-e000-000.tar, record e000-r00000: bytes differ" in said.out


def test_what_needs_a_directory_says_so(there: ShardSet) -> None:
    with pytest.raises(UsageError, match="shaky://bucket/set: expected a directory on this machine"):
        _ = there.path


@pytest.mark.parametrize(
    ("text", "shown", "below"),
    [
        ("s3://bucket/a/", "s3://bucket/a", "s3://bucket/a/m"),
        ("https://me:secret@host:8/a?X-Sig=secret", "https://host:8/a", "https://me:secret@host:8/a/m?X-Sig=secret"),
        ("s3://me:secret@bucket/a?b", "s3://bucket/a?b", "s3://me:secret@bucket/a?b/m"),
        ("S3://bucket/a@b", "s3://bucket/a@b", "s3://bucket/a@b/m"),
        ("HTTPS://me:secret@host/a?b=secret", "https://host/a", "https://me:secret@host/a/m?b=secret"),
        ("https://me:p@s%2Fs@host/a", "https://host/a", "https://me:p@s%2Fs@host/a/m"),
    ],
)
def test_a_url_is_told_without_credentials_and_used_with_them(text: str, shown: str, below: str) -> None:
    found = parse_path(text)
    assert isinstance(found, Remote)
    assert (str(found), repr(found), f"{found}") == (shown, shown, shown)
    assert (found / "m").url == below


@pytest.mark.parametrize(
    "text",
    [
        "https://me:sec/ret@host/x",
        "HTTP://me:sec?ret@host/x",
        "https://me:sec#ret@host/x",
        "https://me:12/sec?ret@host/x",
        "https://me@there:sec/ret@host/x",
        "ftp://me:sec/ret@host/x",
        "https:/me:secret@host/x",
        "HTTPS:/host/x?token=secret",
    ],
)
def test_a_url_whose_password_may_be_taken_for_its_path_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_path(text)
    assert not re.search("sec|ret", str(raised.value))
    assert re.search("%2F for /|expected a URL such as", str(raised.value))


@pytest.mark.parametrize("text", ["shards", "/a/b", "./s3:/x", "a b://c", "://x", "s3:"])
def test_all_else_is_a_path(text: str) -> None:
    assert parse_path(text) == Path(text)


def test_a_url_of_a_file_here_is_a_path() -> None:
    assert parse_path("file:///a%20b/c") == Path("/a b/c")


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3:/bucket/x", "https://", "gs:/", "file://host/x", "file:/x"])
def test_a_url_that_says_too_little_is_no_path(text: str) -> None:
    with pytest.raises(UsageError, match=rf"{text}: expected a URL such as s3://BUCKET/shards"):
        ShardSet(text)


def test_no_error_repeats_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://me:hid%2Fden@host/a/b?X-Sig=secret&x=1"
    said = [
        f"400, url='{url}'",
        "GET https://other/b?token=secret failed",
        "//you:hidden@other",
        "me:hid/den",
        "?X-Sig=secret&x=1",
    ]

    def fail(_self: Store, _method: str, _questions: object, _seconds: float) -> list[Exception]:
        return [OSError(said[0])]

    monkeypatch.setattr(Store, "_ask_once", fail)
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.0)
    for _ in range(len(said)):
        with pytest.raises(MachineError, match=r"https://host/a/b: no answer") as raised:
            Remote(url).read(10)
        assert not re.search("secret|hid|den", str(raised.value))
        said.append(said.pop(0))


def test_what_is_no_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nothing://x.*nothing:// is unknown"):
        ShardSet("nothing://x")


def test_a_lookahead_gives_what_it_took_in_turn_and_no_more_than_it_may() -> None:
    taken: list[int] = []
    dropped: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number
        raise OSError("no more")

    never = threading.Event()
    with Prefetcher(items(), 2, dropped.append) as ahead:
        for number in range(5):
            assert ahead.next(never) == number
            assert len(taken) <= number + 3
        with pytest.raises(OSError, match="no more"):
            ahead.next(never)
    assert dropped == []


def test_a_lookahead_drops_what_nobody_took_and_ends_when_stopped() -> None:
    dropped: list[int] = []
    stopped = threading.Event()
    with Prefetcher(iter(range(100)), 3, dropped.append) as ahead:
        assert ahead.next(stopped) == 0
        stopped.set()
        assert ahead.next(stopped) is None
        thread = ahead._thread
    thread.join(5)
    assert not thread.is_alive()
    assert dropped == list(range(1, 1 + len(dropped)))
    assert len(dropped) <= 4
