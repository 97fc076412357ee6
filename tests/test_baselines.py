"""The baselines make the augmentation that they are measured for."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.baselines import BETWEEN, ResidentAugmenter, online_transform, torchvision_batches
from prebake.precompute.augment import AUGMENTATIONS

CPU = torch.device("cpu")
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Forty pictures of noise, of which no two windows look alike."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40)


def assert_standard(image_CHW: Tensor, source_HWC: NDArray[np.uint8]) -> tuple[int, int, bool, int, int]:
    """Find the one crop, mirroring and cut that make this view of the source; return which they are."""
    pixels = (source_HWC / 255 - np.array(MEAN)) / np.array(DEVIATION)
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    found = image_CHW.permute(1, 2, 0).double().numpy()
    zero = (found == 0).all(-1)
    rows, columns = np.nonzero(zero.any(1))[0], np.nonzero(zero.any(0))[0]
    assert zero.sum() == 64
    assert np.ptp(rows) == np.ptp(columns) == 7
    for y, x, mirrored in itertools.product(range(9), range(9), (False, True)):
        window = padded[y : y + 32, x : x + 32]
        window = window[:, ::-1] if mirrored else window
        if np.abs(window - found)[~zero].max() < 0.02:  # bfloat16 and half a level
            return y, x, mirrored, rows[0], columns[0]
    raise AssertionError("no view of its source")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_resident_augmenter_makes_variants_of_every_kind(
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]], dtype: torch.dtype
) -> None:
    images, labels = pictures
    torch.manual_seed(0)
    batches = ResidentAugmenter(images, labels, MEAN, DEVIATION, CPU, 16, dtype).forever()
    kinds: list[tuple[int, int, bool, int, int]] = []
    for found, numbers in itertools.islice(batches, 20):
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert found.shape == (16, 3, 32, 32)
        if dtype == torch.float32:
            kinds += [assert_standard(image, images[n]) for image, n in zip(found, numbers.tolist(), strict=True)]
    if dtype == torch.float32:
        ys, xs, mirrored, tops, lefts = map(set, zip(*kinds, strict=True))
        assert ys == xs == set(range(9))
        assert mirrored == {False, True}
        assert tops == lefts == set(range(25))


def test_a_resident_augmenter_epoch_holds_each_image_once(
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    epochs = ResidentAugmenter(*pictures, MEAN, DEVIATION, CPU, 20, torch.float32)
    first, second = (torch.cat([labels for _, labels in epochs]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


@pytest.mark.parametrize("workers", [0, 1])
def test_torchvision_batches_are_augmented_and_endless(
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]], workers: int
) -> None:
    images, labels = pictures
    transform = online_transform("standard", MEAN, DEVIATION)
    batches = torchvision_batches(images, labels, transform, 16, workers, CPU, torch.float32)
    for found, numbers in itertools.islice(batches, 5):
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert found.shape == (16, 3, 32, 32)
        for image, number in zip(found, numbers.tolist(), strict=True):
            assert_standard(image, images[number])


def test_online_baselines_use_our_augmentation_parameters(
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    assert set(BETWEEN) <= set(AUGMENTATIONS)
    for name in BETWEEN:
        transform = online_transform(name, MEAN, DEVIATION)
        images, _ = next(torchvision_batches(*pictures, transform, 4, 0, CPU, torch.float32))
        assert images.shape == (4, 3, 32, 32)
        assert ((images == 0).all(1).sum((1, 2)) >= 64).all()
