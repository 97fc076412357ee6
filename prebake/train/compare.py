"""prebake compare RUN RUN ...: compare finished runs, and test whether their settings differ."""

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
from prebake.storage.atomic import write_atomic
from prebake.train.repeats import aggregate, describe_scores
from prebake.train.run_record import SCORES, SEEDS, RunRecord
from prebake.train.statistics import Difference, welch_test
from prebake.train.summary import format_table, percent

__all__ = ["Group", "chosen_score", "compare", "describe", "differing", "draw", "grouped"]


@dataclass(frozen=True)
class Group:
    """Runs whose settings differ in their seeds only."""

    name: str
    runs: tuple[RunRecord, ...]

    def accuracies(self, score: str) -> list[float]:
        """Return one of `SCORES`, 0 to 1, of each run that has it."""
        found = (run.summary.get(score) for run in self.runs)
        return [accuracy for accuracy in found if accuracy is not None]


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Group runs by setting, in the order of their first runs."""
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        found.setdefault(json.dumps(run.settings_but_seeds, sort_keys=True), []).append(run)
    return [Group(f"#{number}", tuple(runs)) for number, runs in enumerate(found.values(), 1)]


def differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the settings in which the groups differ, with each group's value; None if it has none."""
    settings = [group.runs[0].settings_but_seeds for group in groups]
    names = sorted({name for setting in settings for name in setting})
    values = {name: [setting.get(name) for setting in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def chosen_score(groups: Sequence[Group]) -> str:
    """Return the score to compare by: the validation accuracy if all runs have one, else the test accuracy."""
    validated = all(len(group.accuracies("val_accuracy")) == len(group.runs) for group in groups)
    return "val_accuracy" if validated else "test_accuracy"


def compare(groups: Sequence[Group]) -> dict[str, Any]:
    """Return runs, differing settings, statistics of each group and tests, as plain JSON values."""
    score = chosen_score(groups)
    tests = [(group, _test(groups[0], group, score)) for group in groups[1:]]
    return {
        "runs": [{"group": group.name, **run.summary} for group in groups for run in group.runs],
        "differing": differing(groups),
        "groups": [{"group": group.name, **aggregate(group.runs)} for group in groups],
        "differences": [
            {"group": group.name, "from": groups[0].name, "score": score, **asdict(test)}
            for group, test in tests
            if not isinstance(test, str)
        ],
    }


def _test(first: Group, second: Group, score: str) -> Difference | str:
    """Return the difference of one score, or the reason why there is no test."""
    datasets = [str(group.runs[0].summary["dataset"]) for group in (first, second)]
    if datasets[0] != datasets[1]:
        return f"not compared: {' and '.join(datasets)} are different data sets"
    found = [group.accuracies(score) for group in (first, second)]
    if not all(found):
        return f"no test: a setting has no {SCORES[score]}"
    points = f"{100 * (fmean(found[1]) - fmean(found[0])):+.2f} points of {SCORES[score]}"
    if min(map(len, found)) < 2:
        return f"{points}; no test: it needs at least 2 runs of each setting, with different seeds"
    return welch_test(*found) or f"{points}; no test: all runs of a setting have the same {SCORES[score]}"


def describe(groups: Sequence[Group]) -> str:
    """Return tables, statistics and tests as text."""
    score = chosen_score(groups)
    paragraphs = [format_table(_rows(groups))]
    if len(groups) > 1:
        rows = [["setting", *(group.name for group in groups)]]
        rows += [[name, *map(_value, values)] for name, values in differing(groups).items()]
        paragraphs.append(format_table(rows))
    for group in groups:
        lines = [f"{group.name}:", *describe_scores(aggregate(group.runs)), *_warnings(group)]
        paragraphs.append("\n  ".join(lines))
    for group in groups[1:]:
        result = _result(_test(groups[0], group, score), score)
        paragraphs.append(f"{group.name} against {groups[0].name}: {result}")
    if len(groups) > 2:
        paragraphs.append(f"These are {len(groups) - 1} tests; their p values are not corrected for that.")
    return "\n\n".join(paragraphs)


def _rows(groups: Sequence[Group]) -> list[list[str]]:
    titles = ["", "data set", "recipe", "seed", "epochs", *SCORES.values(), "training", "utilization", "run"]
    rows = [titles]
    for group in groups:
        for run in group.runs:
            summary = run.summary
            seeds = [str(run.settings[name]) for name in SEEDS if run.settings.get(name) is not None]
            scores = [percent(summary.get(name)) for name in SCORES]
            seconds = f"{summary['seconds']['train']:.1f} s"
            about = [group.name, summary["dataset"], summary["recipe"], "/".join(seeds), str(summary["epochs"])]
            rows.append([*about, *scores, seconds, percent(summary["utilization"]), str(run.path)])
    return rows


def _value(value: object) -> str:
    return "-" if value is None else str(value)


def _warnings(group: Group) -> list[str]:
    seeds = [tuple(run.settings.get(name) for name in SEEDS) for run in group.runs]
    if len(set(seeds)) == len(seeds):
        return []
    return ["warning: runs with the same seed are not independent; the intervals and tests are too narrow"]


def _result(test: Difference | str, score: str) -> str:
    if isinstance(test, str):
        return test
    zero = "contains" if test.low <= 0 <= test.high else "excludes"
    return (
        f"{100 * test.mean:+.2f} points of {SCORES[score]}, "
        f"95 % interval {100 * test.low:+.2f} to {100 * test.high:+.2f} ({zero} zero), "
        f"p = {test.p:.2g} (Welch's t-test, {test.df:.1f} degrees of freedom)"
    )


def draw(path: Path, groups: Sequence[Group]) -> None:
    """Draw accuracy by epoch and by training time, and each setting's final accuracies with their interval.

    Without matplotlib, draw nothing and log the command that installs it.
    """
    try:
        figures = import_optional("matplotlib.figure", "report", "a drawing")
    except MachineError as error:
        log(f"{path} is not drawn: {error}")
        return
    score = chosen_score(groups)
    figure = figures.Figure(figsize=(13, 4), layout="constrained")
    by_epoch, by_second, final = figure.subplots(1, 3)
    for number, group in enumerate(groups):
        color = f"C{number % 10}"
        for run in group.runs:
            accuracies = run.held_out_accuracy
            marker = "." if len(accuracies) == 1 else ""
            by_epoch.plot(range(1, len(accuracies) + 1), accuracies, color=color, alpha=0.7, marker=marker)
            by_second.plot(run.elapsed_seconds[: len(accuracies)], accuracies, color=color, alpha=0.7)
        scores = group.accuracies(score)
        final.plot([number] * len(scores), scores, "o", color=color, alpha=0.5)
        _draw_interval(final, number, aggregate(group.runs)[score], color)
    final.set(title=f"{SCORES[score]}, mean with 95 % interval", xlim=(-0.7, len(groups) - 0.3))
    final.set_xticks(range(len(groups)), [f"{group.name}\n{group.runs[0].summary['recipe']}" for group in groups])
    splits = sorted({run.held_out or "none" for group in groups for run in group.runs})
    by_epoch.set(title=f"accuracy on {' and '.join(splits)}", xlabel="epoch", ylabel="accuracy")
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_second.set(title="accuracy by training time", xlabel="seconds of training, without evaluation")
    for axes in (by_epoch, by_second, final):
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_atomic(path, png.getvalue())
    log(f"drawn: {path}")


def _draw_interval(axes: Any, at: int, score: Mapping[str, Any] | None, color: str) -> None:
    if score is None:
        return
    half = [[score["mean"] - score["low"]], [score["high"] - score["mean"]]] if score["n"] > 1 else None
    axes.errorbar([at + 0.2], [score["mean"]], yerr=half, fmt="_", color=color, capsize=6, markersize=12)
