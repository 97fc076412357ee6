"""A bake on Dask workers: the bytes of a local bake, whichever process dies, and clear errors."""

import contextlib
import importlib.util
import platform
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prebake.cli.precompute
from prebake.cli.run import run_command
from prebake.errors import DataError, MachineError
from prebake.format.manifest import Shard
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augmenters import augmenter_for
from prebake.precompute.dask import SharedSet, _augmenters, _provenance, write_there
from prebake.precompute.images import SourceData
from prebake.precompute.sources import load
from prebake.precompute.sources.registry import Decoding
from prebake.storage.lock import is_locked
from prebake.storage.remote import Remote
from tests.helpers.clusters import cluster
from tests.helpers.fake_s3 import URL, FakeS3
from tests.helpers.servers import environment, files_in_bucket, s3
from tests.helpers.sessions import Session
from tests.helpers.small import files
from tests.helpers.tars import png, write_tar

DASK = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("distributed") is None, reason="dask is not installed: pip install -e '.[cluster]'"
    ),
]
EPOCHS = 150
PATIENCE = 180.0
Record = Callable[[str, object], None]


def dask(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that starts a cluster."""
    for mark in DASK:
        test = mark(test)
    return test


def start(address: str, out: Path, epochs: int = EPOCHS) -> Session:
    """Start a bake of digits on a cluster."""
    return Session.start("precompute", "--dataset", "digits", "--epochs", epochs, "--out", out, "--dask", address)


def shards_of(out: Path) -> int:
    return len(list(out.glob("digits/*.json")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local bake; read only."""
    out = tmp_path_factory.mktemp("whole")
    baking = Session.start("precompute", "--dataset", "digits", "--epochs", EPOCHS, "--out", out)
    assert baking.ended(PATIENCE)[0] == 0
    return out / "digits"


@pytest.fixture
def shared(baked: ShardSet, tmp_path: Path) -> SharedSet:
    """A set of digits of which the manifest alone stands there."""
    (tmp_path / "manifest.json").write_bytes((baked.path / "manifest.json").read_bytes())
    _provenance.cache_clear()
    _augmenters.clear()
    return SharedSet("digits", tmp_path / "none", Decoding(), tmp_path, baked.plan.identity, None)


def test_threads_of_a_worker_load_the_source_once(
    shared: SharedSet, baked: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def loading(name: str, data_dir: Path, how: Decoding) -> SourceData:
        loaded.append(name)
        return load(name, data_dir, how)

    monkeypatch.setattr("prebake.precompute.dask.load", loading)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda shard: write_there(shared, shard), baked.plan.shards() * 2))
    assert loaded == ["digits"]
    assert files(tmp_path) == files(baked.path)


def test_a_worker_bakes_to_a_remote_store_without_a_home(
    s3: FakeS3, shared: SharedSet, baked: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebake.storage.cache._default_directory", homeless)
    remote = Remote(URL)
    (remote / "manifest.json").write((baked.path / "manifest.json").read_bytes())
    for shard in baked.plan.shards():
        write_there(replace(shared, directory=remote), shard)
    assert s3.set() == files(baked.path)


def homeless() -> Path:
    raise MachineError("no home directory")


@pytest.mark.parametrize(
    "dataset",
    [
        "webdataset:pictures/{train,test}.tar",
        "webdataset:pictures/t*.tar",
        "webdataset:pictures",
        "own.py:pictures",
    ],
)
def test_workers_in_other_directories_find_the_source(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "worker").mkdir()
    for name in ("train", "test"):
        members = {f"{n}.{end}": data for n in range(4) for end, data in (("png", png(n)), ("cls", b"%d" % (n % 2)))}
        write_tar(tmp_path / "pictures" / f"{name}.tar", members)

    (tmp_path / "own.py").write_text(
        "import numpy as np\ndef pictures(): return [(np.full((9, 9), i, np.uint8), i % 3) for i in range(30)]\n"
    )

    def on_a_worker(_address: str, shared: SharedSet, todo: Sequence[Shard]) -> Iterator[Shard]:
        monkeypatch.chdir(tmp_path / "worker")
        for shard in todo:
            write_there(shared, shard)
            yield shard
        monkeypatch.chdir(tmp_path)

    def bake(out: str, *options: str) -> dict[str, bytes]:
        monkeypatch.chdir(tmp_path)
        arguments = ["--dataset", dataset, "--epochs", "1", "--memory", "1", "--out", out, *options]
        monkeypatch.setattr(sys, "argv", ["precompute", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_command(prebake.cli.precompute.main)
        assert ended.value.code == 0
        return files(tmp_path / out / "pictures")

    monkeypatch.setattr("prebake.cli.precompute.check_scheduler", lambda _address: None)
    monkeypatch.setattr("prebake.cli.precompute.imap_cluster", on_a_worker)
    monkeypatch.setattr("prebake.precompute.augmenters.usual_bytes", lambda: pytest.fail("--memory was forgotten"))
    assert bake("far", "--dask", "tcp://nobody:1") == bake("here")


@dask
@pytest.mark.parametrize(
    ("said", "limit", "expected"), [(None, 6 * 10**9, 3 * 10**9), (5, 6 * 10**9, 5), (None, 0, None)]
)
def test_a_worker_uses_half_of_its_limit_in_dask(
    shared: SharedSet,
    baked: ShardSet,
    monkeypatch: pytest.MonkeyPatch,
    said: int | None,
    limit: int,
    expected: int | None,
) -> None:
    from distributed import Client

    asked: list[int | None] = []

    def augmenter(*of: Any, **more: Any) -> Any:
        asked.append(more["memory"])
        return augmenter_for(*of, **more)

    monkeypatch.setattr("prebake.precompute.dask.augmenter_for", augmenter)
    with Client(processes=False, n_workers=1, memory_limit=limit, dashboard_address=None) as client:
        client.submit(write_there, replace(shared, memory=said), baked.plan.shards()[0]).result()
    assert asked == [expected]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"directory": Path("nowhere")}, r"nowhere: no manifest\.json here"),
        ({"identity": "0" * 32}, f"of another plan \\({'0' * 32} expected\\)"),
        ({"dataset": "others"}, "does not match the data set others as it is here .*source.sha256.train"),
    ],
)
def test_a_worker_that_does_not_see_what_is_meant_says_so(
    change: dict[str, object],
    said: str,
    shared: SharedSet,
    baked: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = load("digits", Path("unused"))
    test = digits.splits["test"]
    others = replace(digits, name="others", splits={"train": test, "test": test})
    monkeypatch.setattr("prebake.precompute.dask.load", lambda name, *_: others if name == "others" else digits)
    with pytest.raises(DataError, match=rf"worker on '.*{said}.*Workers must see --out and --data-dir") as caught:
        write_there(replace(shared, **change), baked.plan.shards()[0])  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert files(tmp_path).keys() == {"manifest.json"}


@dask
@pytest.mark.parametrize("kills", [12])
def test_killed_workers_leave_the_bytes_of_a_local_bake(
    kills: int, whole: Path, tmp_path: Path, record_property: Record
) -> None:
    rng, killed = random.Random(5), 0  # noqa: S311 - no secrets
    with cluster(tmp_path / "cluster", 2) as found:
        while killed < kills:
            out = tmp_path / str(killed)
            baking = start(found.address, out)
            while baking.process.poll() is None:
                at = shards_of(out) + rng.randrange(1, EPOCHS // 3)  # the new worker is at work by then
                while baking.process.poll() is None and shards_of(out) < at:
                    time.sleep(0.01)
                if baking.process.poll() is None:
                    found.kill_worker(rng.choice([-1, -2]))
                    found.workers.sort(key=lambda worker: worker.poll() is None)
                    found.add_worker()
                    killed += 1
            code, said, err = baking.ended(PATIENCE)
            assert (code, said) == (0, f"digits: {EPOCHS} epochs of 1500 images in {out / 'digits'}\n"), err
            assert files(out / "digits") == files(whole)
    record_property("cases", killed)


@dask
def test_a_cluster_bakes_to_s3_the_bytes_of_a_local_bake(whole: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as servers:
        try:
            port = servers.enter_context(s3(tmp_path / "s3"))
        except MachineError as error:
            pytest.skip(str(error))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(port).items():
                patch.setenv(name, value)
            found = servers.enter_context(cluster(tmp_path / "cluster", 2))
            options = ("--dataset", "digits", "--epochs", EPOCHS, "--out", "s3://bucket/far", "--dask", found.address)
            code, said, err = Session.start("precompute", *options).ended(PATIENCE)
        assert (code, said) == (0, f"digits: {EPOCHS} epochs of 1500 images in s3://bucket/far/digits\n"), err
        assert files_in_bucket(port, "far/digits") == files(whole)


@dask
def test_a_bake_without_workers_waits_for_them(whole: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", 0) as found:
        baking = start(found.address, tmp_path / "out")
        baking.wait_for((tmp_path / "out" / "digits" / "manifest.json").exists, PATIENCE)
        time.sleep(1)
        assert is_locked(tmp_path / "out" / "digits")
        found.add_worker()
        baking.wait_for(lambda: shards_of(tmp_path / "out") > 20, PATIENCE)
        found.add_worker()
        code, _, err = baking.ended(PATIENCE)
        assert code == 0, err
        assert f"{found.address}: no workers yet; waiting for them" in err
    assert files(tmp_path / "out" / "digits") == files(whole)


@dask
def test_a_shard_that_fails_ends_the_bake_with_our_error(tmp_path: Path) -> None:
    first = Session.start("precompute", "--dataset", "digits", "--epochs", 1, "--out", tmp_path)
    assert first.ended(PATIENCE)[0] == 0
    (tmp_path / "digits" / "train-e003-000.tar").mkdir()
    with cluster(tmp_path / "cluster", 2) as found:
        code, said, err = start(found.address, tmp_path, epochs=20).ended(PATIENCE)
    assert (code, said) == (4, "")
    assert err.splitlines()[-1].startswith(f"error: {tmp_path / 'digits' / 'train-e003-000.tar'}")
    assert f"on the worker {platform.node()!r}" in err.splitlines()[-1]
    assert "Traceback" not in err


@dask
def test_workers_that_die_again_and_again_end_the_bake(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", 1, failures=0) as found:
        baking = start(found.address, tmp_path, epochs=900)
        baking.wait_for(lambda: shards_of(tmp_path) > 3, PATIENCE)
        found.kill_worker(0)
        code, _, err = baking.ended(PATIENCE)
    assert code == 4
    assert "1 workers died over digits-train-e" in err.splitlines()[-1]
    assert "The same command resumes" in err.splitlines()[-1]


@dask
def test_a_worker_without_our_package_ends_the_bake(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", 0, failures=0) as found:
        found.add_worker(package=False)
        code, _, err = start(found.address, tmp_path, epochs=2).ended(PATIENCE)
    assert code == 4
    assert "no module: install this" in err.splitlines()[-1]


@dask
def test_a_lost_scheduler_ends_the_bake_which_can_be_resumed(whole: Path, tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", 2) as found:
        baking = start(found.address, tmp_path / "out")
        baking.wait_for(lambda: shards_of(tmp_path / "out") > 5, PATIENCE)
        found.scheduler.kill()
        code, _, err = baking.ended(PATIENCE)
    assert code == 4
    assert "the scheduler went away" in err.splitlines()[-1]
    assert "Traceback" not in err
    with cluster(tmp_path / "another", 2) as found:
        code, _, err = start(found.address, tmp_path / "out").ended(PATIENCE)
    assert code == 0, err
    assert files(tmp_path / "out" / "digits") == files(whole)


@dask
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_remaining_shards(number: signal.Signals, code: int, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster", 2) as found:
        baking = start(found.address, out)
        baking.wait_for(lambda: shards_of(out) > 20, PATIENCE)
        baking.send(number)
        ended, said, err = baking.ended(PATIENCE)
        assert (ended, said) == (code, "")
        assert err.splitlines()[-1].endswith("the same command resumes the bake")
        assert "Traceback" not in err
        assert not is_locked(out / "digits")
        time.sleep(1)
        there = shards_of(out)
        assert there < EPOCHS
        time.sleep(1)
        assert shards_of(out) == there
        assert list(out.rglob("*.part")) == []
        ended, _, err = start(found.address, out).ended(PATIENCE)
        assert ended == 0, err
    assert files(out / "digits") == files(whole)


@dask
@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nonsense", 2, "--dask: expected an address such as tcp://HOST:8786, found 'nonsense'"),
        ("foo://host:1", 2, "unknown address scheme 'foo'"),
        ("tcp://127.0.0.1:9", 4, "no scheduler answers at tcp://127.0.0.1:9 .* start one: dask scheduler"),
    ],
)
def test_an_address_without_a_scheduler_is_refused(address: str, code: int, said: str, tmp_path: Path) -> None:
    ended, out, err = start(address, tmp_path, epochs=1).ended(PATIENCE)
    assert (ended, out) == (code, "")
    assert "Traceback" not in err
    assert re.search(said, err.splitlines()[-1]), err
    assert not list(tmp_path.iterdir())
