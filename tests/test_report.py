"""The report: a self-contained page with the values of its run, for shard sets of every kind."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401 - here, so that no fork has to
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from prebake.loader.shard_set import ShardSet
from prebake.train.evaluate import Predictions
from prebake.train.report import write_report
from prebake.train.run_record import RunRecord
from tests.helpers.commands import ON_CPU, Command, Ended, log_of, summary_of, the_run
from tests.helpers.html import Page
from tests.helpers.reports import bake_random, page_of, small_model, write_report_of
from tests.helpers.trials import trial

DRAWINGS = {"loss.png", "accuracy.png", "schedule.png", "confusion.png"}
PICTURES = {"raw.png", "augmentation.png", "mistakes.png", "gradcam.png"}


@pytest.fixture
def run(finished: tuple[Ended, Path], tmp_path: Path) -> Path:
    """A copy of the user's first run."""
    return Path(shutil.copytree(the_run(finished[1]), tmp_path / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib: its drawings take time."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_every_run_ends_with_a_report_and_pictures(finished: tuple[Ended, Path]) -> None:
    run = the_run(finished[1])
    page = page_of(run)
    assert len(page.images) > 100
    files = {path.name for path in (run / "pictures").iterdir()}
    assert files == DRAWINGS | PICTURES
    for name in files:
        with Image.open(run / "pictures" / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(2**24) or []) > 10


def test_page_is_self_contained(finished: tuple[Ended, Path]) -> None:
    html = (the_run(finished[1]) / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    assert not {key for _, attributes in page.tags for key in attributes} & {"href", "srcset", "onload", "onerror"}
    assert "//" not in re.sub('base64,[^"]*', "", html)
    assert "url(" not in html
    assert "@import" not in html


def test_page_has_the_values_of_the_run(finished: tuple[Ended, Path]) -> None:
    run = the_run(finished[1])
    summary, text = summary_of(run), page_of(run).cells()
    for score in ("test_accuracy", "test_accuracy_shift_tta"):
        assert f"{100 * summary[score]:.2f} %" in text
    assert f"{100 * log_of(run)[2]['train_accuracy']:.2f} %" in text
    assert f"{summary['parameters']:,}" in text
    settings = log_of(run)[0]["settings"]
    assert {settings["shards"], "recipe, label smoothing", f"{settings['recipe']['label_smoothing']:g}"} <= text
    assert {torch.__version__, "baking", "evaluating", "data read for training"} <= text


def test_report_command_writes_the_same_page_again(run: Path, command: Command) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    page = run / "report.html"
    shutil.rmtree(run / "pictures")
    page.unlink()
    ended = command("report", run, "--device", "cpu")
    assert (ended.code, ended.out) == (0, f"{page}\n"), ended.err
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    name = run.name
    assert set(after) == set(before)
    assert page_of(run).text.replace(name, "NAME").count("NAME") == 2
    differing = [path.name for path in after if after[path] != before[path]]
    assert differing == ["report.html"]  # the copy has another name


@pytest.mark.parametrize("name", ["report", "heatmap"])
def test_commands_ask_for_shards_that_were_moved(name: str, run: Path, tmp_path: Path, command: Command) -> None:
    begun, *others = log_of(run)
    for place, words in (
        (
            str(tmp_path / "gone"),
            f"its shards are no longer at {tmp_path / 'gone'}; name their new place with --shards",
        ),
        (None, "log.jsonl does not name its shards; name them with --shards DIR"),  # older logs do not name them
    ):
        lines = [{**begun, "shards": place}, *others]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ended = command(name, run)
        assert (ended.code, ended.out) == (3, "")
        assert f"error: {run}: {words}" in ended.err


def test_class_names_are_escaped(run: Path, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", 'a"b&c', "$x^$", "猫", "</td>", "\x07", "é" * 80]
    data = bake_random(tmp_path / "set", names)
    page = write_report_of(run, data, small_model(data))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "\x07" not in (run / "report.html").read_text()
    assert {name for name in names if name.isprintable()} <= page.cells()


@pytest.mark.parametrize(
    "count", [2, pytest.param(31, marks=pytest.mark.slow), 2500, pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_page_with_many_classes_stays_small(run: Path, tmp_path: Path, count: int) -> None:
    data = bake_random(tmp_path / "set", [f"class {label}" for label in range(count)])
    model = small_model(data)
    ended = trial(lambda: write_report_of(run, data, model))
    assert ended.status == 0, ended.said
    assert ended.grown_bytes < 400_000_000
    page = page_of(run)
    rows = sum(tag == "tr" for tag, _ in page.tags)
    assert rows < 180
    with Image.open(run / "pictures" / "confusion.png") as image:
        red, _, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int64), 2, 0)
    assert (blue - red > 100).sum() >= 20  # cells are blue
    if count > 1000:
        assert "The table shows the worst 20 and the best 5 of" in page.text
        each = -(-count // 1000)
        assert f"Each cell of the picture sums up {each} x {each} classes." in page.text


def test_set_without_a_test_split_is_reported(run: Path, tmp_path: Path) -> None:
    data = bake_random(tmp_path / "set", list("abc"), test=None)
    shutil.rmtree(run / "pictures")
    page = write_report_of(run, data, small_model(data))
    assert "nothing was evaluated" in page.text
    assert {path.name for path in (run / "pictures").iterdir()} == {*DRAWINGS - {"confusion.png"}, "augmentation.png"}


@pytest.mark.usefixtures("undrawn")
def test_validation_split_is_used_without_a_test_split(run: Path, tmp_path: Path) -> None:
    data = bake_random(tmp_path / "set", list("abc"), test=None, val_fraction=0.2)
    assert "Measured on the val split" in write_report_of(run, data, small_model(data)).text


@pytest.mark.usefixtures("undrawn")
def test_perfect_model_has_no_mistakes(run: Path, shards: Path) -> None:
    data = ShardSet(shards / "mirrored")
    labels = torch.from_numpy(np.concatenate([labels for _, labels in data.batches("test", batch_size=50)]))
    logits = nn.functional.one_hot(labels, len(data.classes)).float()
    write_report(RunRecord.read_finished(run), data, small_model(data), Predictions("test", labels, logits, None))
    page = page_of(run)
    assert "The model made no mistakes." in page.text
    assert "Most frequent confusions" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_run_of_one_epoch_without_its_shards_is_reported(run: Path, shards: Path) -> None:
    record = RunRecord.read_finished(run)
    data = ShardSet(shutil.copytree(shards / "digits", run.parent / "set"))
    for path in data.path.glob("train-*"):
        path.unlink()
    write_report(replace(record, epochs=record.epochs[:1]), data, small_model(data), None)
    assert "The training shards were removed." in page_of(run).text


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_drawings_are_left_out(shards: Path, tmp_path: Path, command: Command) -> None:
    ended = command("--shards", shards / "digits", "--epochs", 1, "--out", tmp_path, *ON_CPU)
    assert ended.code == 0, ended.err
    run = the_run(tmp_path)
    (line,) = [line for line in ended.err.splitlines() if "lacks the curves" in line]
    assert line == (
        f"{run / 'report.html'} lacks the curves, the schedule and the confusion matrix: "
        'a drawing needs the package matplotlib: pip install -e ".[report]"'
    )
    assert "Heat maps" in page_of(run).text
    assert {path.name for path in (run / "pictures").iterdir()} == PICTURES


def test_unfinished_runs_and_other_shards_are_refused(
    run: Path, shards: Path, tmp_path: Path, command: Command
) -> None:
    def refused(words: str, *arguments: object) -> None:
        ended = command("report", *arguments)
        assert (ended.code, ended.out) == (3, "")
        assert words in ended.err

    refused("was trained on the set", run, "--shards", shards / "mirrored")
    refused("no manifest.json here", run, "--shards", tmp_path)
    refused("no finished run here", tmp_path, "--shards", shards)
    log, summary = run / "log.jsonl", run / "summary.json"
    whole = summary.read_bytes()
    summary.write_text("{")
    refused("summary.json: not the summary of a run (not JSON", run, "--shards", shards)
    summary.write_text("[]")
    refused("a list, not an object", run, "--shards", shards)
    summary.write_bytes(whole)
    lines = log.read_text().splitlines()
    log.write_text(f"{lines[0]}\n")
    refused("expected one line for each epoch", run, "--shards", shards)
    log.unlink()
    refused("holds no run (no settings in log.jsonl)", run, "--shards", shards)
