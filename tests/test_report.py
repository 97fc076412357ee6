"""The report: a page that needs nothing but itself, with the run's own figures, for sets of every kind."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg  # noqa: F401 - here, so that no fork has to
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import prebake
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.train.evaluate import Predictions, final_split, predict
from prebake.train.report import write_report
from prebake.train.report.record import Record
from tests.helpers.commands import ON_CPU, Command, Ended, log_of, summary_of, the_run
from tests.helpers.html import Page
from tests.helpers.trials import trial

DRAWINGS = {"loss.png", "accuracy.png", "schedule.png", "confusion.png"}
PICTURES = {"raw.png", "augmentation.png", "mistakes.png", "heat.png"}


@pytest.fixture
def run(finished: tuple[Ended, Path], tmp_path: Path) -> Path:
    """A copy of the user's first run."""
    return Path(shutil.copytree(the_run(finished[1]), tmp_path / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib: its drawings take time."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def bake(out: Path, classes: list[str], **changes: Any) -> ShardSet:
    """Bake random pictures of those classes: 60 to train, 40 to test, 8x10, in colour."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (100, 8, 10, 3), dtype=np.uint8)
    labels = rng.integers(0, len(classes), 100)
    options: dict[str, Any] = {"test": (images[60:], labels[60:])}
    augment = Augmentation("standard", pad=1, pad_mode="reflect", flip="random", cutout=2)
    prebake.bake(
        images[:60], labels[:60], classes=classes, augment=augment, name="mine", epochs=2, out=out, **options | changes
    )
    return ShardSet(out)


def written(run: Path, data: ShardSet, model: nn.Module) -> Page:
    """Write a report of a model on a set, in the books of another run."""
    split = final_split(data)
    predictions = predict(model, data, split, torch.device("cpu"), "fp32", tta=True) if split else None
    record = Record.read(run)
    scores = {"held_out": split, **({} if split else {"held_out_loss": None, "held_out_accuracy": None})}
    write_report(replace(record, epochs=[{**epoch, **scores} for epoch in record.epochs]), data, model, predictions)
    return page_of(run)


def small(data: ShardSet) -> nn.Module:
    torch.manual_seed(1)
    channels = data.image_shape("train")[2]
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, len(data.classes)),
    )


def test_every_run_ends_with_a_page_and_its_pictures(finished: tuple[Ended, Path]) -> None:
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


def test_the_page_needs_nothing_but_itself(finished: tuple[Ended, Path]) -> None:
    html = (the_run(finished[1]) / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    assert not {key for _, attributes in page.tags for key in attributes} & {"href", "srcset", "onload", "onerror"}
    assert "//" not in re.sub('base64,[^"]*', "", html)
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_has_the_run_s_own_figures(finished: tuple[Ended, Path]) -> None:
    run = the_run(finished[1])
    summary, text = summary_of(run), page_of(run).cells()
    for score in ("test_accuracy", "test_accuracy_shift_tta"):
        assert f"{100 * summary[score]:.2f} %" in text
    assert f"{100 * log_of(run)[2]['train_accuracy']:.2f} %" in text
    assert f"{summary['parameters']:,}" in text
    settings = log_of(run)[0]["settings"]
    assert {settings["shards"], "recipe, label smoothing", f"{settings['recipe']['label_smoothing']:g}"} <= text
    assert {torch.__version__, "baking", "evaluating", "bytes read for training"} <= text


def test_the_report_can_be_written_again_and_is_the_same(run: Path, command: Command) -> None:
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
def test_where_the_shards_are_no_longer_a_run_s_commands_ask_for_the_place(
    name: str, run: Path, tmp_path: Path, command: Command
) -> None:
    begun, *others = log_of(run)
    for place, words in (
        (str(tmp_path / "gone"), f"its shards are no longer at {tmp_path / 'gone'}; --shards DIR says where they are"),
        (None, "log.jsonl does not say where its shards are; name them with --shards DIR"),  # as in older logs
    ):
        lines = [{**begun, "shards": place}, *others]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        ended = command(name, run)
        assert (ended.code, ended.out) == (3, "")
        assert f"error: {run}: {words}" in ended.err


def test_names_from_strangers_are_words_and_nothing_else(run: Path, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", 'a"b&c', "$x^$", "猫", "</td>", "\x07", "é" * 80]
    data = bake(tmp_path / "set", names)
    page = written(run, data, small(data))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "\x07" not in (run / "report.html").read_text()
    assert {name for name in names if name.isprintable()} <= page.cells()


@pytest.mark.parametrize(
    "count", [2, pytest.param(31, marks=pytest.mark.slow), 2500, pytest.param(10_000, marks=pytest.mark.slow)]
)
def test_any_number_of_classes_is_readable_and_takes_no_memory_for_their_square(
    run: Path, tmp_path: Path, count: int
) -> None:
    data = bake(tmp_path / "set", [f"class {label}" for label in range(count)])
    model = small(data)
    ended = trial(lambda: written(run, data, model))
    assert ended.status == 0, ended.said
    assert ended.grown_bytes < 400_000_000
    page = page_of(run)
    rows = sum(tag == "tr" for tag, _ in page.tags)
    assert rows < 180
    with Image.open(run / "pictures" / "confusion.png") as image:
        red, _, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int64), 2, 0)
    assert (blue - red > 100).sum() >= 20  # cells are blue
    if count > 1000:
        assert "The worst 20 and the best 5 of" in page.text
        each = -(-count // 1000)
        assert f"A cell of the picture stands for {each} x {each} classes." in page.text


def test_a_set_without_a_test_split_says_that_nothing_was_evaluated(run: Path, tmp_path: Path) -> None:
    data = bake(tmp_path / "set", list("abc"), test=None)
    shutil.rmtree(run / "pictures")
    page = written(run, data, small(data))
    assert "nothing was evaluated" in page.text
    assert {path.name for path in (run / "pictures").iterdir()} == {*DRAWINGS - {"confusion.png"}, "augmentation.png"}


@pytest.mark.usefixtures("undrawn")
def test_a_set_with_a_validation_split_alone_is_judged_by_that(run: Path, tmp_path: Path) -> None:
    data = bake(tmp_path / "set", list("abc"), test=None, val_fraction=0.2)
    assert "Of the val split" in written(run, data, small(data)).text


@pytest.mark.usefixtures("undrawn")
def test_a_perfect_model_has_no_mistakes(run: Path, shards: Path) -> None:
    data = ShardSet(shards / "mirrored")
    labels = torch.from_numpy(np.concatenate([labels for _, labels in data.batches("test", batch_size=50)]))
    logits = nn.functional.one_hot(labels, len(data.classes)).float()
    write_report(Record.read(run), data, small(data), Predictions("test", labels, logits, None))
    page = page_of(run)
    assert "There are none." in page.text
    assert "Most frequent confusions" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_one_epoch_whose_shards_were_dropped_is_reported(run: Path, shards: Path) -> None:
    record = Record.read(run)
    data = ShardSet(shutil.copytree(shards / "digits", run.parent / "set"))
    for path in data.path.glob("train-*"):
        path.unlink()
    write_report(replace(record, epochs=record.epochs[:1]), data, small(data), None)
    assert "The training shards are gone." in page_of(run).text


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_the_run_ends_well_and_says_what_is_left_out(
    shards: Path, tmp_path: Path, command: Command
) -> None:
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


def test_what_is_no_finished_run_and_shards_of_another_are_refused(
    run: Path, shards: Path, tmp_path: Path, command: Command
) -> None:
    def refused(words: str, *arguments: object) -> None:
        ended = command("report", *arguments)
        assert (ended.code, ended.out) == (3, "")
        assert words in ended.err

    refused("is not what", run, "--shards", shards / "mirrored")
    refused("no manifest.json here", run, "--shards", tmp_path)
    refused("no finished run here", tmp_path, "--shards", shards)
    log = run / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text(f"{lines[0]}\n")
    refused("expected the settings of a run and a line for each of its epochs", run, "--shards", shards)
    log.unlink()
    refused("log.jsonl: missing", run, "--shards", shards)
    (run / "summary.json").write_text("{")
    refused("summary.json: not JSON", run, "--shards", shards)
    (run / "summary.json").write_text(json.dumps([]))
    refused("expected a JSON object", run, "--shards", shards)
