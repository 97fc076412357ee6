"""`python -m train`: what it refuses, and with which exit code."""

import shutil
from pathlib import Path

import pytest
import torch

from prebake.train.models import MODELS
from prebake.train.recipes import RECIPES
from tests.helpers.commands import ON_CPU, Command, in_a_process, log_of, the_run


def test_more_epochs_than_baked_are_refused_without_replay(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--out", tmp_path / "runs", "--epochs", 3, *ON_CPU)
    ended = command(*options)
    assert ended.code == 3
    assert "3 epochs asked for, the shards hold 2. Bake more: " in ended.err
    assert "--dataset digits --epochs 3 --augment standard " in ended.err
    assert not (tmp_path / "runs").exists()
    ended = command(*options, "--replay")
    assert ended.code == 0, ended.err
    assert [line["epoch"] for line in log_of(the_run(tmp_path / "runs"))[1:-1]] == [0, 1, 2]


def test_a_run_that_diverges_ends_with_5(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path, "--lr", 1e12, *ON_CPU)
    assert ended.code == 5
    assert "a lower --lr than 1000000000000.0 may help" in ended.err
    assert not (the_run(tmp_path) / "summary.json").exists()


def test_a_seed_beyond_64_bits_is_a_usage_error(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--out", tmp_path, "--seed", 2**64, *ON_CPU)
    assert ended.code == 2
    assert "--seed" in ended.err


def test_shards_that_are_not_there_are_not_usable_data(tmp_path: Path, command: Command) -> None:
    ended = command("--shards", tmp_path / "nothing")
    assert (ended.code, ended.out) == (3, "")
    assert f"no directory named {tmp_path / 'nothing'}. Bake first: prebake precompute" in ended.err


def test_the_default_of_shards_is_that_of_precompute(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("--epochs", 1)
    assert ended.code == 3
    assert "--shards: no directory named shards. Bake first: prebake precompute" in ended.err


def test_an_empty_directory_is_no_usable_data(tmp_path: Path, command: Command) -> None:
    ended = command("--shards", tmp_path)
    assert (ended.code, ended.out) == (3, "")
    assert f"{tmp_path} holds no shard set. Bake first: prebake precompute" in ended.err


def test_an_error_is_one_line_on_stderr_and_an_exit_code(tmp_path: Path) -> None:
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
    assert f"Rebuild it: prebake repair {copied} " in ended.err
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


def test_a_damaged_shard_ends_the_run_and_names_the_record(shards: Path, tmp_path: Path, command: Command) -> None:
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
        ("--recipe", "faster", list(RECIPES)),
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


@pytest.mark.parametrize(
    "option",
    ["--epochs=0", "--batch-size=1", "--set=head_scale=0", "--set=celu_alpha=-1", "--lr=0", "--turbo"],
)
def test_a_value_outside_its_range_is_a_usage_error(option: str, shards: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", option)
    assert ended.code == 2
    assert option.split("=")[0] in ended.err


def test_a_hyperparameter_unknown_to_the_model_is_refused(shards: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--model", "resnet20", "--set", "celu_alpha=0.1")
    assert ended.code == 2
    assert "--set: no hyperparameter 'celu_alpha'" in ended.err
    ended = command("--shards", shards / "digits", "--set", "whiten=true")
    assert ended.code == 2
    assert "davidnet has celu_alpha, pool_first, head_scale" in ended.err


def test_a_device_that_the_machine_lacks_ends_with_4(
    shards: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = command("--shards", shards / "digits", "--device", "cuda")
    assert ended.code == 4
    assert "this machine has no cuda" in ended.err


def test_a_held_out_loss_that_is_no_number_is_divergence_too(shards: Path, tmp_path: Path, command: Command) -> None:
    options = ("--shards", shards / "digits", "--recipe", "digits", "--epochs", 1, "--batch-size", 200)
    ended = command(*options, "--lr", 1e30, "--out", tmp_path, *ON_CPU)
    assert ended.code == 5
    assert "a lower --lr than 1e+30 may help" in ended.err


def test_two_sets_of_one_name_are_not_taken_for_one(shards: Path, tmp_path: Path, command: Command) -> None:
    for copy in ("a", "b"):
        shutil.copytree(shards / "digits", tmp_path / copy)
    ended = command("--shards", tmp_path, "--dataset", "digits", "--out", tmp_path / "runs", *ON_CPU)
    assert ended.code == 3
    assert "have the same name" in ended.err
