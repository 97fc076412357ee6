"""Statistics of repeated runs: mean and its interval, and the difference of two groups. SciPy computes them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

__all__ = ["Difference", "SampleStats", "binomial_error", "sample_stats", "welch_test"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SampleStats:
    """Statistics of repeated measurements of one quantity.

    Attributes:
        n: number of measurements.
        mean: their mean.
        std: standard deviation of the sample (n - 1); None for one measurement.
        low, high: ends of the 95 % confidence interval of the mean (Student's t); None for one measurement.
        min, max: smallest and largest measurement.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None
    min: float
    max: float


@dataclass(frozen=True)
class Difference:
    """Difference of two means by Welch's t-test, which allows for unequal variances.

    Attributes:
        mean: mean of the second group minus mean of the first.
        low, high: ends of its 95 % confidence interval.
        p: two-sided p value.
        df: degrees of freedom.
    """

    mean: float
    low: float
    high: float
    p: float
    df: float


def sample_stats(values: Sequence[float]) -> SampleStats:
    """Return the statistics of at least one measurement."""
    n, mean = len(values), fmean(values)
    if n == 1:
        return SampleStats(n, mean, None, None, None, mean, mean)
    from scipy.stats import t  # here, since it takes half a second

    std = stdev(values)
    low, high = t.interval(CONFIDENCE, n - 1)
    error = std / math.sqrt(n)
    return SampleStats(n, mean, std, float(mean + low * error), float(mean + high * error), min(values), max(values))


def welch_test(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Test whether two means differ; None if a group has one value, or neither group varies."""
    if min(len(first), len(second)) < 2 or len(set(first)) == len(set(second)) == 1:
        return None
    from scipy.stats import ttest_ind

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy warns of a group that does not vary
        test = ttest_ind(second, first, equal_var=False)
        interval = test.confidence_interval(CONFIDENCE)
    mean = fmean(second) - fmean(first)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), float(test.df))


def binomial_error(accuracy: float, images: int) -> float:
    """Return the standard error of an accuracy (0 to 1) measured on that many images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)
