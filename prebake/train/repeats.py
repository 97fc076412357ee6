"""Repeated runs of one setting with different seeds, and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from prebake.errors import UsageError
from prebake.format.manifest import MAX_SEED
from prebake.train.run_record import SCORES, SEEDS, RunRecord
from prebake.train.state import Settings
from prebake.train.statistics import SampleStats, binomial_error, sample_stats
from prebake.train.summary import cost

__all__ = ["aggregate", "check_cost", "check_target", "describe", "describe_scores", "repeated"]

SHARED_SHARDS = (
    "All runs read the same shards, so they share the randomness of augmentation: "
    "other bakes would vary more than these seeds do."
)


def check_target(percent: float | None) -> None:
    """Raise UsageError if a target accuracy is not a percentage."""
    if percent is not None and not 1 < percent <= 100:
        raise UsageError(f"--target: expected a percentage over 1 and up to 100, found {percent:g}; 94 is 94 %")


def check_cost(usd_per_hour: float | None) -> None:
    """Raise UsageError if a price is not a positive number."""
    if usd_per_hour is not None and not 0 < usd_per_hour < float("inf"):
        raise UsageError(f"--usd-per-hour: expected a number over 0, found {usd_per_hour:g}")


def repeated(settings: Settings, runs: int) -> list[Settings]:
    """Return the settings of that many runs, with consecutive seeds.

    Raises:
        UsageError: fewer than one run, or a seed out of range.
    """
    if runs < 1:
        raise UsageError(f"--runs: expected at least 1, found {runs}")
    given = {name: seed for name in SEEDS if (seed := getattr(settings, name)) is not None}
    for name, seed in given.items():
        if seed + runs - 1 > MAX_SEED:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--runs: {runs} seeds from {seed} on exceed 2^63 - 1; choose a smaller {option}")
    return [replace(settings, **{name: seed + run for name, seed in given.items()}) for run in range(runs)]


def aggregate(
    runs: Sequence[RunRecord], target: float | None = None, usd_per_hour: float | None = None
) -> dict[str, Any]:
    """Summarize the runs of one setting.

    Args:
        runs: at least one finished run.
        target: an accuracy in percent; adds the time that the runs took to reach it.
        usd_per_hour: price of the machine; adds the cost of the runs.

    Returns:
        Plain JSON values: `dataset`, `recipe`, `runs`, `seeds`, `test_samples`; for each of SCORES the fields of a
        `SampleStats` (accuracies from 0 to 1), or None if the runs lack it; if asked for, `target` and `cost`.
    """
    first = runs[0].summary
    found: dict[str, Any] = {"dataset": first["dataset"], "recipe": first["recipe"], "runs": len(runs)}
    found |= {f"{name}s": seeds for name in SEEDS if (seeds := [run.settings.get(name) for run in runs])[0] is not None}
    found["test_samples"] = first.get("test_samples")
    for score in SCORES:
        values = [value for run in runs if (value := run.summary.get(score)) is not None]
        found[score] = asdict(sample_stats(values)) if values else None
    if target is not None:
        found["target"] = _time_to(runs, target)
    if usd_per_hour is not None:
        found["cost"] = cost([run.summary["seconds"] for run in runs], usd_per_hour)
    return found


def _time_to(runs: Sequence[RunRecord], percent: float) -> dict[str, Any]:
    times = [seconds for run in runs if (seconds := run.seconds_to(percent / 100)) is not None]
    return {
        "percent": percent,
        "split": runs[0].held_out,
        "reached": len(times),
        "seconds": asdict(sample_stats(times)) if times else None,
    }


def describe(found: Mapping[str, Any]) -> str:
    """Return the result of `aggregate` as text of several lines."""
    runs = found["runs"]
    plural = "s" if runs > 1 else ""
    seeds = [f"{name.replace('_', ' ')}{plural} {_range(found[f'{name}s'])}" for name in SEEDS if f"{name}s" in found]
    lines = [f"{found['dataset']}, recipe {found['recipe']}, {runs} run{plural}, {', '.join(seeds)}"]
    lines += describe_scores(found)
    if "target" in found:
        lines.append(_target_line(found["target"], runs))
    if "cost" in found:
        lines.append(_cost_line(found["cost"], runs))
    if runs > 1:
        lines.append(SHARED_SHARDS)
    return "\n  ".join(lines)


def describe_scores(found: Mapping[str, Any]) -> list[str]:
    """Return one line for each score in the result of `aggregate`."""
    scores = {title: SampleStats(**found[name]) for name, title in SCORES.items() if found[name] is not None}
    lines = [f"{title}: {_score(stats)}" for title, stats in scores.items()] or ["test accuracy: no test split"]
    images = found["test_samples"]
    if images and found["test_accuracy"] is not None:
        error = binomial_error(found["test_accuracy"]["mean"], images)
        lines.append(
            f"{images:,} test images give an accuracy a standard error of {100 * error:.2f} points (binomial), "
            "for any number of runs"
        )
    return lines


def _score(score: SampleStats) -> str:
    if score.std is None or score.low is None or score.high is None:
        return f"{100 * score.mean:.2f} %, n = 1: no standard deviation"
    return (
        f"mean {100 * score.mean:.2f} %, standard deviation {100 * score.std:.2f} points, "
        f"95 % interval of the mean {100 * score.low:.2f} to {100 * score.high:.2f} % (Student's t), "
        f"best {100 * score.max:.2f} %, worst {100 * score.min:.2f} %, n = {score.n}"
    )


def _target_line(target: Mapping[str, Any], runs: int) -> str:
    split = target["split"] or "a held-out split"
    line = f"{target['percent']:g} % on {split}: reached by {target['reached']} of {runs} runs"
    if target["seconds"] is None:
        return line
    seconds = SampleStats(**target["seconds"])
    after = "after" if seconds.n == 1 else "on average after"
    line += f", {after} {seconds.mean:.1f} s of training (to the end of the epoch, without evaluation)"
    return line if seconds.n == 1 else f"{line}, {seconds.min:.1f} to {seconds.max:.1f} s"


def _cost_line(cost: Mapping[str, Any], runs: int) -> str:
    seconds = dict(cost["seconds"])
    baked = seconds.pop("precompute")
    bake = "the time of the bake is unknown and not counted" if baked is None else f"bake {baked:.1f} s, once"
    spent = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items())
    of = "of all runs" if runs > 1 else "of the run"
    return f"cost: {cost['usd']:.4f} USD at {cost['usd_per_hour']:g} USD an hour: {bake}; {spent} {of}"


def _range(seeds: Sequence[int]) -> str:
    consecutive = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if consecutive and len(seeds) > 1 else ", ".join(map(str, seeds))
