"""Statistics of repeated runs, held against printed tables and against NumPy."""

import math
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebake.train.statistics import binomial_error, sample_stats, welch_test

ACCURACIES = st.lists(st.integers(0, 10_000).map(lambda correct: correct / 10_000), min_size=2, max_size=12)


def test_sample_stats_equal_those_worked_out_by_hand() -> None:
    # The sum is 20, the squares around 5 sum to 6: the variance is 2. Student's t of 3 degrees is 3.1824.
    found = sample_stats([4.0, 7.0, 5.0, 4.0])
    assert (found.n, found.mean, found.min, found.max) == (4, 5.0, 4.0, 7.0)
    assert found.std == pytest.approx(math.sqrt(2))
    half = 3.1824 * math.sqrt(0.5)
    assert (found.low, found.high) == pytest.approx((5 - half, 5 + half), abs=1e-4)


def test_one_measurement_has_no_std_and_no_interval() -> None:
    found = sample_stats([0.9])
    assert (found.n, found.mean, found.min, found.max) == (1, 0.9, 0.9, 0.9)
    assert (found.std, found.low, found.high) == (None, None, None)


def test_equal_measurements_have_an_interval_of_length_zero() -> None:
    found = sample_stats([0.5, 0.5, 0.5])
    assert (found.std, found.low, found.high) == (0, 0.5, 0.5)


def test_interval_holds_the_mean_in_95_of_100_samples() -> None:
    rng = NormalDist(7, 2)
    samples = [sample_stats(rng.samples(4, seed=seed)) for seed in range(500)]
    held = sum(found.low is not None and found.high is not None and found.low < 7 < found.high for found in samples)
    assert held / 500 == pytest.approx(0.95, abs=0.03)


def test_welch_test_equals_one_worked_out_by_hand() -> None:
    # Means 2 and 5, variances 1 and 16/3, n = 3 and 4.
    found = welch_test([1.0, 2.0, 3.0], [3.0, 3.0, 7.0, 7.0])
    assert found is not None
    error = math.sqrt(1 / 3 + 16 / 3 / 4)
    df = error**4 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 3)
    assert (found.mean, found.df) == pytest.approx((3.0, df))
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    assert 2.0 < (found.high - found.mean) / error < 3.1824  # between the normal quantile and that of 3 degrees
    assert (found.p < 0.05) == (found.low > 0)


@settings(max_examples=30)
@given(ACCURACIES, ACCURACIES)
def test_interval_excludes_zero_exactly_if_p_is_below_5_percent(first: list[float], second: list[float]) -> None:
    found, reverse = welch_test(first, second), welch_test(second, first)
    if len(set(first)) == len(set(second)) == 1:
        assert found is reverse is None
        return
    assert found is not None
    assert reverse is not None
    assert abs(found.p - 0.05) < 1e-9 or (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert (reverse.p, reverse.df) == pytest.approx((found.p, found.df))


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0, 3.0]), ([2.0, 3.0], [1.0]), ([1.0, 1.0], [2.0, 2.0, 2.0])])
def test_no_welch_test_without_repetitions_or_variance(first: list[float], second: list[float]) -> None:
    assert welch_test(first, second) is None


def test_binomial_error_is_the_standard_error_of_a_share() -> None:
    assert binomial_error(0.9, 100) == pytest.approx(0.03)
    assert binomial_error(1.0, 100) == 0
