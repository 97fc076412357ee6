"""Applying: the row look-up makes the same views as padding, cropping, mirroring and cutting one image."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from prebake.errors import UsageError
from prebake.format.columns import IMAGE_DTYPES
from prebake.precompute.augment import FLIPS, PAD_MODES, Augmentation, Draw, Encoder, ViewStore, draw
from tests.helpers.views import choices_at, view

MEANS = (0.4914, 0.4822, 0.4465)
DEVIATIONS = (0.247, 0.2435, 0.2616)


@settings(max_examples=150)
@given(
    images=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    pad=st.integers(0, 5),
    pad_mode=st.sampled_from(PAD_MODES),
    flip=st.sampled_from(FLIPS),
    cutout=st.integers(0, 9),
    dtype=st.sampled_from(IMAGE_DTYPES),
    seed=st.integers(0, 2**63 - 1),
)
@example(images=3, shape=(32, 32, 3), pad=4, pad_mode="reflect", flip="random", cutout=8, dtype="float16", seed=0)
@example(images=1, shape=(1, 1, 1), pad=0, pad_mode="zero", flip="random", cutout=1, dtype="uint8", seed=0)
@example(images=2, shape=(5, 3, 2), pad=7, pad_mode="black", flip="alternate", cutout=3, dtype="float32", seed=0)
def test_variants_equal_those_made_image_by_image(
    images: int,
    shape: tuple[int, int, int],
    pad: int,
    pad_mode: str,
    flip: str,
    cutout: int,
    dtype: str,
    seed: int,
) -> None:
    assume(cutout <= min(shape[:2]))
    assume(pad_mode != "reflect" or pad < min(shape[:2]))
    augmentation = Augmentation("any", pad, pad_mode, flip, cutout)
    rng = np.random.default_rng(seed)
    images_NHWC = rng.integers(0, 256, (images, *shape), dtype=np.uint8)
    mean, std = MEANS[: shape[2]], DEVIATIONS[: shape[2]]
    store = ViewStore(images_NHWC, Encoder(mean, std, dtype), augmentation)
    index_N = rng.integers(0, images, 20)
    drawn = draw(augmentation, seed, 3, 0, 20, shape)
    out = np.full((20, *shape), 99, dtype)
    store.make(index_N, drawn, out)
    for i, index in enumerate(index_N):
        expected = view(images_NHWC[index], augmentation, choices_at(drawn, i), mean, std, dtype)
        assert expected.dtype == out.dtype
        assert out[i].tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
def test_more_images_than_one_block_of_the_store_are_all_there(dtype: str) -> None:
    images_NHWC = (np.arange(2500 * 6) % 251).astype(np.uint8).reshape(2500, 2, 3, 1)
    augmentation = Augmentation("any", 1, "zero", "random", 0)
    encoder = Encoder((0.4,), (0.25,), dtype)
    drawn = draw(augmentation, 0, 0, 0, 2500, (2, 3, 1))
    out = np.empty((2500, 2, 3, 1), dtype)
    ViewStore(images_NHWC, encoder, augmentation).make(np.arange(2500), drawn, out)
    for i in (0, 1023, 1024, 2047, 2048, 2499):
        expected = view(images_NHWC[i], augmentation, choices_at(drawn, i), (0.4,), (0.25,), dtype)
        assert out[i].tobytes() == expected.tobytes()


def test_the_four_corners_of_the_padded_image_can_be_cropped() -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(1, 3, 4, 1)
    augmentation = Augmentation("any", 2, "black", "random", 0)
    store = ViewStore(image, Encoder((0.5,), (0.25,), "uint8"), augmentation)
    zeros = np.zeros(8, np.int64)
    corners = [(y, x, flip) for y in (0, 4) for x in (0, 4) for flip in (0, 1)]
    y, x, flip = (np.array(values, np.int64) for values in zip(*corners, strict=True))
    out = np.empty((8, 3, 4, 1), np.uint8)
    store.make(zeros, Draw(y, x, flip, zeros, zeros), out)
    assert out[0, :, :, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2]]
    assert out[1, :, :, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 4, 3]]
    assert out[6, :, :, 0].tolist() == [[11, 12, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert out[7, :, :, 0].tolist() == [[10, 9, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_padding_and_cutout_are_exactly_zero_in_floats(dtype: str, pad_mode: str) -> None:
    image = np.full((1, 4, 4, 3), 255, np.uint8)
    augmentation = Augmentation("any", 3, pad_mode, "none", 2)
    store = ViewStore(image, Encoder(MEANS, DEVIATIONS, dtype), augmentation)
    out = np.empty((1, 4, 4, 3), dtype)
    at = np.array([0], np.int64)
    store.make(at, Draw(at, at, at, at + 2, at + 2), out)
    assert out[0, 2:, 2:].tobytes() == bytes(out[0, 2:, 2:].nbytes)
    assert np.array_equal(out[0, :2, :2] == 0, np.full((2, 2, 3), pad_mode == "zero"))


@given(mean=st.floats(0, 1), std=st.floats(0.001, 1), dtype=st.sampled_from(IMAGE_DTYPES))
@example(mean=0.0, std=1.0, dtype="uint8")
@example(mean=1.0, std=1.0, dtype="uint8")
def test_the_encoder_table_is_the_formula(mean: float, std: float, dtype: str) -> None:
    encoder = Encoder((mean,), (std,), dtype)
    assert encoder.tables.shape == (1, 256)
    assert encoder.tables.dtype == encoder.zero.dtype == dtype
    codes = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = encoder.encode(codes).reshape(-1)
    if dtype == "uint8":
        assert found.tolist() == list(range(256))
        assert abs(int(encoder.zero[0]) / 255 - mean) <= min(abs(code / 255 - mean) for code in range(256)) + 1e-12
    else:
        with np.errstate(over="ignore"):
            expected = [np.dtype(dtype).type((code / 255 - mean) / std) for code in range(256)]
        assert found.tolist() == [float(value) for value in expected]
        assert encoder.zero.tobytes() == bytes(encoder.zero.nbytes)


def test_each_channel_has_its_own_table() -> None:
    encoder = Encoder(MEANS, DEVIATIONS, "float32")
    image = np.full((1, 1, 1, 3), 200, np.uint8)
    expected = [np.float32((200 / 255 - mean) / std) for mean, std in zip(MEANS, DEVIATIONS, strict=True)]
    assert encoder.encode(image).reshape(-1).tolist() == expected


@pytest.mark.parametrize(
    ("pad", "pad_mode", "flip", "cutout", "option"),
    [
        (-1, "zero", "none", 0, "--pad:"),
        (0, "zero", "none", -1, "--cutout:"),
        (0, "mirror", "none", 0, "--pad-mode:"),
        (0, "zero", "always", 0, "--flip:"),
        (4, "reflect", "none", 0, "--pad:"),
        (0, "zero", "none", 5, "--cutout:"),
    ],
)
def test_parameters_outside_their_range_are_refused_by_name(
    pad: int, pad_mode: str, flip: str, cutout: int, option: str
) -> None:
    with pytest.raises(UsageError, match=option):
        Augmentation("any", pad, pad_mode, flip, cutout).check(4, 6)


def test_parameters_at_the_edge_of_their_range_are_taken() -> None:
    Augmentation("any", 3, "reflect", "none", 4).check(4, 6)
    with pytest.raises(UsageError, match="fewer than 4 pixels for images of 6x4"):
        Augmentation("any", 4, "reflect", "none", 4).check(6, 4)
