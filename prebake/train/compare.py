"""python -m train compare RUN RUN ...: finished runs side by side, and whether their difference means anything."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from prebake.console import log
from prebake.errors import MachineError
from prebake.optional import import_optional
from prebake.storage.atomic import write_whole
from prebake.train.repeats import aggregate, describe_score
from prebake.train.results import SCORES, SEEDS, Result
from prebake.train.statistics import Difference, welch
from prebake.train.summary import lay_out, percent

__all__ = ["Group", "compare", "describe", "differing", "draw", "grouped", "judged_by"]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds: repetitions of one setting."""

    name: str
    results: tuple[Result, ...]

    def accuracies(self, score: str) -> list[float]:
        """Return one of `SCORES`, 0 to 1, of the runs that have it."""
        found = (result.summary.get(score) for result in self.results)
        return [accuracy for accuracy in found if accuracy is not None]


def grouped(results: Sequence[Result]) -> list[Group]:
    """Put runs of one setting together, in the order in which the settings first occur."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(json.dumps(result.setting, sort_keys=True), []).append(result)
    return [Group(f"#{number}", tuple(runs)) for number, runs in enumerate(found.values(), 1)]


def differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings in which the groups differ, with each group's value; None where it has none."""
    settings = [group.results[0].setting for group in groups]
    names = sorted({name for setting in settings for name in setting})
    values = {name: [setting.get(name) for setting in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def judged_by(groups: Sequence[Group]) -> str:
    """Return which of `SCORES` settings are compared by: test images are not for choosing, where there are others."""
    validated = all(len(group.accuracies("val_accuracy")) == len(group.results) for group in groups)
    return "val_accuracy" if validated else "test_accuracy"


def compare(groups: Sequence[Group]) -> dict[str, Any]:
    """Return everything that the command knows, as plain JSON values."""
    score = judged_by(groups)
    tests = [(group, _test(groups[0], group, score)) for group in groups[1:]]
    return {
        "runs": [{"group": group.name, **result.summary} for group in groups for result in group.results],
        "differing": differing(groups),
        "groups": [{"group": group.name, **aggregate(group.results)} for group in groups],
        "differences": [
            {"group": group.name, "from": groups[0].name, "score": score, **asdict(test)}
            for group, test in tests
            if not isinstance(test, str)
        ],
    }


def _test(first: Group, second: Group, score: str) -> Difference | str:
    """Return the difference of one score, or why nothing can be said of it."""
    datasets = [str(group.results[0].summary["dataset"]) for group in (first, second)]
    if datasets[0] != datasets[1]:
        return f"not compared: {' and '.join(datasets)} are different data sets"
    found = [group.accuracies(score) for group in (first, second)]
    if not all(found):
        return f"no test: a setting has no {SCORES[score]}"
    points = f"{100 * (fmean(found[1]) - fmean(found[0])):+.2f} points of {SCORES[score]}"
    if min(map(len, found)) < 2:
        return f"{points}; no test: it needs 2 runs or more of each setting, with other seeds"
    return welch(*found) or f"{points}; no test: within each setting all runs came to the same"


def describe(groups: Sequence[Group]) -> str:
    score = judged_by(groups)
    paragraphs = [lay_out(_rows(groups))]
    if len(groups) > 1:
        rows = [["setting", *(group.name for group in groups)]]
        rows += [[name, *map(_value, values)] for name, values in differing(groups).items()]
        paragraphs.append(lay_out(rows))
    for group in groups:
        paragraphs.append("\n  ".join([f"{group.name}:", *describe_score(aggregate(group.results)), *_warnings(group)]))
    for group in groups[1:]:
        verdict = _verdict(_test(groups[0], group, score), score)
        paragraphs.append(f"{group.name} against {groups[0].name}: {verdict}")
    if len(groups) > 2:
        paragraphs.append(f"{len(groups) - 1} tests are made here: the p of each is not corrected for that.")
    return "\n\n".join(paragraphs)


def _rows(groups: Sequence[Group]) -> list[list[str]]:
    titles = ["", "data set", "recipe", "seed", "epochs", *SCORES.values(), "training", "utilization", "run"]
    rows = [titles]
    for group in groups:
        for result in group.results:
            summary = result.summary
            seeds = [str(result.settings[name]) for name in SEEDS if result.settings.get(name) is not None]
            scores = [percent(summary.get(name)) for name in SCORES]
            seconds = f"{summary['seconds']['train']:.1f} s"
            what = [group.name, summary["dataset"], summary["recipe"], "/".join(seeds), str(summary["epochs"])]
            rows.append([*what, *scores, seconds, percent(summary["utilization"]), str(result.path)])
    return rows


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def _warnings(group: Group) -> list[str]:
    seeds = [tuple(result.settings.get(name) for name in SEEDS) for result in group.results]
    if len(set(seeds)) == len(seeds):
        return []
    return ["runs of the same seed stand here: they are no independent repetitions, and all that is said is too sure"]


def _verdict(test: Difference | str, score: str) -> str:
    if isinstance(test, str):
        return test
    zero = "lies in it" if test.low <= 0 <= test.high else "lies outside"
    return (
        f"{100 * test.mean:+.2f} points of {SCORES[score]}, "
        f"95 % interval {100 * test.low:+.2f} to {100 * test.high:+.2f} (zero {zero}), "
        f"p = {test.p:.2g} (Welch's t-test, {test.freedom:.1f} degrees of freedom)"
    )


def draw(path: Path, groups: Sequence[Group]) -> None:
    """Draw accuracy over epochs and over seconds of training, and each setting's accuracies with their interval.

    Without matplotlib it says how to get it, and draws nothing.
    """
    try:
        figures = import_optional("matplotlib.figure", "report", "a drawing")
    except MachineError as error:
        log(f"{path} is not drawn: {error}")
        return
    score = judged_by(groups)
    figure = figures.Figure(figsize=(13, 4), layout="constrained")
    by_epoch, by_second, final = figure.subplots(1, 3)
    for number, group in enumerate(groups):
        color = f"C{number % 10}"
        for result in group.results:
            epochs = range(1, len(result.accuracies) + 1)
            by_epoch.plot(epochs, result.accuracies, color=color, alpha=0.7, marker="." if len(epochs) == 1 else "")
            by_second.plot(result.train_seconds[: len(epochs)], result.accuracies, color=color, alpha=0.7)
        accuracies = group.accuracies(score)
        final.plot([number] * len(accuracies), accuracies, "o", color=color, alpha=0.5)
        _draw_interval(final, number, aggregate(group.results)[score], color)
    final.set(title=f"{SCORES[score]}, mean and its 95 % interval", xlim=(-0.7, len(groups) - 0.3))
    final.set_xticks(range(len(groups)), [f"{group.name}\n{group.results[0].summary['recipe']}" for group in groups])
    splits = sorted({result.held_out or "none" for group in groups for result in group.results})
    by_epoch.set(title=f"accuracy on {' and '.join(splits)}", xlabel="epoch", ylabel="share of images")
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_second.set(title="the same over time", xlabel="seconds of training, evaluation not counted")
    for axes in (by_epoch, by_second, final):
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_whole(path, png.getvalue())
    log(f"drawn: {path}")


def _draw_interval(axes: Any, at: int, score: Mapping[str, Any] | None, color: str) -> None:
    if score is None:
        return
    half = [[score["mean"] - score["low"]], [score["high"] - score["mean"]]] if score["n"] > 1 else None
    axes.errorbar([at + 0.2], [score["mean"]], yerr=half, fmt="_", color=color, capsize=6, markersize=12)
