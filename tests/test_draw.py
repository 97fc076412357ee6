"""Draws are functions of (seed, epoch, index): uniform, independent, and a part of the format."""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from prebake.precompute.augment import Augmentation, Draw, draw, held_out_order, order

AUGMENTATION = Augmentation("standard", pad=4, pad_mode="reflect", flip="random", cutout=8)
SHAPE = (32, 32, 3)
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 2**31)
MASK = 2**64 - 1
# The values that chi-square exceeds once in a thousand, by degrees of freedom.
CRITICAL = {1: 10.83, 3: 16.27, 8: 26.12, 17: 40.79, 24: 51.18, 80: 124.84, 224: 295.14, 624: 738.89}


def philox(seed: int, operation: int, block: int, epoch: int) -> list[int]:
    """Return the four words of one block of Philox4x64-10, written from its paper (Salmon et al., 2011).

    NumPy counts once before its first block, hence block + 1.
    """
    counter, key = [block + 1, 0, epoch, 0], [seed, operation]
    for _ in range(10):
        product0, product1 = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            product1 >> 64 ^ counter[1] ^ key[0],
            product1 & MASK,
            product0 >> 64 ^ counter[3] ^ key[1],
            product0 & MASK,
        ]
        key = [key[0] + 0x9E3779B97F4A7C15 & MASK, key[1] + 0xBB67AE8584CAA73B & MASK]
    return counter


def word(seed: int, operation: int, epoch: int, index: int) -> int:
    """Return the random word that FORMAT.md gives an index."""
    return philox(seed, operation, index // 4, epoch)[index % 4]


def one_by_one(augmentation: Augmentation, seed: int, epoch: int, index: int) -> list[int]:
    """Return y, x, flip, cut_y and cut_x of one image, in Python's integers."""
    crop, cut = word(seed, 1, epoch, index), word(seed, 3, epoch, index)
    turns = epoch if augmentation.flip == "alternate" else 0
    flip = 0
    if augmentation.flip != "none":
        flip = (((word(seed, 2, epoch - turns, index) >> 32) * 2 >> 32) + turns) % 2
    window, places_y, places_x = (
        2 * augmentation.pad + 1,
        SHAPE[0] - augmentation.cutout + 1,
        SHAPE[1] - augmentation.cutout + 1,
    )
    return [
        (crop >> 32) * window >> 32,
        (crop % 2**32) * window >> 32,
        flip,
        (cut >> 32) * places_y >> 32,
        (cut % 2**32) * places_x >> 32,
    ]


def columns(drawn: Draw) -> NDArray[np.int64]:
    """Return the draws as (N, 5)."""
    return np.stack([getattr(drawn, field.name) for field in fields(drawn)], axis=1)


def chi_square(values: NDArray[np.int64], bins: int) -> float:
    """Return the statistic of values 0 to bins - 1 against a uniform distribution."""
    counts = np.bincount(values, minlength=bins)
    assert len(counts) == bins
    expected = len(values) / bins
    return float(((counts - expected) ** 2).sum() / expected)


def many(augmentation: Augmentation = AUGMENTATION) -> Iterator[Draw]:
    """Draw 50,000 images in several epochs of two seeds."""
    for seed, epoch in ((0, 0), (0, 1), (0, 24), (5, 0), (5, 1)):
        yield draw(augmentation, seed, epoch, 0, 50_000, SHAPE)


@given(
    seed=SEEDS,
    epoch=EPOCHS,
    start=st.integers(0, 10_000) | st.integers(2**32 - 40, 2**32),
    count=st.integers(1, 40),
    flip=st.sampled_from(["random", "alternate", "none"]),
    pad=st.integers(0, 6),
    cutout=st.integers(0, 32),
)
def test_drawing_a_range_at_once_equals_drawing_each_index_apart(
    seed: int, epoch: int, start: int, count: int, flip: str, pad: int, cutout: int
) -> None:
    augmentation = replace(AUGMENTATION, flip=flip, pad=pad, cutout=cutout)
    at_once = columns(draw(augmentation, seed, epoch, start, count, SHAPE)).tolist()
    apart = [columns(draw(augmentation, seed, epoch, start + i, 1, SHAPE))[0].tolist() for i in range(count)]
    assert at_once == apart
    assert at_once[0] == one_by_one(augmentation, seed, epoch, start)
    assert at_once[-1] == one_by_one(augmentation, seed, epoch, start + count - 1)


@given(seed=SEEDS, epoch=EPOCHS)
def test_draws_lie_in_their_ranges(seed: int, epoch: int) -> None:
    drawn = draw(AUGMENTATION, seed, epoch, 0, 200, (20, 30, 1))
    for values, bound in ((drawn.y, 9), (drawn.x, 9), (drawn.flip, 2), (drawn.cut_y, 13), (drawn.cut_x, 23)):
        assert values.dtype == np.int64
        assert values.min() >= 0
        assert values.max() < bound


def test_seed_and_epoch_do_not_add_up() -> None:
    assert (
        columns(draw(AUGMENTATION, 0, 1, 0, 100, SHAPE)).tolist()
        != columns(draw(AUGMENTATION, 1, 0, 0, 100, SHAPE)).tolist()
    )
    assert order(0, 1, 100).tolist() != order(1, 0, 100).tolist()


def test_no_two_of_many_seeds_and_epochs_draw_the_same() -> None:
    drawn = {
        columns(draw(AUGMENTATION, seed, epoch, 0, 20, SHAPE)).tobytes() for seed in range(30) for epoch in range(30)
    }
    assert len(drawn) == 900


@pytest.mark.parametrize(("name", "bins"), [("y", 9), ("x", 9), ("flip", 2), ("cut_y", 25), ("cut_x", 25)])
def test_each_choice_is_uniform(name: str, bins: int) -> None:
    values = [getattr(drawn, name) for drawn in many()]
    for part in (*values, np.concatenate(values)):
        assert chi_square(part, bins) < CRITICAL[bins - 1]


def test_rows_and_columns_are_drawn_independently() -> None:
    crops = np.concatenate([drawn.y * 9 + drawn.x for drawn in many()])
    cuts = np.concatenate([drawn.cut_y * 25 + drawn.cut_x for drawn in many()])
    assert chi_square(crops, 81) < CRITICAL[80]
    assert chi_square(cuts, 625) < CRITICAL[624]


def test_neighbours_and_epochs_are_drawn_independently() -> None:
    now, then, other = (draw(AUGMENTATION, seed, epoch, 0, 50_000, SHAPE) for seed, epoch in ((0, 0), (0, 1), (1, 0)))
    for a, b in ((now.y, then.y), (now.y, other.y), (now.y[:-1], now.y[1:]), (now.y[:-4], now.y[4:])):
        assert chi_square(a * 9 + b, 81) < CRITICAL[80]
    for values in (now.flip * 2 + then.flip, now.flip * 2 + other.flip):
        assert chi_square(values, 4) < CRITICAL[3]


def test_crop_flip_and_cutout_are_drawn_independently() -> None:
    drawn = next(many())
    assert chi_square(drawn.y * 2 + drawn.flip, 18) < CRITICAL[17]
    assert chi_square(drawn.y * 25 + drawn.cut_y, 225) < CRITICAL[224]
    assert chi_square(drawn.x * 25 + drawn.cut_x, 225) < CRITICAL[224]


def test_the_statistic_does_see_what_is_not_uniform() -> None:
    drawn = next(many())
    assert chi_square(np.where(drawn.y == 0, drawn.x, drawn.y), 9) > CRITICAL[8]
    assert chi_square(drawn.cut_x % 24, 25) > CRITICAL[24]
    assert chi_square(np.where(np.arange(50_000) % 50 == 0, 0, drawn.x), 9) > CRITICAL[8]


def test_alternate_turns_every_image_in_every_epoch() -> None:
    alternate = replace(AUGMENTATION, flip="alternate")
    epochs = [draw(alternate, 3, epoch, 0, 1000, SHAPE) for epoch in range(5)]
    assert epochs[0].flip.tolist() == draw(AUGMENTATION, 3, 0, 0, 1000, SHAPE).flip.tolist()
    assert 400 < epochs[0].flip.sum() < 600
    for before, after in itertools.pairwise(epochs):
        assert (before.flip + after.flip == 1).all()
        assert (before.y != after.y).any()


def test_none_never_mirrors_and_flipping_changes_nothing_else() -> None:
    plain, random = (draw(replace(AUGMENTATION, flip=flip), 3, 2, 0, 1000, SHAPE) for flip in ("none", "random"))
    assert not plain.flip.any()
    assert random.flip.any()
    assert np.delete(columns(plain), 2, 1).tolist() == np.delete(columns(random), 2, 1).tolist()


def test_draws_of_chosen_positions_are_those_positions_draws() -> None:
    drawn = draw(AUGMENTATION, 1, 2, 0, 50, SHAPE)
    chosen = np.array([49, 3, 3, 0])
    assert columns(drawn[chosen]).tolist() == columns(drawn)[chosen].tolist()


@given(seed=SEEDS, epoch=EPOCHS, count=st.integers(1, 300))
def test_an_order_is_a_permutation_sorted_by_the_indices_words(seed: int, epoch: int, count: int) -> None:
    found = order(seed, epoch, count)
    assert sorted(found.tolist()) == list(range(count))
    if count < 60:
        assert found.tolist() == sorted(range(count), key=lambda index: word(seed, 0, epoch, index))


def test_orders_differ_by_epoch_and_by_seed() -> None:
    orders = {order(seed, epoch, 50).tobytes() for seed in range(10) for epoch in range(30)}
    assert len(orders) == 300
    assert order(0, 0, 50).tolist() != held_out_order(50).tolist()


def test_every_image_comes_anywhere_in_an_epoch_equally_often() -> None:
    places = np.concatenate([np.flatnonzero(np.isin(order(0, epoch, 810), range(90))) for epoch in range(100)])
    assert chi_square(places // 10, 81) < CRITICAL[80]


def test_holding_out_takes_words_of_its_own() -> None:
    assert held_out_order(59).tolist() == sorted(range(59), key=lambda index: word(0, 4, 0, index))


def test_a_few_draws_are_pinned_as_part_of_the_format() -> None:
    alternate = replace(AUGMENTATION, flip="alternate")
    assert columns(draw(AUGMENTATION, 0, 0, 0, 5, SHAPE)).tolist() == [
        [7, 8, 1, 11, 3],
        [6, 2, 0, 12, 11],
        [6, 0, 0, 13, 19],
        [4, 8, 1, 14, 13],
        [6, 8, 1, 2, 20],
    ]
    assert columns(draw(alternate, 7, 3, 49_998, 2, SHAPE)).tolist() == [[0, 4, 1, 13, 23], [8, 6, 0, 20, 22]]
    assert columns(draw(AUGMENTATION, 2**63 - 1, 24, 11, 2, SHAPE)).tolist() == [[4, 7, 0, 3, 7], [7, 2, 1, 20, 18]]
    assert order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert order(7, 24, 10).tolist() == [0, 9, 5, 8, 7, 2, 1, 6, 4, 3]
    assert held_out_order(10).tolist() == [5, 6, 4, 0, 3, 2, 8, 1, 9, 7]
