"""Remote shard sets: read as local ones, whatever the store does meanwhile; errors name URLs without credentials."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import prebake.cli.shards
import prebake.storage.remote
import prebake.storage.store
from prebake.errors import DataError, MachineError, UsageError
from prebake.loader.describe import digest
from prebake.loader.prefetcher import Prefetcher
from prebake.loader.shard_set import ShardSet
from prebake.loader.stream import Stream
from prebake.storage.cache import Cache
from prebake.storage.files import parse_path
from prebake.storage.remote import Remote
from tests.helpers.fake_s3 import PREFIX, URL, FakeS3
from tests.helpers.trials import trial

MB = 10**6
TAR = "train-e000-000.tar"


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards consist of several pieces."""
    monkeypatch.setattr(prebake.storage.remote, "PIECE_BYTES", 16 * 1024)


@pytest.fixture
def there(s3: FakeS3, done: Path, tmp_path: Path) -> ShardSet:
    return ShardSet(s3.copy(done), Cache(tmp_path / "cache", MB))


def once_each(trouble: int | str) -> Callable[[str, str], int | str | None]:
    """Return a trouble that makes each first, third and so on request for a file fail."""
    calls: dict[tuple[str, str], int] = {}

    def decide(method: str, name: str) -> int | str | None:
        calls[method, name] = calls.get((method, name), 0) + 1
        return trouble if calls[method, name] % 2 else None

    return decide


def assert_same(found: ShardSet, expected: ShardSet) -> None:
    for split, epochs in (("test", 1), ("val", 1), ("train", expected.epochs)):
        for epoch in range(epochs):
            pairs = zip(found.records(split, epoch), expected.records(split, epoch), strict=True)
            for one, other in pairs:
                assert all(np.array_equal(one[name], other[name]) for name in ("images", "index", "labels"))


def test_a_remote_set_is_read_as_a_local_one(there: ShardSet, done: Path) -> None:
    here = ShardSet(done)
    assert (there.plan, there.missing(), digest(there)) == (here.plan, [], digest(here))
    assert_same(there, here)


@pytest.mark.parametrize("start", [0, 130])
def test_a_stream_gives_the_same_batches(there: ShardSet, done: Path, start: int) -> None:
    options = {"start": start, "shuffle_seed": 3, "first_epoch": 1}
    with (
        Stream(there, "train", [0, 2, 1], 64, **options) as found,  # type: ignore[arg-type] # of several types
        Stream(ShardSet(done), "train", [0, 2, 1], 64, **options) as expected,  # type: ignore[arg-type] # likewise
    ):
        for (images, labels), (others, other_labels) in zip(found, expected, strict=True):
            assert images.equal(others)
            assert labels.equal(other_labels)


@pytest.mark.parametrize("trouble", [503, "cut", pytest.param(429, marks=pytest.mark.slow)])
def test_failed_requests_are_repeated(there: ShardSet, s3: FakeS3, done: Path, trouble: int | str) -> None:
    s3.trouble = once_each(trouble)
    assert_same(there, ShardSet(done))


def test_short_answers_are_repeated(there: ShardSet, s3: FakeS3, done: Path) -> None:
    calls = iter(range(10**6))
    s3.spoil = lambda data: data[: len(data) // 2] if next(calls) % 3 == 0 else data
    assert_same(there, ShardSet(done))
    assert len(ShardSet(URL).plan.to_bytes()) == len(s3.set()["manifest.json"])


def test_requests_end_after_the_deadline(there: ShardSet, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.3)
    s3.trouble = lambda _method, _name: 503
    with pytest.raises(MachineError, match=rf"{URL}.*: no answer in \d+ s.*503 Service Unavailable"):
        next(there.batches("train", batch_size=1))


def test_time_of_a_long_transfer_is_not_counted(there: ShardSet, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(prebake.storage.store, "STALL_SECONDS", 0)
    slow = once_each("cut")

    def cut_late(method: str, name: str) -> int | str | None:
        trouble = slow(method, name)
        if trouble is not None and name == TAR:
            time.sleep(0.3)
        return trouble

    s3.trouble = cut_late
    assert len(list(there.batches("train", batch_size=100))) == 3


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, 4, "access denied (403 Forbidden)"),
        (401, 4, "access denied (401 Unauthorized)"),
        (400, 4, "refused with status 400"),
        (301, 4, "the bucket is in another region; name it in AWS_REGION"),
        (404, 3, "no manifest.json here"),
    ],
)
def test_final_answers_are_not_repeated(s3: FakeS3, status: int, code: int, words: str) -> None:
    s3.trouble = lambda method, _name: None if method == "list" else status
    with pytest.raises((DataError, MachineError), match=re.escape(words)) as raised:
        ShardSet(URL)
    assert raised.value.exit_code == code
    assert [method for method, _ in s3.asked].count("read") == 1


def test_missing_credentials_are_named(s3: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda _self: None)
    with pytest.raises(MachineError, match=r"s3://bucket: no credentials found; set AWS_ACCESS_KEY_ID"):
        ShardSet(URL)
    assert s3.asked == []


def test_credentials_come_from_the_profile_of_the_aws_tools(
    s3: FakeS3, done: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = me\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text(f"[profile mine]\nregion = eu-west-1\nendpoint_url = {endpoint}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert ShardSet(s3.copy(done)).missing() == []
    assert "Credential=me/" in s3.authorization
    assert "/eu-west-1/s3/" in s3.authorization
    monkeypatch.setenv("AWS_PROFILE", "other")
    prebake.storage.store.open_store.cache_clear()
    with pytest.raises(MachineError, match=r"no credentials found \(The config profile \(other\) could not be found"):
        ShardSet(URL)


def test_public_buckets_are_read_without_credentials(s3: FakeS3, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert ShardSet(s3.copy(done)).missing() == []
    assert s3.authorization == ""


def test_a_set_is_read_from_google_cloud_storage(s3: FakeS3, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
    s3.copy(done)
    remote = parse_path("gs://bucket/set")
    assert isinstance(remote, Remote)
    assert_same(ShardSet(remote), ShardSet(done))
    assert ShardSet(remote).missing() == []
    assert (remote / "a").write(b"1", create=True)
    assert not (remote / "a").write(b"2", create=True)
    remote.remove(["a", "b"])
    assert not (remote / "a").exists()


def test_credentials_come_from_a_google_service_account(
    s3: FakeS3, done: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    account = {"type": "service_account", "client_email": "me@host", "private_key": pem.decode(), "project_id": "p"}
    (tmp_path / "key.json").write_text(json.dumps({**account, "token_uri": f"{endpoint}/token"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    s3.copy(done)
    assert ShardSet("gs://bucket/set").missing() == []
    assert s3.authorization == "Bearer of-google"


def test_a_missing_archive_is_named(there: ShardSet, s3: FakeS3) -> None:
    del s3.files[PREFIX + TAR]
    with pytest.raises(DataError, match=rf"{URL}/{TAR}: no such file.*same --out"):
        next(there.batches("train", batch_size=1))


@pytest.mark.parametrize("change", [lambda data: data[:-100], lambda data: data + b"x", lambda _data: b""])
def test_an_archive_of_another_size_is_refused(there: ShardSet, s3: FakeS3, change: Callable[[bytes], bytes]) -> None:
    s3.files[PREFIX + TAR] = change(s3.files[PREFIX + TAR])
    with pytest.raises(DataError, match=rf"{TAR}: (expected \d+ bytes, found \d+|has fewer bytes than expected)"):
        next(there.batches("train", batch_size=1))


def test_verify_reads_the_store_and_not_the_cache(
    there: ShardSet, s3: FakeS3, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in there.batches("train", batch_size=100):
        pass
    changed = bytearray(s3.files[PREFIX + TAR])
    changed[3000] ^= 1
    s3.files[PREFIX + TAR] = bytes(changed)
    monkeypatch.setattr("sys.argv", ["shards", "verify", str(there.location)])
    with pytest.raises(DataError, match=rf"1 shards damaged \({TAR}\)"):
        prebake.cli.shards.main()
    assert f"{TAR}, record e000-r00000: bytes differ" in capsys.readouterr().out


def test_a_remote_set_has_no_local_path(there: ShardSet) -> None:
    with pytest.raises(UsageError, match=rf"{URL}: expected a directory on this machine"):
        _ = there.path


def test_a_signal_interrupts_a_request(s3: FakeS3) -> None:
    started, end = threading.Event(), threading.Event()

    def stall(_method: str, _name: str) -> None:
        started.set()
        end.wait(60)

    s3.trouble = stall
    code = f"from prebake.storage.remote import Remote; Remote({URL!r}).read(10)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert started.wait(60)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    end.set()
    assert said.splitlines()[-1].startswith("KeyboardInterrupt")


def test_a_forked_child_says_what_to_do_and_does_not_hang(there: ShardSet) -> None:
    def act() -> None:
        with pytest.raises(UsageError, match=f"{URL}.*forked.*multiprocessing_context='spawn'"):
            ShardSet(there.location)

    ended = trial(act, seconds=30)
    assert ended.status == 0, ended.said


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
def test_a_url_is_shown_without_its_credentials(text: str, shown: str, below: str) -> None:
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
def test_an_ambiguous_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_path(text)
    assert not re.search("sec|ret", str(raised.value))
    assert re.search("%2F for /|expected a URL such as|unknown kind of URL", str(raised.value))


@pytest.mark.parametrize("text", ["shards", "/a/b", "./s3:/x", "a b://c", "://x", "s3:", "a b/\u00fc", "a b/u\u0308"])
def test_any_other_text_is_a_path(text: str) -> None:
    assert str(parse_path(text)) == str(Path(text))


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_path("~/a") == parse_path(Path("~/a")) == tmp_path / "a"
    assert parse_path("a/~") == Path("a/~")
    with pytest.raises(UsageError, match="no home directory for ~nobody-of-that-name; write the full path"):
        parse_path("~nobody-of-that-name/a")


def test_a_file_url_is_a_path() -> None:
    assert parse_path("file:///a%20b/c") == Path("/a b/c")


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3:/bucket/x", "https://", "gs:/", "file://host/x", "file:/x"])
def test_an_incomplete_url_is_not_a_path(text: str) -> None:
    with pytest.raises(UsageError, match=rf"{text}: expected a URL such as s3://BUCKET/shards"):
        ShardSet(text)


@pytest.mark.parametrize("text", ["s3://b/a//c", "gs://b/../c", "s3://b/./c"])
def test_an_irregular_part_of_an_object_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=rf"{text}: expected a URL without empty parts"):
        parse_path(text)


def test_a_password_is_sent_but_not_to_a_redirect_target() -> None:
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            if self.path.startswith("/a/"):
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{server.server_port}/other")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", "bytes 0-1/2")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ab")

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert Remote(f"http://me:p%2Fw@127.0.0.1:{server.server_port}/a/f?sig=1").read(10) == b"ab"
        server.shutdown()
    assert asked == [("/a/f?sig=1", "Basic bWU6cC93"), ("/other", None)]


@pytest.mark.parametrize("text", ["nothing://x", "memory://x", "ftp://host/x"])
def test_an_unknown_kind_of_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"unknown kind of URL; expected one of s3, gs, https, http"):
        ShardSet(text)


@pytest.mark.parametrize(
    "said",
    [
        "400, url='https://me:hid%2Fden@host/a/b?X-Sig=secret&x=1'",
        "GET https://other/b?token=secret failed",
        "//you:hidden@other",
        "me:hid/den",
        "?X-Sig=secret&x=1",
    ],
)
def test_no_error_repeats_credentials(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.exceptions import GenericError

    class Failing:
        def get(self, *_arguments: object, **_options: object) -> None:
            raise GenericError(said)

    monkeypatch.setattr(prebake.storage.store, "open_store", lambda _root, _upload: Failing())
    monkeypatch.setattr(prebake.storage.store, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(MachineError, match=r"https://host/a/b: no answer") as raised:
        Remote("https://me:hid%2Fden@host/a/b?X-Sig=secret&x=1").read(10)
    assert not re.search("secret|hid|den", str(raised.value))


def test_a_prefetcher_keeps_the_order_and_its_limit() -> None:
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


def test_a_stopped_prefetcher_drops_the_rest_and_ends() -> None:
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
