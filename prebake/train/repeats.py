"""Repeats: what several runs of one setting, seed after seed, say together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from prebake.errors import UsageError
from prebake.format.manifest import MAX_SEED
from prebake.train.results import SCORES, SEEDS, Result
from prebake.train.state import Settings
from prebake.train.statistics import Spread, binomial_error, spread
from prebake.train.summary import cost

__all__ = ["aggregate", "check_cost", "check_target", "describe", "describe_score", "repeated"]

SHARED_SHARDS = (
    "The runs read the same shards, and so share the noise of augmentation: "
    "the spread over seeds understates the spread over bakes."
)


def check_target(percent: float | None) -> None:
    """Raise UsageError where a target accuracy is none."""
    if percent is not None and not 1 < percent <= 100:
        raise UsageError(f"--target: expected a percentage over 1 and up to 100, found {percent:g}; 94 is 94 %")


def check_cost(usd_per_hour: float | None) -> None:
    """Raise UsageError where a price is none."""
    if usd_per_hour is not None and not 0 < usd_per_hour < float("inf"):
        raise UsageError(f"--usd-per-hour: expected a number over 0, found {usd_per_hour:g}")


def repeated(settings: Settings, runs: int) -> list[Settings]:
    """Return the settings of so many runs, seed after seed.

    Raises:
        UsageError: less than one run, or a seed out of range.
    """
    if runs < 1:
        raise UsageError(f"--runs: expected at least 1, found {runs}")
    given = {name: seed for name in SEEDS if (seed := getattr(settings, name)) is not None}
    for name, seed in given.items():
        if seed + runs - 1 > MAX_SEED:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--runs: {runs} seeds from {seed} on go beyond 2^63 - 1; take a smaller {option}")
    return [replace(settings, **{name: seed + run for name, seed in given.items()}) for run in range(runs)]


def aggregate(
    results: Sequence[Result], target: float | None = None, usd_per_hour: float | None = None
) -> dict[str, Any]:
    """Sum up the runs of one setting.

    Args:
        results: at least one.
        target: an accuracy in percent, whose time is asked for.
        usd_per_hour: price of the machine.

    Returns:
        Plain JSON values: `dataset`, `recipe`, `runs`, `seeds`, `test_samples`; for each of SCORES a `Spread` of
        fractions 0 to 1, or None where the runs lack it; and where asked for `target` and `cost`.
    """
    first = results[0].summary
    summed: dict[str, Any] = {"dataset": first["dataset"], "recipe": first["recipe"], "runs": len(results)}
    summed |= {
        f"{name}s": seeds
        for name in SEEDS
        if (seeds := [result.settings.get(name) for result in results])[0] is not None
    }
    summed["test_samples"] = first.get("test_samples")
    for score in SCORES:
        values = [value for result in results if (value := result.summary.get(score)) is not None]
        summed[score] = asdict(spread(values)) if values else None
    if target is not None:
        summed["target"] = _time_to(results, target)
    if usd_per_hour is not None:
        summed["cost"] = cost([result.summary["seconds"] for result in results], usd_per_hour)
    return summed


def _time_to(results: Sequence[Result], percent: float) -> dict[str, Any]:
    times = [seconds for result in results if (seconds := result.seconds_to(percent / 100)) is not None]
    split = results[0].held_out
    return {
        "percent": percent,
        "split": split,
        "reached": len(times),
        "seconds": asdict(spread(times)) if times else None,
    }


def describe(summed: Mapping[str, Any]) -> str:
    """Write what `aggregate` returned for people, several lines."""
    runs = summed["runs"]
    many = "s" if runs > 1 else ""
    seeds = [f"{name.replace('_', ' ')}{many} {_range(summed[f'{name}s'])}" for name in SEEDS if f"{name}s" in summed]
    lines = [f"{summed['dataset']}, recipe {summed['recipe']}, {runs} run{many}, {', '.join(seeds)}"]
    lines += describe_score(summed)
    if "target" in summed:
        lines.append(_target_line(summed["target"], runs))
    if "cost" in summed:
        lines.append(_cost_line(summed["cost"], runs))
    if runs > 1:
        lines.append(SHARED_SHARDS)
    return "\n  ".join(lines)


def describe_score(summed: Mapping[str, Any]) -> list[str]:
    """Write a line on each score of `aggregate`."""
    scores = {title: Spread(**summed[name]) for name, title in SCORES.items() if summed[name] is not None}
    lines = [f"{title}: {_spread_words(score)}" for title, score in scores.items()] or ["test accuracy: no test split"]
    images = summed["test_samples"]
    if images and summed["test_accuracy"] is not None:
        error = binomial_error(summed["test_accuracy"]["mean"], images)
        lines.append(
            f"{images:,} test images leave an accuracy a standard error of {100 * error:.2f} points (binomial), "
            "however many runs there are"
        )
    return lines


def _spread_words(score: Spread) -> str:
    if score.std is None or score.low is None or score.high is None:
        return f"{100 * score.mean:.2f} %, n = 1: no spread is known"
    return (
        f"mean {100 * score.mean:.2f} %, standard deviation {100 * score.std:.2f} points, "
        f"95 % interval of the mean {100 * score.low:.2f} to {100 * score.high:.2f} % (Student's t), "
        f"best {100 * score.most:.2f} %, worst {100 * score.least:.2f} %, n = {score.n}"
    )


def _target_line(target: Mapping[str, Any], runs: int) -> str:
    split = target["split"] or "a held-out split"
    line = f"{target['percent']:g} % on {split}: reached by {target['reached']} of {runs} runs"
    if target["seconds"] is None:
        return line
    seconds = Spread(**target["seconds"])
    line += f", after {seconds.mean:.1f} s of training (to the end of that epoch, evaluation not counted)"
    return line if seconds.n == 1 else f"{line} in the mean of these, {seconds.least:.1f} to {seconds.most:.1f} s"


def _cost_line(cost: Mapping[str, Any], runs: int) -> str:
    seconds = dict(cost["seconds"])
    baked = seconds.pop("precompute")
    bake = "bake unknown and not counted" if baked is None else f"bake {baked:.1f} s, once"
    spent = ", ".join(f"{what} {value:.1f} s" for what, value in seconds.items())
    of = "of all runs" if runs > 1 else "of the run"
    return f"cost: {cost['usd']:.4f} USD at {cost['usd_per_hour']:g} USD an hour: {bake}; {spent} {of}"


def _range(seeds: Sequence[int]) -> str:
    whole = list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if whole and len(seeds) > 1 else ", ".join(map(str, seeds))
