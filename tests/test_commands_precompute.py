"""The commands precompute and shards as users run them: exit codes, messages, files."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import prebake
from prebake.cli.main import main
from prebake.cli.run import run_command
from prebake.errors import DataError, DivergedError, MachineError, UsageError
from prebake.format.verify import damage
from prebake.loader.grid import views
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import SourceData

ROOT = Path(__file__).resolve().parents[1]
# Nothing of this may leave the machine.
NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"} | NOWHERE


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which spares the seconds that importing scikit-learn takes."""
    words = [] if module == "shards" else [module]
    command, out, err = ["prebake", *words, *map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, ENVIRONMENT, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def precompute_digits(out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("precompute", "--dataset", "digits", "--dtype", "uint8", "--out", out, *arguments)


def archives(directory: Path) -> int:
    """Return the bytes of all archives."""
    return sum(path.stat().st_size for path in directory.glob("*.tar"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of digits, baked by the command; read only."""
    out = tmp_path_factory.mktemp("commands")
    dry = precompute_digits(out, "--epochs", "3", "--dry-run", "--json")
    assert (dry.returncode, list(out.iterdir())) == (0, [])
    (out / "dry.json").write_text(dry.stdout)
    baked = precompute_digits(out, "--epochs", "3")
    assert (baked.returncode, baked.stdout) == (0, f"digits: 3 epochs of 1500 images in {out / 'digits'}\n")
    assert "test done" in baked.stderr
    assert "train epoch 2 done" in baked.stderr
    return out / "digits"


@pytest.fixture
def there(done: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(done, tmp_path / "there"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--epochs 1 --dataset imagenet", "no data set named 'imagenet'; there are digits, .*cifar10"),
        ("--epochs 1 --dataset digits --image-size 16", "--image-size: .*; digits has a size, and --resize"),
        ("--epochs 1 --dataset folder:cats digits --skip-unreadable", "--skip-unreadable: for your own pictures only"),
        ("--epochs 1 --dataset digits --augment strong", "--augment: invalid choice: 'strong'"),
        ("--epochs 1 --dataset digits --dtype float64", "--dtype: invalid choice: 'float64'"),
        ("--epochs 1 --dataset digits --workers 0", "--workers: expected at least 1, found 0"),
        ("--epochs 1 --dataset digits --flip sometimes", "--flip: invalid choice: 'sometimes'"),
        ("--epochs 1 --dataset digits --pad-mode wrap", "--pad-mode: invalid choice: 'wrap'"),
        ("--epochs 1 --dataset digits --cutout 9", "--cutout: expected at most 8"),
        ("--epochs 0 --dataset digits", "--epochs: expected at least 1, found 0"),
        ("--epochs many", "--epochs"),
        ("--dataset digits", "--epochs"),
    ],
)
def test_wrong_options_exit_with_2_and_write_nothing(arguments: str, said: str, tmp_path: Path) -> None:
    done = run("precompute", *arguments.split(), "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--dtype", "float64"),
        ("--seed", "-1"),
        ("--epochs", "9000"),
        ("--val-fraction", "2"),
        ("--val-fraction", "nan"),
        ("--resize", "16:5,24:5"),
    ],
)
def test_options_are_checked_before_pictures_are_looked_for(wrong: tuple[str, str], tmp_path: Path) -> None:
    done = run("precompute", "--dataset", f"folder:{tmp_path / 'none'}", "--epochs", "1", *wrong, "--out", tmp_path)
    assert (done.returncode, f"error: {wrong[0]}: " in done.stderr) == (2, True), done.stderr


def test_a_dry_run_refuses_more_shards_than_readers_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prebake.format.manifest.MAX_SHARDS", 3)
    assert precompute_digits(tmp_path, "--epochs", "2", "--dry-run").returncode == 0
    done = precompute_digits(tmp_path, "--epochs", "3", "--dry-run")
    assert (done.returncode, "error: expected at most 3 shards, found 4" in done.stderr) == (2, True), done.stderr


def test_a_dry_run_prints_the_exact_bytes_and_writes_nothing(done: Path) -> None:
    said = json.loads((done.parent / "dry.json").read_text())
    assert said["size_bytes"] == said["planned_bytes"] == archives(done)
    assert said["shards"] == said["planned_shards"] == len(list(done.glob("*.tar"))) == 4
    assert (said["dataset"], said["directory"]) == ("digits", str(done))
    assert said["epoch_bytes"] == (done / "train-e002-000.tar").stat().st_size
    assert said["free_bytes"] > 0


def test_a_dry_run_over_a_part_that_is_there_says_what_is_left(there: Path, tmp_path: Path) -> None:
    there.rename(tmp_path / "digits")
    before = archives(tmp_path / "digits")
    said = precompute_digits(tmp_path, "--epochs", "5", "--dry-run")
    assert said.returncode == 0
    each = (tmp_path / "digits" / "train-e000-000.tar").stat().st_size
    assert (
        f"digits: 2 of 6 shards to write into {tmp_path / 'digits'}, {2 * each} of {before + 2 * each} bytes"
        in said.stdout
    )
    assert archives(tmp_path / "digits") == before


def test_without_data_and_network_the_exit_code_is_3(tmp_path: Path) -> None:
    done = run("precompute", "--epochs", "1", "--data-dir", tmp_path / "data", "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "error: cifar10: no usable files" in done.stderr
    assert "--data-dir" in done.stderr
    assert "--dataset digits" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_target_that_can_not_be_written_to_exits_with_4(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    done = precompute_digits(tmp_path / "file", "--epochs", "1")
    assert done.returncode == 4
    assert f"error: {tmp_path / 'file'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "no directory"


def test_another_plan_exits_with_3_and_names_the_difference(done: Path) -> None:
    refused = precompute_digits(done.parent, "--epochs", "3", "--seed", "1")
    assert refused.returncode == 3
    assert "seed is 0 there, 1 asked for" in refused.stderr


def test_verify_exits_with_0_where_every_byte_is_as_written(done: Path) -> None:
    verified = run("shards", "verify", done)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout == f"{done}: 4 shards, {archives(done)} bytes, all as written\n"


def test_verify_exits_with_3_and_names_damaged_shards(there: Path) -> None:
    data = bytearray((there / "train-e001-000.tar").read_bytes())
    data[5000] ^= 1
    (there / "train-e001-000.tar").write_bytes(data)
    (there / "train-e002-000.json").unlink()
    verified = run("shards", "verify", there)
    assert verified.returncode == 3
    assert "missing  train-e002-000.tar" in verified.stdout
    assert f"damaged  {there / 'train-e001-000.tar'}, record e001-r00000" in verified.stdout
    assert "train-e000-000" not in verified.stdout
    assert "1 shards damaged (train-e001-000.tar), 1 missing" in verified.stderr
    said = run("shards", "verify", there, "--json")
    assert said.returncode == 3
    found = json.loads(said.stdout)
    assert list(found["damaged"]) == ["train-e001-000.tar"]
    assert (found["missing"], found["shards"]) == (["train-e002-000.tar"], 3)


def test_info_describes_the_set(done: Path) -> None:
    said = json.loads(run("shards", "info", done, "--json").stdout)
    plan = ShardSet(done).plan
    expected = {
        "directory": str(done),
        "dtype": "uint8",
        "seed": 0,
        "identity": plan.identity,
        "image_shape": [8, 8, 1],
        "epochs": 3,
        "epochs_whole": 3,
        "samples": {"test": 297, "train": 1500},
        "shards": 4,
        "bytes": archives(done),
        "bytes_planned": archives(done),
        "missing": [],
        "augmentation": {"name": "standard", "pad": 1, "pad_mode": "reflect", "flip": "none", "cutout": 2},
    }
    assert expected.items() <= said.items()
    assert said["source"]["name"] == "digits"
    for_people = run("shards", "info", done)
    assert (for_people.returncode, for_people.stderr) == (0, "")
    assert "epochs        3 of 3 whole\n" in for_people.stdout


def test_info_of_an_unfinished_set_names_what_is_missing(there: Path) -> None:
    (there / "train-e001-000.json").unlink()
    said = json.loads(run("shards", "info", there, "--json").stdout)
    assert (said["epochs_whole"], said["missing"]) == (2, ["train-e001-000.tar"])
    refused = run("shards", "info", there, "--digest")
    assert (refused.returncode, refused.stdout) == (3, "")


def test_the_digest_is_the_content_s_and_nothing_else_s(done: Path, there: Path) -> None:
    (there / "bake.lock").write_text('{"seconds": 5}\n')
    (there / "notes.txt").write_text("mine")
    digests = [run("shards", "info", directory, "--digest").stdout for directory in (done, there)]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64
    dropped = run("shards", "drop", there, "--epochs", "2-")
    assert (dropped.returncode, dropped.stderr) == (0, "")
    assert run("shards", "info", there, "--digest").stdout != digests[0]


def test_drop_removes_the_last_epochs(there: Path, done: Path) -> None:
    gone = [path for path in done.iterdir() if path.name.startswith(("train-e001", "train-e002"))]
    dropped = run("shards", "drop", there, "--epochs", "1-")
    assert dropped.returncode == 0
    assert dropped.stdout == (
        f"{there}: epochs 1 to 2 dropped, {sum(path.stat().st_size for path in gone)} bytes freed\n"
    )
    assert {path.name for path in there.iterdir()} == {path.name for path in done.iterdir()} - {p.name for p in gone}
    for epochs, said in (("0-", "at least epoch 0 must remain"), ("5", "expected one of 0 to 0"), ("x", "found 'x'")):
        refused = run("shards", "drop", there, "--epochs", epochs)
        assert refused.returncode == 2
        assert said in refused.stderr


def test_only_the_last_epochs_can_be_dropped(there: Path) -> None:
    refused = run("shards", "drop", there, "--epochs", "0-1")
    assert refused.returncode == 2
    assert "only the last epochs can be removed" in refused.stderr
    assert ShardSet(there).epochs == 3


def test_show_writes_a_picture_of_each_image_in_each_epoch(done: Path, tmp_path: Path) -> None:
    sizes = {}
    for epochs, images in (("0-1", ("3", "5", "7")), ("0-2", ("3", "5", "7")), ("0-1", ("3", "5"))):
        out = tmp_path / "grid.png"
        shown = run("shards", "show", done, "--epochs", epochs, "--images", *images, "--out", out)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert str(out) in shown.stdout
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            sizes[epochs, len(images)] = picture.size
    (width, height) = sizes["0-1", 3]
    assert sizes["0-2", 3][0] - width == height - sizes["0-1", 2][1] >= 64
    assert sizes["0-2", 3][1] == height >= 3 * 64
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    refused = run("shards", "show", done, "--images", "1500", "--out", tmp_path / "none.png")
    assert refused.returncode == 2
    assert "--images: expected 0 to 1499, found 1500" in refused.stderr


@pytest.mark.parametrize("dtype", ["float16", "uint8", "float32"])
def test_show_draws_the_pixels_of_the_source(dtype: str, digits: SourceData, tmp_path: Path) -> None:
    train = digits.splits["train"]
    images, labels = train.images_NHWC[:200], train.labels_N[:200]
    prebake.bake(images, labels, augment="plain", dtype=dtype, epochs=2, out=tmp_path)
    shown = views(ShardSet(tmp_path), [199, 0, 130], [1, 0])
    assert shown.shape == (3, 2, 8, 8, 1)
    for row, index in enumerate((199, 0, 130)):
        for column in range(2):
            assert np.array_equal(shown[row, column], images[index])


def test_an_image_asked_for_twice_is_shown_twice(baked: ShardSet) -> None:
    shown = views(baked, [3, 3], [0])
    assert np.array_equal(shown[0], shown[1])


@pytest.mark.parametrize("command", ["info", "verify", "show", "drop"])
def test_a_directory_that_is_no_shard_set_exits_with_3(command: str, tmp_path: Path) -> None:
    done = run("shards", command, tmp_path, *(["--epochs", "1-"] if command == "drop" else []))
    assert done.returncode == 3
    assert "no manifest.json here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_terminated_bake_exits_with_143(tmp_path: Path) -> None:
    # Its progress fills the pipe before so many epochs are done, so it can't end by itself.
    options = ["--dataset", "digits", "--dtype", "uint8", "--epochs", "900", "--workers", "2", "--out", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "precompute", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "train epoch 0 done" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (143, "")
    assert stderr.endswith("terminated; the same command resumes the bake\n")
    data = ShardSet(tmp_path / "digits")
    missing = set(data.missing())
    assert 0 < len(missing) < 901
    for shard in data.plan.shards():
        if shard.tar not in missing:
            assert damage(data.path, shard, data.plan) is None
        elif (data.path / shard.tar).exists():
            assert (data.path / shard.tar).stat().st_size == shard.size_bytes
    assert list(data.path.glob("*.part")) == []


def outcome(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Return exit code and stderr of a command whose main raises this."""

    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        run_command(main, "how to go on")
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UsageError("what"), 2, "error: what\n"),
        (DataError("what"), 3, "error: what\n"),
        (MachineError("what"), 4, "error: what\n"),
        (DivergedError("what"), 5, "error: what\n"),
        (KeyboardInterrupt(), 130, "interrupted; how to go on\n"),
        (MemoryError("1 TiB"), 4, "error: out of memory: 1 TiB\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.tar"),
            4,
            "error: x.tar: No space left on device; free some space, or work in another directory\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            4,
            "error: x: Permission denied; work in a directory that you may write to\n",
        ),
    ],
)
def test_each_way_to_end_has_its_exit_code(
    error: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(error, capsys) == (code, said)


def test_a_bug_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


def test_the_handler_of_sigterm_is_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert outcome(UsageError("what"), capsys)[0] == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_on_windows_a_command_says_that_it_is_not_supported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    code, said = outcome(None, capsys)
    assert code == 2
    assert said.startswith("error: Windows is not supported; use Linux or macOS")


@pytest.mark.parametrize("module", ["prebake", "precompute", "train"])
def test_windows_is_refused_before_any_import_fails(module: str) -> None:
    code = """
import concurrent.futures.process, multiprocessing.connection
import decimal, gettext, hashlib, locale, pickle, runpy, shutil, subprocess, sys, tarfile
import numpy, tqdm, xxhash
from concurrent.futures import ThreadPoolExecutor
sys.platform, sys.modules["fcntl"] = "win32", None
sys.argv = [sys.argv[1], "--help"]
runpy.run_module(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code, module], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Windows is not supported" in done.stderr


def test_a_dry_run_predicts_the_real_run(tmp_path: Path) -> None:
    options = ["--dataset", "digits", "--epochs", "1", "--out", str(tmp_path)]
    assert run("precompute", *options).returncode == 0
    other = run("precompute", *options, "--dtype", "uint8", "--dry-run")
    assert other.returncode == 3
    assert "dtype is 'float16' there, 'uint8' asked for" in other.stderr
    again = run("precompute", *options, "--overwrite", "--dry-run", "--json")
    assert json.loads(again.stdout)["shards"] == 2
    assert run("precompute", *options, "--dry-run", "--json").stdout.count('"shards": 0') == 1


def test_all_sets_are_checked_before_the_first_is_baked(tmp_path: Path) -> None:
    done = run("precompute", "--dataset", "digits", "cifar10", "--epochs", "1", "--out", tmp_path, "--pad", "9")
    assert done.returncode == 2
    assert "--pad: " in done.stderr
    assert list(tmp_path.iterdir()) == []
