"""Shards on real servers, S3 and HTTP, also behind a bad proxy: baked there, trained from there, as from here."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prebake.errors import MachineError
from prebake.loader.cache_room import shards_held
from prebake.loader.shard_set import ShardSet
from tests.helpers.commands import ON_CPU, ROOT, Ended, the_run
from tests.helpers.proxy import FAULTS, proxied
from tests.helpers.servers import environment, files_in_bucket, nginx, s3
from tests.helpers.small import files

pytestmark = pytest.mark.slow
EPOCHS = 8
BAKE = ("--dataset", "digits", "--epochs", EPOCHS)
TRAIN = ("--model", "resnet20", *ON_CPU)  # the smallest
TRAIN_MNIST = ("--recipe", "resnet20", "--epochs", 5, "--device", "cpu")  # small batches, and bf16 where that is fast


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with contextlib.ExitStack() as servers:
        try:
            port = servers.enter_context(s3(tmp_path_factory.mktemp("s3") / "work"))
        except MachineError as error:
            pytest.skip(str(error))
        yield port


@contextlib.contextmanager
def web(root: Path, work: Path) -> Iterator[tuple[int, Path]]:
    """Serve a directory by nginx, or skip the test."""
    with contextlib.ExitStack() as servers:
        try:
            served = servers.enter_context(nginx(root, work))
        except MachineError as error:
            pytest.skip(str(error))
        yield served


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, baked on this disk."""
    root = tmp_path_factory.mktemp("here")
    done = run("precompute", *BAKE, "--out", root)
    assert done.code == 0, done.err
    return root


@pytest.fixture(scope="module")
def trained(here: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of a training from this disk."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    done = run("train", "--shards", here / "digits", "--out", runs, *TRAIN)
    assert done.code == 0, done.err
    return (the_run(runs) / "weights.safetensors").read_bytes()


def run(module: str, *arguments: object, more: Mapping[str, str] | None = None) -> Ended:
    """Run one of the commands from the repository root."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(more or {})},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def small_cache(baked: Path, cache: Path) -> tuple[object, ...]:
    """Return options for a cache that a training just takes, smaller than the set."""
    plan = ShardSet(baked).plan
    shards = plan.shards()
    size = shards_held(plan) * max(shard.size_bytes for shard in shards)
    assert size < sum(shard.size_bytes for shard in shards)
    return "--cache", cache, "--cache-size", size


def train_as_here(
    url: str,
    baked: Path,
    work: Path,
    weights: bytes,
    more: Mapping[str, str] | None = None,
    options: tuple[object, ...] = TRAIN,
) -> None:
    """Train from a URL through a cache that is smaller than the set; the weights must be those of a local run."""
    cached = small_cache(baked, work / "cache")
    done = run("train", "--shards", url, "--out", work / "runs", *cached, *options, more=more)
    assert done.code == 0, done.err
    assert (the_run(work / "runs") / "weights.safetensors").read_bytes() == weights
    size = sum(path.stat().st_size for path in (work / "cache").iterdir())
    assert size <= int(str(small_cache(baked, work)[-1]))


def test_digits_end_to_end_from_s3(port: int, here: Path, trained: bytes, tmp_path: Path) -> None:
    done = run("precompute", *BAKE, "--out", "s3://bucket/a", more=environment(port))
    assert done.code == 0, done.err
    assert files_in_bucket(port, "a/digits") == files(here / "digits")
    train_as_here("s3://bucket/a", here / "digits", tmp_path, trained, environment(port))
    verified = run("prebake", "verify", "s3://bucket/a/digits", more=environment(port))
    assert (verified.code, verified.err) == (0, "")
    about = run("prebake", "info", "s3://bucket/a/digits", "--json", more=environment(port))
    assert json.loads(about.out)["missing"] == []


def test_digits_end_to_end_from_nginx(here: Path, trained: bytes, tmp_path: Path) -> None:
    with web(here, tmp_path / "nginx") as (port, asked):
        url = f"http://me:secret@127.0.0.1:{port}/digits?token=secret"
        train_as_here(url, here / "digits", tmp_path, trained)
        assert " 206 " in asked.read_text()
        for written in (the_run(tmp_path / "runs")).rglob("*"):
            assert not written.is_file() or b"secret" not in written.read_bytes(), written
        verified = run("prebake", "verify", url)
        assert (verified.code, verified.err) == (0, "")
        assert f"http://127.0.0.1:{port}/digits: {EPOCHS + 1} shards" in verified.out


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_end_to_end_through_the_bad_proxy(
    port: int, here: Path, trained: bytes, tmp_path: Path, seed: int
) -> None:
    with proxied(port, 0.2, seed=seed) as proxy:
        more, name = environment(proxy.server_port), f"bad{seed}"
        done = run("precompute", *BAKE, "--out", f"s3://bucket/{name}", more=more)
        assert done.code == 0, done.err
        assert files_in_bucket(port, f"{name}/digits") == files(here / "digits")
        train_as_here(f"s3://bucket/{name}", here / "digits", tmp_path / "s3", trained, more)
        assert set(proxy.met) >= set(FAULTS), proxy.met
    with web(here, tmp_path / "nginx") as (upstream, _), proxied(upstream, 0.25, seed=seed) as proxy:
        train_as_here(f"http://127.0.0.1:{proxy.server_port}/digits", here / "digits", tmp_path / "http", trained)
        assert set(proxy.met) >= set(FAULTS), proxy.met


def test_mnist_end_to_end_through_the_bad_proxy(port: int, data_dir: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    options = ("--dataset", "mnist", "--epochs", 5, "--data-dir", data_dir)
    done = run("precompute", *options, "--out", here)
    assert done.code == 0, done.err
    done = run("train", "--shards", here, "--out", tmp_path / "runs", *TRAIN_MNIST)
    assert done.code == 0, done.err
    weights = (the_run(tmp_path / "runs") / "weights.safetensors").read_bytes()
    with proxied(port, 0.2) as proxy:
        more = environment(proxy.server_port)
        done = run("precompute", *options, "--out", "s3://bucket/m", more=more)
        assert done.code == 0, done.err
        assert files_in_bucket(port, "m/mnist") == files(here / "mnist")
        train_as_here("s3://bucket/m", here / "mnist", tmp_path / "s3", weights, more, TRAIN_MNIST)
        assert set(proxy.met) >= set(FAULTS), proxy.met
    with web(here, tmp_path / "nginx") as (upstream, _), proxied(upstream, 0.2) as proxy:
        train_as_here(
            f"http://127.0.0.1:{proxy.server_port}/mnist", here / "mnist", tmp_path / "http", weights, None, TRAIN_MNIST
        )
        assert set(proxy.met) >= set(FAULTS), proxy.met


def test_killed_bakes_resume_in_the_bucket(port: int, here: Path) -> None:
    more = environment(port)
    command = [sys.executable, "-m", "precompute", *map(str, BAKE), "--out", "s3://bucket/killed"]
    for seconds in (4.0, 5.0, 6.0, 7.0):
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **more}, stderr=subprocess.DEVNULL) as bake:
            with contextlib.suppress(subprocess.TimeoutExpired):
                bake.wait(seconds)
            bake.kill()
    done = run("precompute", *BAKE, "--out", "s3://bucket/killed", more=more)
    assert done.code == 0, done.err
    assert files_in_bucket(port, "killed/digits") == files(here / "digits")


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("forbidden/digits", 4, "/forbidden/digits/manifest.json: access denied (403 Forbidden)"),
        ("nothing", 3, "/nothing holds no manifest.json, and over HTTP nothing can be listed"),
        ("lacking", 3, "/lacking: unfinished, 1 shards are missing (train-e001-000.tar)"),
        ("gone", 3, "/gone/train-e001-000.tar: no such file"),
        ("cut", 3, "/cut/train-e001-000.tar: expected "),
    ],
)
def test_errors_of_a_server_are_reported(here: Path, tmp_path: Path, place: str, code: int, words: str) -> None:
    root = tmp_path / "root"
    there = Path(shutil.copytree(here / "digits", root / place))
    if place == "nothing":
        (there / "manifest.json").unlink()
    elif place == "lacking":
        (there / "train-e001-000.json").unlink()
    elif place == "gone":
        (there / "train-e001-000.tar").unlink()
    elif place == "cut":
        data = (there / "train-e001-000.tar").read_bytes()
        (there / "train-e001-000.tar").write_bytes(data[:-5000])
    with web(root, tmp_path / "nginx") as (port, _):
        url = f"http://me:secret@127.0.0.1:{port}/{place}?token=secret"
        done = run("train", "--shards", url, "--out", tmp_path / "runs", "--cache", tmp_path / "cache", *ON_CPU)
    assert done.code == code, done.err
    assert words in done.err
    assert "secret" not in done.err + done.out
    assert "Traceback" not in done.err


def test_wrong_credentials_and_a_missing_bucket_are_reported(port: int) -> None:
    done = run("prebake", "info", "s3://nobody/x", more=environment(port))
    assert (done.code, "error: s3://nobody/x/manifest.json: no such bucket" in done.err) == (3, True), done.err
    done = run("train", "--shards", "s3://nobody/x", *TRAIN, more=environment(port))
    assert (done.code, "no such bucket" in done.err) == (3, True), done.err
    done = run("precompute", *BAKE, "--out", "s3://nobody/x", more=environment(port))
    assert (done.code, "s3://nobody/x/digits/manifest.json: no such bucket" in done.err) == (3, True), done.err
    empty = {name: "" for name in environment(port) if "KEY" in name}
    done = run("prebake", "info", "s3://bucket/x", more={**environment(port), **empty, "HOME": "/nowhere"})
    assert (done.code, "no credentials found" in done.err) == (4, True), done.err


def test_a_server_without_range_requests_is_named_at_once(here: Path, tmp_path: Path) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(here))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/digits"
        done = run("train", "--shards", url, "--out", tmp_path / "runs", "--cache", tmp_path / "cache", *TRAIN)
        server.shutdown()
    assert done.code == 4, done.err
    assert re.search(rf"error: {url}/\S+: the server does not answer range requests", done.err), done.err


def test_a_silent_server_ends_the_command_after_the_deadline() -> None:
    code = """
import sys, prebake.storage.store
prebake.storage.store.PATIENCE_SECONDS = 2.0
from prebake.cli.main import main
sys.argv = ["prebake", "info", "http://me:secret@127.0.0.1:9/x?sig=secret"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert re.search(
        r"error: http://127\.0\.0\.1:9/x/manifest\.json: no answer in [12] s of repeated requests", done.stderr
    )
    assert "secret" not in done.stderr
