"""`python -m train` and `python -m train predict`: what they print, write and refuse."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import precompute
import train.__main__
from precompute import Augmentation
from precompute.sources import SourceData
from shards import ShardSet
from shards.command import run_command
from train.device import autocast
from train.models import MODELS
from train.recipes import RECIPES
from train.weights import load_weights

ROOT = Path(__file__).parent.parent
ON_CPU = ("--device", "cpu", "--precision", "fp32")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def in_a_process(*arguments: object) -> Ended:
    """Run `python -m train` from the repository root."""
    done = subprocess.run(
        [sys.executable, "-m", "train", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `python -m train` in this process, which spares the seconds that importing torch takes."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(train.__main__.main)
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ended(code, said.out, said.err)

    return run


def the_run(runs: Path, start: str = "") -> Path:
    """Return the only run there of that beginning."""
    (path,) = runs.glob(f"{start}*")
    return path


def summary_of(run: Path) -> dict[str, Any]:
    """Read a run's summary."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def log_of(run: Path) -> list[dict[str, Any]]:
    """Read a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def events_of(run: Path) -> list[str]:
    """List what a run's log tells of, in order."""
    return [line["event"] for line in log_of(run)]


@pytest.fixture(scope="module")
def shards(tiny: ShardSet, digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of two sets: the tiny digits, and `mirrored`, in uint8 with flips; read only."""
    root = tmp_path_factory.mktemp("shards")
    shutil.copytree(tiny.path, root / "digits")
    train, test = digits.splits["train"], digits.splits["test"]
    precompute.bake(
        train.images_NHWC[:100],
        train.labels_N[:100],
        test=(test.images_NHWC[:50], test.labels_N[:50]),
        augment=Augmentation("mirrored", pad=1, pad_mode="zero", flip="random", cutout=0),
        name="mirrored",
        encoding="uint8",
        epochs=1,
        out=root / "mirrored",
    )
    return root


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """The first run of a user: two epochs of the tiny digits in a process of their own; and its root, read only."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    return in_a_process("--shards", shards / "digits", "--out", runs, *ON_CPU), runs


def test_training_ends_with_0_and_a_table_on_stdout(finished: tuple[Ended, Path]) -> None:
    ended, _ = finished
    assert ended.code == 0, ended.err
    header, row = ended.out.splitlines()
    for title in ("data set", "epochs", "test accuracy", "with flip TTA", "training", "waiting for data"):
        assert title in header
    assert row.split()[:2] == ["digits", "2"]
    assert "%" in row


def test_progress_is_a_line_an_epoch_on_stderr(finished: tuple[Ended, Path]) -> None:
    ended, runs = finished
    lines = ended.err.splitlines()
    assert "2 epochs" in lines[0]
    assert str(the_run(runs)) in lines[1]
    assert [line.split(": ")[1] for line in lines[2:]] == ["epoch 1/2", "epoch 2/2"]


def test_a_run_directory_holds_summary_log_weights_and_curves(finished: tuple[Ended, Path]) -> None:
    run = the_run(finished[1], "digits-digits-s0-")
    assert {path.name for path in run.iterdir()} == {"summary.json", "log.jsonl", "weights.safetensors", "curves.png"}
    start, *epochs, end = log_of(run)
    assert (start["event"], end["event"]) == ("start", "end")
    assert start["settings"]["dataset"] == "digits"
    assert start["settings"]["recipe"]["name"] == "digits"
    assert [(line["event"], line["epoch"]) for line in epochs] == [("epoch", 0), ("epoch", 1)]
    summary = summary_of(run)
    assert {key: end[key] for key in summary} == summary
    assert summary["first_loss"] == pytest.approx(math.log(10), abs=0.3)
    assert summary["test_accuracy"] == epochs[-1]["held_out_accuracy"]
    assert load_weights(run / "weights.safetensors").classes == tuple("0123456789")
    with Image.open(run / "curves.png") as image:
        assert image.format == "PNG"


def test_a_finished_run_is_refused_and_untouched(finished: tuple[Ended, Path], shards: Path, command: Command) -> None:
    run = the_run(finished[1])
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    ended = command("--shards", shards / "digits", "--out", finished[1], *ON_CPU)
    assert ended.code == 2
    assert f"error: {run}: this run is finished already; --overwrite" in ended.err
    assert ended.out == ""
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_overwriting_repeats_a_run_exactly(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    ended = command("--shards", shards / "digits", "--out", runs, "--overwrite", *ON_CPU)
    assert ended.code == 0, ended.err
    first, again = the_run(finished[1]), the_run(runs)
    assert summary_of(again)["seconds"] != summary_of(first)["seconds"]
    for key in ("test_accuracy", "first_loss", "epochs", "seed"):
        assert summary_of(again)[key] == summary_of(first)[key]
    assert (again / "weights.safetensors").read_bytes() == (first / "weights.safetensors").read_bytes()
    assert events_of(again) == ["start", "epoch", "epoch", "end"]


def test_a_root_of_two_sets_trains_both_and_json_prints_their_summaries(
    shards: Path, tmp_path: Path, command: Command
) -> None:
    ended = command("--shards", shards, "--epochs", 1, "--recipe", "digits", "--json", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    digits, mirrored = map(json.loads, ended.out.splitlines())
    assert (digits["dataset"], mirrored["dataset"]) == ("digits", "mirrored")
    for summary in (digits, mirrored):
        assert summary_of(Path(summary["run"])) == summary
        assert summary["epochs"] == 1
        assert 0 <= summary["test_accuracy"] <= 1
        assert 0 <= summary["utilization"] <= 1
    assert digits["test_accuracy_tta"] is None
    assert 0 <= mirrored["test_accuracy_tta"] <= 1
    assert len(list(tmp_path.iterdir())) == 2


def test_dataset_picks_one_set_of_a_root(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards, "--dataset", "mirrored", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    assert [line.split()[0] for line in ended.out.splitlines()] == ["data", "mirrored"]
    assert the_run(tmp_path).name.startswith("mirrored-digits-s0-")


def test_a_seed_and_a_rate_of_ones_own_make_another_run(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--epochs", 1, "--batch-size", 100, "--lr", 0.05, "--seed", 9)
    ended = command("--shards", shards / "digits", "--out", tmp_path, *options, *ON_CPU)
    assert ended.code == 0, ended.err
    settings = log_of(the_run(tmp_path, "digits-digits-s9-"))[0]["settings"]
    assert (settings["seed"], settings["recipe"]["epochs"]) == (9, 1)
    assert (settings["recipe"]["batch_size"], settings["recipe"]["peak_lr"]) == (100, 0.05)


def test_more_epochs_than_baked_are_refused_without_replay(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path / "runs", "--epochs", 3, *ON_CPU)
    ended = command(*options)
    assert ended.code == 3
    assert "3 epochs asked for, the shards hold 2. Bake more: " in ended.err
    assert "--dataset digits --epochs 3" in ended.err
    assert not (tmp_path / "runs").exists()
    ended = command(*options, "--replay")
    assert ended.code == 0, ended.err
    assert [line["epoch"] for line in log_of(the_run(tmp_path / "runs"))[1:-1]] == [0, 1, 2]


def test_a_run_that_diverges_ends_with_5(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path, "--lr", 1e12, *ON_CPU)
    assert ended.code == 5
    assert "a lower --lr than 1000000000000.0 may help" in ended.err
    assert not (the_run(tmp_path) / "summary.json").exists()


def interrupted_at(step: int) -> Callable[..., Any]:
    """Return an `autocast` that is interrupted as by Ctrl-C when the given step begins."""
    steps = iter(range(step))

    def begin(device: torch.device, precision: str) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return autocast(device, precision)

    return begin


def test_a_run_interrupted_in_its_second_epoch_goes_on_to_the_same_end(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)
    monkeypatch.setattr("train.__main__.CHECKPOINT_SECONDS", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(4))
        assert command(*options).code == 130
    run = the_run(tmp_path)
    assert events_of(run) == ["start", "epoch"]
    assert not (run / "summary.json").exists()

    refused = command(*options)
    assert refused.code == 2
    assert f"{run}: this run was begun; --resume auto goes on with it" in refused.err

    resumed = command(*options, "--resume", "auto")
    assert resumed.code == 0, resumed.err
    assert "epoch 1/2" not in resumed.err
    assert events_of(run) == ["start", "epoch", "resume", "epoch", "end"]
    uninterrupted = the_run(finished[1])
    assert (run / "weights.safetensors").read_bytes() == (uninterrupted / "weights.safetensors").read_bytes()
    for key in ("test_accuracy", "first_loss", "epochs"):
        assert summary_of(run)[key] == summary_of(uninterrupted)[key]
    losses = [[line["train_loss"] for line in log_of(r) if line["event"] == "epoch"] for r in (run, uninterrupted)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b""),
        b"no checkpoint",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_a_damaged_checkpoint_is_said_to_be_one(
    content: bytes, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path, *ON_CPU)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(0))
        assert command(*options).code == 130
    checkpoint = the_run(tmp_path) / "checkpoint" / "last.pt"
    checkpoint.write_bytes(content)
    ended = command(*options, "--resume", "auto")
    assert ended.code == 3
    assert f"{checkpoint}: not a checkpoint" in ended.err


def test_a_finished_run_among_several_is_refused_before_any_of_them_is_trained(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards, "--dataset", "mirrored", "digits", "--recipe", "digits", "--out", runs)
    ended = command(*options, *ON_CPU)
    assert ended.code == 2
    assert "this run is finished already" in ended.err
    assert [path.name.split("-")[0] for path in runs.iterdir()] == ["digits"]


def test_a_log_without_held_out_data_is_json_all_the_same(digits: SourceData, tmp_path: Path, command: Command) -> None:
    train = digits.splits["train"]
    precompute.bake(train.images_NHWC[:70], train.labels_N[:70], name="digits", epochs=1, out=tmp_path / "digits")
    ended = command("--shards", tmp_path / "digits", "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 0, ended.err
    assert "NaN" not in (the_run(tmp_path / "runs") / "log.jsonl").read_text()


def test_a_seed_beyond_64_bits_is_a_usage_error(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path, "--seed", 2**64, *ON_CPU)
    assert ended.code == 2
    assert "--seed" in ended.err


def test_shards_that_are_not_there_are_not_usable_data(tmp_path: Path, command: Command) -> None:
    ended = command("--shards", tmp_path / "nothing")
    assert (ended.code, ended.out) == (3, "")
    assert f"no directory named {tmp_path / 'nothing'}. Bake first: python -m precompute" in ended.err


def test_an_empty_directory_is_no_usable_data(tmp_path: Path, command: Command) -> None:
    ended = command("--shards", tmp_path)
    assert (ended.code, ended.out) == (3, "")
    assert f"{tmp_path} holds no shard set. Bake first: python -m precompute" in ended.err


def test_an_error_of_the_command_itself_is_one_line_on_stderr_and_its_exit_code(tmp_path: Path) -> None:
    ended = in_a_process("--shards", tmp_path / "nothing")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith("error: --shards: no directory named ")
    assert len(ended.err.splitlines()) == 1


def test_unfinished_shards_are_refused_by_name(shards: Path, tmp_path: Path, command: Command) -> None:
    copied = shutil.copytree(shards / "digits", tmp_path / "digits")
    (copied / "train-e001-000.json").unlink()
    ended = command("--shards", copied, "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 3
    assert "unfinished, 1 shards are missing (train-e001-000.tar)" in ended.err
    assert "python -m precompute --dataset digits --epochs 2" in ended.err
    assert not (tmp_path / "runs").exists()


def test_an_unfinished_test_split_is_refused_before_any_training(
    shards: Path, tmp_path: Path, command: Command
) -> None:
    copied = shutil.copytree(shards / "digits", tmp_path / "digits")
    (copied / "test-000.json").unlink()
    ended = command("--shards", copied, "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 3
    assert "test-000.tar" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_damaged_shard_ends_the_run_with_3_and_its_records_name(
    shards: Path, tmp_path: Path, command: Command
) -> None:
    copied = shutil.copytree(shards / "digits", tmp_path / "digits")
    tar = copied / "train-e000-000.tar"
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    ended = command("--shards", copied, "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 3
    assert f"error: {tar}, record e000-r00000: bytes differ from the index" in ended.err


def test_batches_larger_than_the_data_set_are_refused(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--batch-size", 201, "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 2
    assert "batches of 201 are larger than the 200 training images" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_data_set_that_is_not_there_is_refused_with_a_list(shards: Path, command: Command) -> None:
    ended = command("--shards", shards, "--dataset", "digits", "svhn")
    assert ended.code == 3
    assert "holds no shards of svhn; there are digits, mirrored" in ended.err


@pytest.mark.parametrize(
    ("option", "value", "listed"),
    [
        ("--recipe", "fast", list(RECIPES)),
        ("--model", "resnet9", list(MODELS)),
        ("--device", "tpu", ["cuda", "mps", "cpu"]),
        ("--precision", "fp8", ["fp32", "bf16", "fp16"]),
    ],
)
def test_an_unknown_name_is_refused_with_a_list_of_those_there(
    option: str, value: str, listed: list[str], shards: Path, tmp_path: Path, command: Command
) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path / "runs", option, value)
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(f"error: {option}: ")
    assert repr(value) in ended.err
    assert all(name in ended.err for name in listed)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--epochs=0", "--batch-size=1", "--lr=0", "--lr=nan", "--resume=never", "--turbo"])
def test_a_value_outside_its_range_is_a_usage_error(option: str, shards: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", option)
    assert ended.code == 2
    assert option.split("=")[0] in ended.err


def test_a_device_that_the_machine_lacks_ends_with_4(
    shards: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = command("--shards", shards / "digits", "--device", "cuda")
    assert ended.code == 4
    assert "this machine has no cuda" in ended.err


@pytest.fixture(scope="module")
def pictures(digits: SourceData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty digits of the test split as PNG files."""
    root = tmp_path_factory.mktemp("pictures")
    paths = [root / f"{number}.png" for number in range(20)]
    for path, image in zip(paths, digits.splits["test"].images_NHWC, strict=False):
        Image.fromarray(image[..., 0]).save(path)
    return paths


def test_predict_agrees_with_the_model_on_the_same_pictures(
    finished: tuple[Ended, Path], pictures: list[Path], digits: SourceData, tmp_path: Path, command: Command
) -> None:
    run = the_run(finished[1])
    ended = command("predict", run, *pictures, "--top", 4, "--json")
    assert ended.code == 0, ended.err
    train, test = digits.splits["train"], digits.splits["test"]
    precompute.bake(
        train.images_NHWC[:200],
        train.labels_N[:200],
        test=(test.images_NHWC[:20], test.labels_N[:20]),
        encoding="uint8",
        epochs=1,
        out=tmp_path / "pixels",
    )
    data = ShardSet(tmp_path / "pixels")
    ((pixels, _),) = data.batches("test", batch_size=20)
    with torch.no_grad():
        images = torch.from_numpy(data.normalize(pixels)).permute(0, 3, 1, 2)
        probabilities = load_weights(run / "weights.safetensors").model(images).softmax(1).numpy()
    answers = list(map(json.loads, ended.out.splitlines()))
    assert [answer["image"] for answer in answers] == list(map(str, pictures))
    best = [next(iter(answer["classes"])) for answer in answers]
    assert best == [str(label) for label in probabilities.argmax(1)]
    for answer, row in zip(answers, probabilities, strict=True):
        assert list(answer["classes"].values()) == pytest.approx(np.sort(row)[::-1][:4], abs=1e-4)
        assert len(answer["classes"]) == 4
        assert sum(answer["classes"].values()) <= 1 + 4 * 5e-5  # each is rounded to four digits


def test_predict_names_classes_with_their_probabilities(
    finished: tuple[Ended, Path], pictures: list[Path], command: Command
) -> None:
    ended = command("predict", the_run(finished[1]), *pictures[:2])
    assert ended.code == 0, ended.err
    for line, path in zip(ended.out.splitlines(), pictures[:2], strict=True):
        named = line.removeprefix(f"{path}: ").split(", ")
        assert len(named) == 3
        shares = []
        for each in named:
            name, share, sign = each.split()
            assert name in "0123456789"
            assert sign == "%"
            shares.append(float(share))
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100 + 3 * 0.05  # each is rounded to one digit


def test_predict_takes_pictures_of_any_size_and_colour(
    finished: tuple[Ended, Path], pictures: list[Path], tmp_path: Path, command: Command
) -> None:
    with Image.open(pictures[0]) as image:
        image.convert("RGB").save(tmp_path / "coloured.png")
        image.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    paths = [pictures[0], tmp_path / "coloured.png", tmp_path / "large.png"]
    ended = command("predict", the_run(finished[1]), *paths, "--json", "--top", 10)
    assert ended.code == 0, ended.err
    plain, coloured, large = (json.loads(line)["classes"] for line in ended.out.splitlines())
    assert coloured == plain
    assert large.keys() == plain.keys()
    assert sum(plain.values()) == pytest.approx(1, abs=10 * 5e-5)


def test_predict_refuses_a_file_that_is_no_picture(
    finished: tuple[Ended, Path], pictures: list[Path], tmp_path: Path, command: Command
) -> None:
    broken = tmp_path / "broken.png"
    for content in (b"", b"no picture", pictures[0].read_bytes()[:60]):
        broken.write_bytes(content)
        ended = command("predict", the_run(finished[1]), pictures[0], broken)
        assert (ended.code, ended.out) == (3, "")
        assert f"error: {broken}: can't be read as an image" in ended.err
    assert command("predict", the_run(finished[1]), tmp_path / "nothing.png").code == 3


def test_predict_refuses_a_directory_without_weights(tmp_path: Path, pictures: list[Path], command: Command) -> None:
    ended = command("predict", tmp_path, pictures[0])
    assert (ended.code, ended.out) == (3, "")
    assert f"{tmp_path / 'weights.safetensors'}: no weights here" in ended.err


def test_predict_refuses_to_name_no_classes(
    finished: tuple[Ended, Path], pictures: list[Path], command: Command
) -> None:
    ended = command("predict", the_run(finished[1]), pictures[0], "--top", 0)
    assert ended.code == 2
    assert "--top: expected at least 1, found 0" in ended.err


def test_resume_goes_on_with_the_unfinished_and_keeps_the_finished(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    runs = shutil.copytree(finished[1], tmp_path / "runs")
    options = ("--shards", shards, "--dataset", "digits", "--recipe", "digits", "--out", runs, "--resume", "auto")
    ended = command(*options, *ON_CPU)
    assert ended.code == 0
    assert "digits: finished already" in ended.err
    assert ended.out.splitlines()[1].startswith("digits")


def test_a_held_out_loss_that_is_no_number_is_divergence_too(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--recipe", "digits", "--epochs", 1, "--batch-size", 200)
    ended = command(*options, "--lr", 1e30, "--out", tmp_path, *ON_CPU)
    assert ended.code == 5
    assert "a lower --lr than 1e+30 may help" in ended.err


def test_a_log_that_was_cut_off_does_not_stop_a_run_from_going_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    options = ("--shards", shards / "digits", "--recipe", "digits", "--out", tmp_path, *ON_CPU)
    with monkeypatch.context() as patch:
        patch.setattr("train.loop.autocast", interrupted_at(0))
        assert command(*options).code == 130
    with (the_run(tmp_path) / "log.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert command(*options, "--resume", "auto").code == 0
    for line in (the_run(tmp_path) / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_two_sets_of_one_name_are_not_taken_for_one(shards: Path, tmp_path: Path, command: Command) -> None:
    for copy in ("a", "b"):
        shutil.copytree(shards / "digits", tmp_path / copy)
    ended = command("--shards", tmp_path, "--dataset", "digits", "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 3
    assert "bear one name" in ended.err
