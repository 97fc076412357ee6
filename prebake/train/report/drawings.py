"""matplotlib drawings with a transparent background, in colours that are visible on white and on black."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prebake.train.recipes import Recipe, schedule
from prebake.train.state import EpochReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_accuracy", "draw_confusion", "draw_loss", "draw_schedule"]

GREY, BLUE, ORANGE = "#808080", "#3f83e8", "#e0762f"
MAX_LABELS = 20  # the names of more classes would overlap
MAX_NAME = 14  # characters of a class name beside the matrix


def draw_loss(recipe: Recipe, epochs: Sequence[EpochReport]) -> bytes:
    """Return a PNG of training and held-out loss by epoch."""
    figure, axes = _axes("loss", "epoch", "cross-entropy in nats")
    smoothed = f" (label smoothing {recipe.label_smoothing:g})" if recipe.label_smoothing else ""
    _plot(axes, epochs, "train_loss", BLUE, f"train{smoothed}")
    _plot(axes, epochs, "held_out_loss", ORANGE, str(epochs[-1].held_out))
    return _with_legend(figure, axes)


def draw_accuracy(epochs: Sequence[EpochReport]) -> bytes:
    """Return a PNG of training and held-out accuracy by epoch."""
    figure, axes = _axes("accuracy", "epoch", "accuracy")
    _plot(axes, epochs, "train_accuracy", BLUE, "train (augmented)")
    _plot(axes, epochs, "held_out_accuracy", ORANGE, str(epochs[-1].held_out))
    return _with_legend(figure, axes)


def draw_schedule(recipe: Recipe, steps: int) -> bytes:
    """Return a PNG of learning rate and momentum by step."""
    figure, axes = _axes("schedule", "step", "learning rate")
    rates, momenta = schedule(recipe, steps)
    axes.plot(rates, color=BLUE, label="learning rate")
    other = axes.twinx()
    _grey(other)
    other.plot(momenta, color=ORANGE, label="momentum")
    other.set_ylabel("momentum", color=GREY, size=12)
    other.set_ylim(0, 1)
    # There is room below the peak.
    other.legend(handles=[*axes.lines, *other.lines], loc="lower center", labelcolor=GREY, framealpha=0, fontsize=12)
    return _png(figure)


def draw_confusion(matrix: NDArray[np.int64], classes: Sequence[str], each: int) -> bytes:
    """Return a PNG of a confusion matrix; the opacity of a cell is the square root of its share of the row.

    Args:
        matrix: (true, predicted); at most about 1000 x 1000 cells, since drawing takes over 100 bytes for each.
        classes: names of the classes.
        each: number of classes that a row or column sums up.
    """
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = np.empty((*matrix.shape, 4))
    cells[..., :3] = np.array([0x3F, 0x83, 0xE8]) / 255
    cells[..., 3] = np.sqrt(shares)  # makes rare mistakes visible
    labelled = len(classes) <= MAX_LABELS
    figure = Figure(figsize=(7, 7))
    axes = figure.add_axes((0.2, 0.18, 0.78, 0.78) if labelled else (0.09, 0.08, 0.89, 0.89))
    _grey(axes)
    end = len(matrix) * each - 0.5
    axes.imshow(cells, extent=(-0.5, end, end, -0.5))
    summed = f" ({each} classes per cell)" if each > 1 else ""
    axes.set_xlabel(f"predicted{summed}", color=GREY, size=14)
    axes.set_ylabel(f"true{summed}", color=GREY, size=14)
    if labelled:
        names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in classes]
        # A dollar sign in a name does not start a formula.
        axes.set_xticks(range(len(classes)), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(classes)), names, parse_math=False)
        size = min(12, 150 / len(classes))
        for row, column in zip(*matrix.nonzero(), strict=True):
            strong = cells[row, column, 3] > 0.6
            count = str(matrix[row, column])
            axes.text(column, row, count, ha="center", va="center", size=size, color="white" if strong else GREY)
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the tables of the page have the whole name.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        return _png(figure)


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
    axes.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True)
    )  # epochs and steps are integers
    return figure, axes


def _grey(axes: "Axes") -> None:
    axes.tick_params(colors=GREY, labelsize=12)
    for spine in axes.spines.values():
        spine.set_color(GREY)
        spine.set_alpha(0.6)


def _plot(axes: "Axes", epochs: Sequence[EpochReport], key: str, colour: str, label: str) -> None:
    known = [epoch for epoch in epochs if getattr(epoch, key) is not None]
    if len(known) == 1:
        axes.set_xticks([known[0].epoch + 1])  # avoids fractions of an epoch
    if known:
        marker = "o" if len(known) == 1 else None
        axes.plot(
            [e.epoch + 1 for e in known], [getattr(e, key) for e in known], color=colour, label=label, marker=marker
        )


def _with_legend(figure: "Figure", axes: "Axes") -> bytes:
    axes.legend(labelcolor=GREY, framealpha=0, fontsize=12)
    return _png(figure)


def _png(figure: "Figure") -> bytes:
    png = io.BytesIO()
    figure.savefig(png, dpi=130, format="png", transparent=True)
    return png.getvalue()
