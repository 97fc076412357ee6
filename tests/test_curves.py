"""The curves: a picture that opens, and a word on how to get one without matplotlib."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.curves import draw_curves
from train.loop import Trainer


def test_the_curves_are_a_readable_png_with_something_drawn(trained: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves(path, "digits", trained.settings.recipe, trained.state.reports, trained.steps)
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] >= 300
    assert pixels.shape[1] >= 2 * pixels.shape[0]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_other_results_give_another_picture(trained: Trainer, tmp_path: Path) -> None:
    reports = trained.state.reports
    worse = [replace(report, train_loss=2 * report.train_loss) for report in reports]
    for name, drawn in (("a", reports), ("b", worse)):
        draw_curves(tmp_path / name, "digits", trained.settings.recipe, drawn, trained.steps)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


def test_a_run_without_held_out_data_is_drawn_too(trained: Trainer, tmp_path: Path) -> None:
    nan = float("nan")
    reports = [
        replace(report, held_out="none", held_out_loss=nan, held_out_accuracy=nan) for report in trained.state.reports
    ]
    draw_curves(tmp_path / "curves.png", "digits", trained.settings.recipe, reports, trained.steps)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"


def test_without_matplotlib_nothing_is_drawn_and_the_way_to_it_is_said(
    trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "curves.png"
    draw_curves(path, "digits", trained.settings.recipe, trained.state.reports, trained.steps)
    said = capsys.readouterr()
    assert not path.exists()
    assert "curves.png is not drawn" in said.err
    assert "pip install -e '.[report]'" in said.err
    assert said.out == ""
