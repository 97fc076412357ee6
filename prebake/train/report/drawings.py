"""Drawings of figures, by matplotlib: on transparent ground, in colours that show on white and on black."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prebake.train.recipes import Recipe, schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_accuracy", "draw_confusion", "draw_loss", "draw_schedule"]

GREY, BLUE, ORANGE = "#808080", "#3f83e8", "#e0762f"
LABELLED = 20  # with more classes, their names would overlap
NAME = 14  # characters of a class's name beside the matrix


def draw_loss(recipe: Recipe, epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of the training and the held-out split after each epoch, as a PNG."""
    figure, axes = _axes("loss", "epoch", "cross-entropy in nats")
    smoothed = f" (label smoothing {recipe.label_smoothing:g})" if recipe.label_smoothing else ""
    _plot(axes, epochs, "train_loss", BLUE, f"train{smoothed}")
    _plot(axes, epochs, "held_out_loss", ORANGE, str(epochs[-1]["held_out"]))
    return _finished(figure, axes)


def draw_accuracy(epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the accuracy of the training and the held-out split after each epoch, as a PNG."""
    figure, axes = _axes("accuracy", "epoch", "share of images")
    _plot(axes, epochs, "train_accuracy", BLUE, "train (augmented)")
    _plot(axes, epochs, "held_out_accuracy", ORANGE, str(epochs[-1]["held_out"]))
    return _finished(figure, axes)


def draw_schedule(recipe: Recipe, steps: int) -> bytes:
    """Draw learning rate and momentum over the steps, as a PNG."""
    figure, axes = _axes("schedule", "step", "learning rate")
    rates, momenta = schedule(recipe, steps)
    axes.plot(rates, color=BLUE, label="learning rate")
    other = axes.twinx()
    _grey(other)
    other.plot(momenta, color=ORANGE, label="momentum")
    other.set_ylabel("momentum", color=GREY, size=12)
    other.set_ylim(0, 1)
    # Under the peak there is room.
    other.legend(handles=[*axes.lines, *other.lines], loc="lower center", labelcolor=GREY, framealpha=0, fontsize=12)
    return _saved(figure)


def draw_confusion(matrix: NDArray[np.int64], classes: Sequence[str], each: int) -> bytes:
    """Draw a confusion matrix, (true, said), as a PNG: the stronger a cell, the larger its share of the row.

    Args:
        matrix: at most some 1000 x 1000 cells, for each of which drawing takes a hundred bytes and more.
        classes: their names.
        each: how many classes a cell sums up, in both directions.
    """
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = np.empty((*matrix.shape, 4))
    cells[..., :3] = np.array([0x3F, 0x83, 0xE8]) / 255
    cells[..., 3] = np.sqrt(shares)  # so that rare mistakes show
    labelled = len(classes) <= LABELLED
    figure = Figure(figsize=(7, 7))
    axes = figure.add_axes((0.2, 0.18, 0.78, 0.78) if labelled else (0.09, 0.08, 0.89, 0.89))
    _grey(axes)
    end = len(matrix) * each - 0.5
    axes.imshow(cells, extent=(-0.5, end, end, -0.5))
    summed = f" ({each} classes a cell)" if each > 1 else ""
    axes.set_xlabel(f"said{summed}", color=GREY, size=14)
    axes.set_ylabel(f"true{summed}", color=GREY, size=14)
    if labelled:
        names = [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name in classes]
        # Names are words, in which a dollar begins no formula.
        axes.set_xticks(range(len(classes)), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(classes)), names, parse_math=False)
        size = min(12, 150 / len(classes))
        for row, column in zip(*matrix.nonzero(), strict=True):
            strong = cells[row, column, 3] > 0.6
            count = str(matrix[row, column])
            axes.text(column, row, count, ha="center", va="center", size=size, color="white" if strong else GREY)
    with warnings.catch_warnings():
        # A name may be in a script that the font lacks. It is drawn as boxes; the page's tables have it in full.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        return _saved(figure)


def _axes(title: str, across: str, up: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.6, 3.9))
    axes = figure.add_axes((0.14, 0.16, 0.73, 0.74))
    _grey(axes)
    axes.set_title(title, color=GREY, size=14)
    axes.set_xlabel(across, color=GREY, size=12)
    axes.set_ylabel(up, color=GREY, size=12)
    axes.grid(color=GREY, alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))  # epochs and steps are whole
    return figure, axes


def _grey(axes: "Axes") -> None:
    axes.tick_params(colors=GREY, labelsize=12)
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_alpha(0.6)


def _plot(axes: "Axes", epochs: Sequence[Mapping[str, Any]], key: str, colour: str, label: str) -> None:
    known = [epoch for epoch in epochs if epoch.get(key) is not None]
    if len(known) == 1:
        axes.set_xticks([known[0]["epoch"] + 1])  # else there are fractions of an epoch around it
    if known:
        marker = "o" if len(known) == 1 else None
        axes.plot([e["epoch"] + 1 for e in known], [e[key] for e in known], color=colour, label=label, marker=marker)


def _finished(figure: "Figure", axes: "Axes") -> bytes:
    axes.legend(labelcolor=GREY, framealpha=0, fontsize=12)
    return _saved(figure)


def _saved(figure: "Figure") -> bytes:
    png = io.BytesIO()
    figure.savefig(png, dpi=130, format="png", transparent=True)
    return png.getvalue()
