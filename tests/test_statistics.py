"""The statistics: what printed tables and scipy say, and what holds whatever the numbers."""

import math
from statistics import NormalDist

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from prebake.train.statistics import binomial_error, p_value, quantile, spread, welch

ACCURACIES = st.lists(st.integers(0, 10_000).map(lambda right: right / 10_000), min_size=2, max_size=12)


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (120, 1.9799)],
)
def test_the_quantiles_are_those_of_a_printed_table(freedom: int, t: float) -> None:
    assert quantile(freedom) == pytest.approx(t, abs=5e-5)


@pytest.mark.parametrize("freedom", [0.5, 1, 1.3, 2, 3.7, 10, 31.4, 1000, 1e6])
def test_p_and_quantile_are_those_of_scipy(freedom: float) -> None:
    for t in (0.0, 1e-3, 0.1, 0.7, 1.0, 2.0, 4.5, 12.0, 300.0):
        wanted = 2 * scipy.stats.t.sf(t, freedom)
        assert p_value(t, freedom) == p_value(-t, freedom) == pytest.approx(wanted, rel=1e-8)
    for confidence in (0.5, 0.95, 0.999):
        wanted = scipy.stats.t.ppf((1 + confidence) / 2, freedom)
        assert quantile(freedom, confidence) == pytest.approx(wanted, rel=1e-8)


def test_with_many_degrees_of_freedom_students_t_is_normal() -> None:
    assert quantile(1e7) == pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-6)


def test_a_spread_is_the_one_worked_out_by_hand() -> None:
    # Sum 20, squares around 5 sum to 6: variance 2; t of 3 degrees is 3.1824.
    found = spread([4.0, 7.0, 5.0, 4.0])
    assert (found.n, found.mean, found.least, found.most) == (4, 5.0, 4.0, 7.0)
    assert found.std == pytest.approx(math.sqrt(2))
    assert (found.low, found.high) == pytest.approx(
        (5 - 3.1824 * math.sqrt(0.5), 5 + 3.1824 * math.sqrt(0.5)), abs=1e-4
    )


def test_one_repetition_has_no_deviation_and_no_interval() -> None:
    found = spread([0.9])
    assert (found.n, found.mean, found.least, found.most) == (1, 0.9, 0.9, 0.9)
    assert (found.std, found.low, found.high) == (None, None, None)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's own, where a group does not vary
@settings(max_examples=30)
@given(ACCURACIES, ACCURACIES)
def test_a_difference_is_the_one_of_scipys_welch_test(first: list[float], second: list[float]) -> None:
    found = welch(first, second)
    if len(set(first)) == len(set(second)) == 1:
        assert found is None
        return
    assert found is not None
    wanted = scipy.stats.ttest_ind(second, first, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-6, abs=1e-12)
    assert found.freedom == pytest.approx(wanted.df, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


def test_groups_that_change_places_change_the_sign_alone() -> None:
    there, back = welch([1.0, 2.0, 4.0], [3.0, 5.0]), welch([3.0, 5.0], [1.0, 2.0, 4.0])
    assert there is not None
    assert back is not None
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert (back.p, back.freedom) == pytest.approx((there.p, there.freedom))


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0, 3.0]), ([2.0, 3.0], [1.0]), ([1.0, 1.0], [2.0, 2.0, 2.0])])
def test_there_is_no_test_without_repetitions_or_without_any_variation(first: list[float], second: list[float]) -> None:
    assert welch(first, second) is None


def test_the_interval_holds_the_mean_in_95_of_100_samples() -> None:
    rng = NormalDist(7, 2)
    samples = [spread(rng.samples(4, seed=seed)) for seed in range(500)]
    held = sum(found.low is not None and found.high is not None and found.low < 7 < found.high for found in samples)
    assert held / 500 == pytest.approx(0.95, abs=0.03)


def test_the_binomial_error_is_that_of_a_share() -> None:
    assert binomial_error(0.9, 100) == pytest.approx(0.03)
    assert binomial_error(1.0, 100) == 0
