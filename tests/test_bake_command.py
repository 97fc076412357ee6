"""Messages name the command that bakes a set again, or that bakes more of it."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from prebake.cli.main import main
from prebake.errors import DataError, PrebakeError
from prebake.format.document import serialize
from prebake.format.manifest import MANIFEST
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.train.jobs import TrainOptions, jobs
from tests.golden.make import HERE

VERSION_1 = json.loads((HERE / "version1.json").read_bytes())


def place(directory: Path, **changes: object) -> Path:
    """Write a manifest of version 1, with some fields changed, into a new directory."""
    content = {key: value for key, value in {**VERSION_1, **changes}.items() if key != "checksum"}
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes(serialize(content))
    return directory


def follow(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command of a message to the letter."""
    found = re.search(rf"{advice}: (prebake .*?) \((?:with|for)", str(error))
    assert found is not None, error
    monkeypatch.setattr(sys, "argv", shlex.split(found[1]))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def test_the_message_names_the_whole_command(tmp_path: Path) -> None:
    directory = place(tmp_path / "golden")
    shutil.copy(HERE / "version1.json", directory / MANIFEST)
    with pytest.raises(DataError) as caught:
        ShardSet(directory)
    assert caught.value.exit_code == 3
    assert (
        "expected format prebake version 2, found prebake version 1. Bake it again: "
        "prebake precompute --dataset golden --epochs 2 --augment standard --pad 1 --pad-mode reflect --flip random "
        f"--cutout 2 --dtype uint8 --seed 7 --out {tmp_path} --overwrite (for a data set of your own"
    ) in str(caught.value)


def test_the_command_of_the_message_bakes_the_set_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = place(
        tmp_path / "my shards" / "digits",
        source={**VERSION_1["source"], "name": "digits"},
        augmentation={**VERSION_1["augmentation"], "pad_mode": "zero", "resize": "6:1,8"},
        splits={"train": [[1350, 6, 6, 1], [1350, 8, 8, 1]], "val": [[150, 8, 8, 1]], "test": [[297, 8, 8, 1]]},
    )
    with pytest.raises(DataError) as caught:
        ShardSet(directory)
    follow(caught.value, "Bake it again", monkeypatch)
    data = ShardSet(directory)
    assert (data.missing(), data.plan.dtype, data.plan.seed, data.samples("val")) == ([], "uint8", 7, 150)
    assert [data.image_shape("train", epoch) for epoch in range(2)] == [(6, 6, 1), (8, 8, 1)]
    assert data.plan.augmentation["pad_mode"] == "zero"


@pytest.mark.parametrize("changes", [{"source": 5}, {"splits": {"train": 5}}, {"splits": {}}, {"augmentation": {}}])
def test_a_strange_manifest_still_gets_advice(changes: dict[str, object], tmp_path: Path) -> None:
    directory = place(tmp_path / "set", **changes)
    with pytest.raises(DataError, match=r"found prebake version 1\. Bake it again with --overwrite$"):
        ShardSet(directory)


@pytest.mark.parametrize(
    "ask",
    [lambda data: jobs(TrainOptions(shards=data.path, epochs=3)), lambda data: Loader(data, batch_size=8, epochs=3)],
)
def test_the_command_of_the_message_bakes_more(
    ask: Callable[[ShardSet], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--epochs 2 --dtype uint8 --seed 3 --val-fraction 0.1 --pad 2 --flip alternate --resize 6:1,8"
    root = tmp_path / "my shards"
    monkeypatch.setattr(
        sys, "argv", ["prebake", "precompute", "--dataset", "digits", *options.split(), "--out", str(root)]
    )
    with pytest.raises(SystemExit):
        main()
    data = ShardSet(root / "digits")
    with pytest.raises(PrebakeError) as caught:
        ask(data)
    follow(caught.value, "Bake more", monkeypatch)
    grown = ShardSet(data.path)
    assert (grown.epochs, grown.missing(), grown.plan.identity) == (3, [], data.plan.identity)


def test_a_renamed_set_gets_its_name_back_before_more_is_baked(baked: ShardSet, tmp_path: Path) -> None:
    advice = baked.plan.more_epochs(tmp_path / "other", 5)
    assert f"Bake more: rename {tmp_path}/other to {tmp_path}/digits, and run prebake precompute" in advice
    assert f"--out {tmp_path} (" in advice


def test_control_characters_of_a_manifest_reach_no_message(baked: ShardSet) -> None:
    plan = replace(baked.plan, augmentation={"name": "\x1b[2J"})
    assert plan.more_epochs(baked.path, 5) == "Bake more: run the command that baked it with --epochs 5"
