"""`prebake heatmap`: heat maps of one model, or of two side by side."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prebake.train.models.davidnet import DavidNet
from prebake.train.report.tiles import CAPTION, CELL, GAP
from prebake.train.weights import load_weights, save_weights
from tests.helpers.commands import Command, Ended, the_run


def cells(path: Path, rows: int, columns: int, top: int = CAPTION) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Cut a sheet into its pictures: (rows, columns, H, W, 3)."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == GAP + columns * (CELL + GAP)
    return np.stack(
        [
            [
                pixels[top + GAP + row * (CELL + CAPTION + GAP) :, GAP + column * (CELL + GAP) :][:CELL, :CELL]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def test_two_models_are_drawn_beside_the_same_picture(
    finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command
) -> None:
    one = the_run(finished[1])
    other = Path(shutil.copytree(one, tmp_path / "other"))
    trained = load_weights(other / "weights.safetensors")
    save_weights(other / "weights.safetensors", replace(trained, model=DavidNet(1, 10, **trained.recipe.model_options)))
    sheets = {}
    for name, first, second, place in (
        ("ab", one, other, ["--shards", shards]),
        ("ba", other, one, []),  # the shards that the run's log names
        ("aa", one, one, []),
    ):
        out = tmp_path / f"{name}.png"
        ended = command("heatmap", first, "--against", second, *place, "--images", 1, "--out", out)
        assert (ended.code, ended.out) == (0, f"{out}: 10 images\n"), ended.err
        sheets[name] = cells(out, 10, 3)
    ab, ba, aa = sheets["ab"], sheets["ba"], sheets["aa"]
    assert (ab[:, 0] == ba[:, 0]).all()
    assert (ab[:, 1] == ba[:, 2]).all()
    assert (ab[:, 2] == ba[:, 1]).all()
    assert (aa[:, 1] == aa[:, 2]).all()
    # The digits are grey and the maps are coloured. The models look at different places; the map of the untrained
    # one may be empty.
    assert (np.ptp(ab[:, 0], axis=-1) == 0).all()
    assert (np.ptp(ab[:, 1].astype(int), axis=-1).max((1, 2)) > 50).all()
    assert (ab[:, 1] != ab[:, 2]).any((1, 2, 3)).all()


def test_one_model_is_drawn(finished: tuple[Ended, Path], shards: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "one.png"
    ended = command("heatmap", the_run(finished[1]), "--shards", shards / "digits", "--out", out)
    assert ended.code == 0, ended.err
    assert cells(out, 10, 4).shape == (10, 4, CELL, CELL, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{run}", "--shards", "{shards}/mirrored"], 3, "trained on other data than"),
        (["{run}", "--shards", "{run}"], 3, "no manifest.json here"),
        (["{run}", "--shards", "{shards}", "--images", "0"], 2, "--images: expected at least 1, found 0"),
        (["{run}", "--shards", "{shards}", "--out", "{run}"], 2, "--out: expected the name of a PNG file"),
        (["{shards}", "--shards", "{shards}"], 3, "no finished run here"),
        (["{run}", "--against", "{shards}", "--shards", "{shards}"], 3, "no weights here"),
    ],
)
def test_unusable_arguments_are_refused(
    finished: tuple[Ended, Path],
    shards: Path,
    tmp_path: Path,
    command: Command,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    run = shutil.copytree(the_run(finished[1]), tmp_path / "run")
    ended = command("heatmap", *(text.format(run=run, shards=shards) for text in arguments))
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
