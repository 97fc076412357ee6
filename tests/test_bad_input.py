"""What a user can get wrong with `python -m precompute` and `python -m shards`: an exit code, words, and no harm done.

Each command runs in a fork. Wrong arrays are in test_bake, damaged source files in test_sources, and the options that
tests/test_commands_precompute.py tries are not tried again here.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prebake
from prebake.errors import UsageError
from prebake.loader.shard_set import ShardSet
from prebake.precompute.sources import load
from tests.attacks.hostile import reseal, reseal_manifest
from tests.helpers.asked import precompute_command, shards_command
from tests.helpers.small import bake, files, stamps
from tests.helpers.trials import Trial, trial

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ("--dataset", "digits", "--epochs", "1")


def holds(ended: Trial, status: int, *said: str) -> None:
    """Check how a command ended: its exit code, words that must be there, and no traceback."""
    assert "Traceback" not in ended.said, ended.said
    assert ended.status == status, ended.said
    for words in said:
        assert words in ended.said, ended.said


def content(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory, but for locks."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "bake.lock"
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one epoch of digits in `digits`; read only."""
    root = tmp_path_factory.mktemp("root")
    holds(precompute_command(*DIGITS, "--out", root), 0)
    return root


@pytest.fixture
def there(root: Path, tmp_path: Path) -> Path:
    """A copy of the set in it."""
    return Path(shutil.copytree(root / "digits", tmp_path / "out" / "digits"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--epochs -1", "--epochs: expected at least 1, found -1"),
        ("--epochs 1000000000", "--epochs: expected at most 8192, found 1000000000"),
        ("--epochs 100000000000000000000", "--epochs: expected at most 8192, found"),
        ("--epochs 1.5", "--epochs: invalid int value: '1.5'"),
        ("--epochs 1 --seed -1", "--seed: expected 0 to 2^63 - 1, found -1"),
        ("--epochs 1 --seed 9223372036854775808", "--seed: expected 0 to 2^63 - 1, found 9223372036854775808"),
        ("--epochs 1 --val-fraction 1", "--val-fraction: expected a fraction between 0 and 1, found 1"),
        ("--epochs 1 --val-fraction nan", "--val-fraction: expected a fraction between 0 and 1"),
        ("--epochs 1 --val-fraction -0.1", "--val-fraction: expected a fraction between 0 and 1"),
        ("--epochs 1 --val-fraction 1e-9", "--val-fraction: expected a fraction between 0 and 1"),
        ("--epochs 1 --val-fraction half", "--val-fraction: invalid float value: 'half'"),
        ("--epochs 1 --pad -1", "--pad: expected 0 or more pixels, found -1"),
        ("--epochs 1 --pad 1000000000000", "--pad: reflecting needs fewer than 8 pixels"),
        ("--epochs 1 --pad 9 --pad-mode zero", "--pad: expected at most 8 pixels"),
        ("--epochs 1 --cutout -1", "--cutout: expected 0 or more pixels, found -1"),
        ("--epochs 1 --workers -3", "--workers: expected at least 1, found -3"),
        ("--epochs 1 --dtype Float16", "--dtype: invalid choice: 'Float16'"),
        ("--epochs 1 --augment trivial", "--augment: invalid choice: 'trivial'"),
        ("--epochs 1 --frobnicate", "unrecognized arguments: --frobnicate"),
        ("--epochs 1 audit", "unrecognized arguments: audit"),
    ],
)
def test_wrong_precompute_options_exit_with_2_and_write_nothing(arguments: str, said: str, tmp_path: Path) -> None:
    ended = precompute_command("--dataset", "digits", "--out", tmp_path / "out", *arguments.split())
    holds(ended, 2, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [1.5, "3", None])
def test_epochs_and_seeds_that_are_no_whole_numbers_are_refused(value: Any, tmp_path: Path) -> None:
    for name, option in (("epochs", "--epochs"), ("seed", "--seed")):
        with pytest.raises(UsageError, match=f"{option}: expected a whole number, found {value!r}"):
            bake(tmp_path / "set", **{name: value})
    assert not (tmp_path / "set").exists()


def test_numpy_s_whole_numbers_are_as_good_as_any(tmp_path: Path) -> None:
    data = bake(tmp_path / "numpy", epochs=np.int64(2), seed=np.uint8(3))
    assert files(data.path) == files(bake(tmp_path / "python", epochs=2, seed=3).path)


@pytest.mark.parametrize("value", [1.0, np.int64(1), "1", None, True])
def test_pixels_that_are_no_int_are_refused(value: Any) -> None:
    for pad, cutout in ((value, 0), (0, value)):
        with pytest.raises(UsageError, match=re.escape(f"expected 0 or more pixels, found {value!r}")):
            prebake.Augmentation("standard", pad, "zero", "none", cutout)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("audit", 2, "the following arguments are required: DIR"),
        ("audit DIR --sample 0", 2, "--sample: expected at least 1, found 0"),
        ("audit DIR --sample some", 2, "--sample: invalid int value: 'some'"),
        ("audit DIR --sample 3 --all", 2, "--all: not allowed with argument --sample"),
        ("audit DIR --seed -1", 2, "--seed: expected 0 to 2^63 - 1, found -1"),
        ("audit DIR --epochs 3", 2, "unrecognized arguments: --epochs 3"),
        ("repair", 2, "the following arguments are required: DIR"),
        ("repair DIR --overwrite", 2, "unrecognized arguments: --overwrite"),
        ("audit none", 3, "none: no manifest.json here, so this is no shard set"),
        ("repair none", 3, "none: no manifest.json here, so this is no shard set"),
        ("repair DIR/manifest.json", 3, "no manifest.json here, so this is no shard set"),
    ],
)
def test_wrong_options_of_audit_and_repair_change_nothing(arguments: str, status: int, said: str, there: Path) -> None:
    before = content(there), stamps(there)
    holds(precompute_command(*arguments.replace("DIR", str(there)).split()), status, said)
    assert (content(there), stamps(there)) == before


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "expected a command"),
        (["look"], 2, "no command named 'look'"),
        (["info"], 2, "the following arguments are required: DIR"),
        (["verify", "DIR", "--all"], 2, "unrecognized arguments: --all"),
        (["drop", "DIR"], 2, "the following arguments are required: --epochs"),
        (["drop", "DIR", "--epochs", "²"], 2, "--epochs: expected one of 0 to 0, or a range like 0-7 or 20-, found"),
        (["show", "DIR", "--epochs", "0-1"], 2, "--epochs: expected one of 0 to 0"),
        (["show", "DIR", "--epochs", "9" * 5000], 2, "--epochs: expected one of 0 to 0"),
        (["show", "DIR", "--epochs", "-1"], 2, "--epochs: expected one of 0 to 0"),
        (["show", "DIR", "--images", "-1"], 2, "--images: expected 0 to 1499, found -1"),
        (["show", "DIR", "--images", "9" * 30], 2, "--images: expected 0 to 1499"),
        (["show", "DIR", "--images"], 2, "--images: expected at least one argument"),
        (["show", "DIR", "--out", "DIR"], 2, "--out: expected the name of a PNG file, found the directory"),
        (["show", "DIR", "--out", "DIR/none/x.png"], 4, "none/x.png.part: No such file or directory"),
        (["show", "DIR", "--out", "DIR/manifest.json/x.png"], 4, "x.png.part: Not a directory"),
    ],
)
def test_wrong_options_of_shards_change_nothing(arguments: list[str], status: int, said: str, there: Path) -> None:
    before = content(there), stamps(there)
    holds(shards_command(*(text.replace("DIR", str(there)) for text in arguments)), status, said)
    assert (content(there), stamps(there)) == before


COMMANDS: dict[str, Callable[[Path], Trial]] = {
    "info": lambda directory: shards_command("info", directory),
    "verify": lambda directory: shards_command("verify", directory),
    "show": lambda directory: shards_command("show", directory, "--out", directory.parent / "grid.png"),
    "drop": lambda directory: shards_command("drop", directory, "--epochs", "0-"),
    "audit": lambda directory: precompute_command("audit", directory),
    "repair": lambda directory: precompute_command("repair", directory),
    "precompute": lambda directory: precompute_command(*DIGITS, "--out", directory.parent),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_newer_format_is_refused_with_both_versions(command: str, there: Path) -> None:
    reseal_manifest(there, lambda manifest: manifest.update(version=3))
    before = content(there.parent)
    ended = COMMANDS[command](there)
    holds(ended, 3, "expected format prebake version 2, found prebake version 3", "Use the release that wrote it")
    assert content(there.parent) == before


@pytest.mark.parametrize("command", ["info", "verify", "show", "drop", "audit", "repair"])
def test_a_directory_that_is_a_file_or_not_there_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    for name in ("file", "none"):
        holds(COMMANDS[command](tmp_path / name), 3, f"error: {tmp_path / name}: no manifest.json here")
    assert content(tmp_path) == {"file": b"no directory"}


@pytest.mark.parametrize("name", ["manifest.json", "train-e000-000.tar", "train-e000-000.json"])
def test_a_directory_in_a_file_s_place_is_no_crash(name: str, there: Path) -> None:
    (there / name).unlink()
    (there / name).mkdir()
    for command in ("verify", "show", "audit"):
        holds(COMMANDS[command](there), 3, str(there))
    assert (there / name).is_dir()


def test_shards_of_another_data_set_are_not_written_into(there: Path) -> None:
    there.rename(there.parent / "mnist")
    reseal_manifest(there.parent / "mnist", lambda manifest: manifest["source"].update(name="mnist"))
    (there.parent / "mnist").rename(there)
    before = content(there)
    ended = precompute_command(*DIGITS, "--out", there.parent)
    holds(ended, 3, "source.name is 'mnist' there, 'digits' asked for", "--overwrite (overwrite=True) replaces them")
    assert content(there) == before


def test_shards_of_another_augmentation_are_not_written_into(there: Path) -> None:
    before = content(there)
    ended = precompute_command(*DIGITS, "--cutout", 3, "--flip", "random", "--out", there.parent)
    holds(ended, 3, "augmentation.cutout is 2 there, 3 asked for", "augmentation.flip is 'none' there, 'random' asked")
    assert content(there) == before


def test_labels_out_of_range_are_found_despite_valid_checksums(there: Path) -> None:
    reseal_manifest(there, lambda manifest: manifest["source"].update(classes=["0", "1"]))
    identity = ShardSet(there).plan.identity
    for shard in ShardSet(there).plan.shards():
        reseal(there / shard.index, lambda index: index.update(identity=identity))
    ended = COMMANDS["verify"](there)
    holds(ended, 3, "expected labels from 0 to 1, found 0 to 9")
    holds(COMMANDS["audit"](there), 3, "source.classes is ['0', '1'] there")


def test_a_data_set_named_twice_is_baked_once(tmp_path: Path, root: Path) -> None:
    ended = precompute_command("--dataset", "digits", "digits", "--epochs", 1, "--out", tmp_path)
    holds(ended, 0)
    assert ended.said.count("digits: 1 epoch of 1500 images in") == 1
    assert content(tmp_path) == content(root)


@pytest.mark.parametrize("name", ["ein Weg é 数字", "-dash.json"])
def test_any_path_will_do(name: str, root: Path, tmp_path: Path, data_link: Path) -> None:
    out = tmp_path / name
    holds(precompute_command(*DIGITS, "--data-dir", data_link, f"--out={out}"), 0, f"images in {out / 'digits'}\n")
    assert content(out) == content(root)
    for command in ("info", "verify", "audit", "repair"):
        holds(COMMANDS[command](out / "digits"), 0, str(out / "digits") if command != "info" else "digits")
    picture = out / "bild é.png"
    holds(shards_command("show", out / "digits", "--out", picture), 0, f"{picture}: 8 images")
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def data_link(tmp_path: Path) -> Path:
    """A torchvision root under a name with a space and a letter that ASCII lacks: the official sets, where they are."""
    link = tmp_path / "mes données"
    link.symlink_to(os.environ.get("PREBAKE_DATA", tmp_path))
    return link


def test_official_data_is_read_from_any_path(data_dir: Path, data_link: Path, tmp_path: Path) -> None:
    options = ("--dataset", "mnist", "--epochs", 1, "--data-dir", data_link, "--out", tmp_path / "out", "--dry-run")
    assert data_dir.is_dir()
    holds(precompute_command(*options), 0, "mnist: 2 of 2 shards to write")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("content_of_all", [b"", b"\0\0\x08\x03", b"<!DOCTYPE html>"])
def test_source_files_that_are_none_are_named(content_of_all: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(content_of_all)
    options = ("--data-dir", tmp_path / "data", "--out", tmp_path / "out")
    ended = precompute_command("--dataset", "mnist", "--epochs", 1, *options)
    holds(ended, 3, "error: mnist: damaged files under", "--data-dir")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_no_network")
def test_a_data_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = precompute_command("--epochs", 1, "--data-dir", tmp_path / "file", "--out", tmp_path / "out")
    holds(ended, 3, f"error: cifar10: no usable files under {tmp_path / 'file'}", "--data-dir")
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("out", ["/proc/none", "/sys/none", "/dev/null", "/dev/null/deeper"])
@pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's")
def test_a_place_where_nothing_can_be_written_exits_with_4(out: str) -> None:
    holds(precompute_command(*DIGITS, "--out", out), 4, f"error: {out}")


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A directory that any user may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_somebody(command: Callable[[], Trial]) -> Trial:
    """Run a command as a user whom permissions bind: root would ignore them."""

    def act() -> None:
        load("digits", Path("unused"))  # whatever it imports may lie in root's home
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        _exit_like(command())

    return trial(act)


def _exit_like(ended: Trial) -> None:
    sys.stdout.write(ended.said)
    sys.exit(ended.status)


def test_an_out_without_permission_exits_with_4_and_advice(for_all: Path) -> None:
    for_all.chmod(0o555)
    ended = as_somebody(lambda: precompute_command(*DIGITS, "--out", for_all))
    holds(ended, 4, f"error: {for_all / 'digits'}: Permission denied; work in a directory that you may write to")
    assert list(for_all.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "train-e000-000.json", "train-e000-000.tar"])
def test_a_file_without_permission_exits_with_4_and_names_it(name: str, root: Path, for_all: Path) -> None:
    there = Path(shutil.copytree(root / "digits", for_all / "digits"))
    there.chmod(0o755)  # whatever this process's umask is
    for path in there.iterdir():
        path.chmod(0o644)
    (there / name).chmod(0)
    for command in ("verify", "show", "audit"):
        if (command, name) == ("audit", "train-e000-000.json"):
            continue  # it asks no index
        ended = as_somebody(lambda command=command: COMMANDS[command](there))  # type: ignore[misc]
        holds(ended, 4, f"error: {there / name}: Permission denied")


def test_a_clock_that_was_set_back_breaks_nothing(there: Path, tmp_path: Path) -> None:
    for path in there.iterdir():
        os.utime(path, (4e9, 4e9))
    before = stamps(there)
    for command in ("precompute", "verify", "info", "audit", "repair"):
        holds(COMMANDS[command](there), 0)
    assert stamps(there) == before
    now = [2e9]

    def earlier() -> float:
        now[0] -= 1000
        return now[0]

    def act() -> None:
        time.time = earlier
        _exit_like(precompute_command("--dataset", "digits", "--epochs", 3, "--out", tmp_path / "backwards"))

    ended = trial(act)
    holds(ended, 0, "3 epochs of 1500 images")
    assert "-" not in ended.said.replace(str(tmp_path), "")
    noted = json.loads((tmp_path / "backwards" / "digits" / "bake.lock").read_text())
    assert noted["seconds"] >= 0


@pytest.mark.parametrize(
    ("images", "epochs", "records"),
    [(1, 1, 1), (1, 3, 3), (2, 1, 1), (128, 1, 1), (129, 1, 2), (300, 2, 6)],
)
def test_the_smallest_sets_and_partial_records_go_all_the_way(
    images: int, epochs: int, records: int, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, 3, 1), dtype=np.uint8)
    labels = np.zeros(images, np.int64)
    augment = prebake.Augmentation("standard", 1, "reflect", "random", 1)
    out = tmp_path / "set"
    prebake.bake(pixels, labels, augment=augment, epochs=epochs, out=out)
    assert sum(len(shard.layouts) for shard in ShardSet(out).plan.shards()) == records
    holds(shards_command("verify", out), 0, "all as written")
    holds(shards_command("info", out), 0, f"epochs        {epochs} of {epochs} whole", f"train {images}")
    holds(shards_command("show", out, "--out", tmp_path / "grid.png"), 0, f": {min(8, images)} images")
    prebake.audit(pixels, labels, out=out, sample=None)
    prebake.audit(pixels, labels, out=out, sample=1)


def in_a_process(
    *arguments: object, stdout: int = subprocess.PIPE, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a module; return its exit code and all that it said."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    return done.returncode, ((done.stdout or b"") + done.stderr).decode("ascii")


def test_other_letters_are_escaped_in_an_ascii_locale(tmp_path: Path, root: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    out = tmp_path / "Weg é"
    code, said = in_a_process("precompute", *DIGITS, "--out", out, environment=ascii_only)
    assert (code, "digits: 1 epoch of 1500 images in" in said, "Traceback" in said) == (0, True, False), said
    assert content(out) == content(root)
    for command in (("prebake", "verify"), ("prebake", "audit")):
        code, said = in_a_process(*command, out / "digits", environment=ascii_only)
        assert (code, "Weg" in said, "Traceback" in said) == (0, True, False), said
    code, said = in_a_process("prebake", "verify", tmp_path / "kein é", environment=ascii_only)
    assert (code, "no manifest.json here" in said, "Traceback" in said) == (3, True, False), said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's")
def test_results_that_can_not_be_written_exit_with_4(root: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        code, said = in_a_process(
            "prebake", "info", root / "digits", stdout=full.fileno(), environment={"PYTHONUNBUFFERED": ""}
        )
    assert (code, said) == (4, "error: No space left on device; free some space, or work in another directory\n")


def test_a_command_whose_stdout_is_closed_does_its_work(root: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m prebake verify {shlex.quote(str(root / 'digits'))} >&-"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_during_imports_prints_one_line_and_exits_130(tmp_path: Path) -> None:
    options = ("--dataset", "mnist", "--epochs", "1", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-X", "importtime", "-m", "precompute", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        killer = threading.Timer(60, process.kill)
        killer.start()
        while " torch." not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = [line for line in process.stderr if not line.startswith("import time:")]
        killer.cancel()
    # What is imported may swallow the exception; then it goes on for a moment.
    assert (process.wait(), said[-1]) == (130, "interrupted; the same command resumes the bake\n")
    assert not any("Traceback" in line for line in said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["precompute", "prebake", "train"])
def test_no_heavy_module_is_imported_before_signals_are_handled(package: str) -> None:
    heavy = "{'torch', 'torchvision', 'sklearn', 'scipy', 'matplotlib'}"
    code = f"import sys, {package}.__main__; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
