"""The order of records: every one once, a function of its arguments, and another one for another seed or epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.plan import MOST_SEED
from train.order import record_order

SEEDS = st.integers(0, MOST_SEED)
EPOCHS = st.integers(0, 10_000)
SHARDS = st.lists(st.integers(1, 70), min_size=1, max_size=30)


def listed(order_seed: int, epoch: int, shards: list[int]) -> list[tuple[int, int]]:
    """Return (shard, record) in the order of reading."""
    return [(shard, int(record)) for shard, records in record_order(order_seed, epoch, shards) for record in records]


@given(SEEDS, EPOCHS, SHARDS)
def test_every_record_of_every_shard_comes_exactly_once_and_shards_stay_together(
    order_seed: int, epoch: int, shards: list[int]
) -> None:
    ordered = record_order(order_seed, epoch, shards)
    assert sorted(shard for shard, _ in ordered) == list(range(len(shards)))
    for shard, records in ordered:
        assert sorted(records.tolist()) == list(range(shards[shard]))


@given(SEEDS, EPOCHS, SHARDS)
def test_the_order_is_a_function_of_its_arguments_and_of_nothing_before(
    order_seed: int, epoch: int, shards: list[int]
) -> None:
    first = listed(order_seed, epoch, shards)
    np.random.default_rng().random(3)
    listed(order_seed, epoch + 1, shards)
    assert listed(order_seed, epoch, shards) == first


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    # Not a function of their sum either.
    found = {tuple(listed(seed, epoch, [200, 190])) for seed in range(8) for epoch in range(8)}
    assert len(found) == 64
    assert tuple(listed(0, 0, [200, 190])) != tuple(sorted(listed(0, 0, [200, 190])))


@pytest.mark.parametrize("shards", [[1] * 5, [5]])
def test_every_shard_and_every_record_is_as_likely_in_every_place(shards: list[int]) -> None:
    places = np.zeros((5, 5), np.int64)
    for seed in range(2000):
        turns = [shard + record for shard, record in listed(seed, seed % 7, shards)]
        places[range(5), turns] += 1
    # 400 are expected, with a deviation of 18.
    assert abs(places - 400).max() < 90


def test_the_order_is_pinned_since_runs_are_to_be_repeated() -> None:
    assert listed(5, 2, [3, 4]) == [(1, 0), (1, 2), (1, 3), (1, 1), (0, 2), (0, 1), (0, 0)]
