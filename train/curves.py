"""Pictures of a run."""

import io
from collections.abc import Sequence
from pathlib import Path

from shards.command import say
from shards.writer import write_whole
from train.recipes import Recipe, schedule
from train.state import EpochReport

__all__ = ["draw_curves"]


def draw_curves(path: Path, name: str, recipe: Recipe, reports: Sequence[EpochReport], steps: int) -> None:
    """Draw loss and accuracy of the training and the held-out split, and lr and momentum over the steps.

    Without matplotlib it says how to get it, and draws nothing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say(f"{path.name} is not drawn; it needs matplotlib: pip install -e '.[report]'")
        return
    figure = Figure(figsize=(12, 4), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [report.epoch + 1 for report in reports]
    smoothed = f", with label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else ""
    loss.plot(epochs, [report.train_loss for report in reports], label=f"train{smoothed}")
    loss.set(title=f"{name}: loss", xlabel="epoch", ylabel="cross-entropy in nats")
    accuracy.plot(epochs, [report.train_accuracy for report in reports], label="train")
    scored = [report for report in reports if report.held_out_loss is not None and report.held_out_accuracy is not None]
    if scored:
        loss.plot(epochs, [report.held_out_loss for report in scored], label=scored[0].held_out)
        accuracy.plot(epochs, [report.held_out_accuracy for report in scored], label=scored[0].held_out)
    accuracy.set(title=f"{name}: accuracy", xlabel="epoch", ylabel="share of images")
    rates, momenta = schedule(recipe, steps)
    rate.plot(rates, label="learning rate")
    momentum = rate.twinx()
    momentum.plot(momenta, color="tab:orange", label="momentum")
    momentum.set(ylabel="momentum", ylim=(0, 1))
    rate.set(title=f"{recipe.name}: schedule", xlabel="step", ylabel="learning rate")
    for axes in (loss, accuracy):
        axes.legend()
        axes.grid(alpha=0.3)
    rate.legend(handles=[*rate.lines, *momentum.lines])
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_whole(path, png.getvalue())
