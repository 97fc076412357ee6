"""Statistics of repeated runs: their spread, and the difference between two groups of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

__all__ = ["Difference", "Spread", "binomial_error", "p_value", "quantile", "spread", "welch"]

CONFIDENCE = 0.95
TERMS = 10_000  # of the continued fraction, which needs about the root of its parameters
PRECISION = 1e-15


@dataclass(frozen=True)
class Spread:
    """What some repetitions of one measurement came to.

    Attributes:
        n: how many.
        deviation: the sample's standard deviation (n - 1); None for one repetition.
        low, high: ends of the 95 % interval of the mean, by Student's t; None for one repetition.
        least, most: among the repetitions.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    least: float
    most: float


@dataclass(frozen=True)
class Difference:
    """The difference of two means, by Welch's t-test, which lets the groups' deviations differ.

    Attributes:
        mean: the second group's mean minus the first's.
        low, high: ends of its 95 % interval.
        p: how probable a difference of this size or more is, either way, if there were none.
        freedom: degrees of freedom.
    """

    mean: float
    low: float
    high: float
    p: float
    freedom: float


def spread(values: Sequence[float]) -> Spread:
    """Sum up repetitions, at least one."""
    n, mean = len(values), fmean(values)
    if n == 1:
        return Spread(n, mean, None, None, None, mean, mean)
    std = stdev(values)
    half = quantile(n - 1) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half, min(values), max(values))


def welch(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Test whether two groups differ; None where a group is a single value, or neither group varies."""
    if min(len(first), len(second)) < 2:
        return None
    errors = [variance(values) / len(values) for values in (first, second)]
    if sum(errors) == 0:
        return None
    parts = [
        (error / sum(errors)) ** 2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True)
    ]
    freedom = 1 / sum(parts)
    mean, error = fmean(second) - fmean(first), math.sqrt(sum(errors))
    half = quantile(freedom) * error
    return Difference(mean, mean - half, mean + half, p_value(mean / error, freedom), freedom)


def binomial_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy (0 to 1) that was measured on so many images, in the same unit."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def p_value(t: float, freedom: float) -> float:
    """Return how probable a Student's t of that size or more is, either way."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t))


def quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Return the t that Student's t stays within, either way, with that probability."""
    low, high = 0.0, 1.0
    while p_value(high, freedom) > 1 - confidence:
        high *= 2
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if p_value(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Return the regularized incomplete beta function I_x(a, b); `rest` is 1 - x, exact where x is near 1."""
    if x == 0 or rest == 0:
        return float(rest == 0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast only for the other side
        return 1 - _incomplete_beta(b, a, rest, x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(scale) / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the function's continued fraction from the front, as Lentz does (DLMF 8.17.22)."""
    numerator, denominator = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            numerator, denominator = 1 + term / numerator, 1 / (1 + term * denominator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1) < PRECISION:
            break
    return value
