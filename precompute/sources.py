"""Where the images come from: data sets by name, as uint8 arrays."""

import contextlib
import decimal
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precompute.augment import held_out_order
from shards.command import say
from shards.errors import DataError, MachineError, UsageError

__all__ = ["DATASETS", "Images", "SourceData", "channel_statistics", "checked_images", "cut_off", "hold_out", "load"]

DIGITS_TRAIN = 1500
MOST_CLASSES = 2**20  # a label beyond it is a mistake: every class up to it would need a name
BLOCK_IMAGES = 4096  # so that temporary arrays stay in the cache
# What torchvision's readers and its downloader raise over missing, truncated and foreign files.
READ_ERRORS = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Images:
    """Images and labels of one split: images_NHWC uint8, labels_N int64."""

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]


@dataclass(frozen=True)
class SourceData:
    """A data set: its name, the names of its classes, its splits (`train`, and perhaps `test` and `val`)."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Images]


def load(name: str, data_dir: Path) -> SourceData:
    """Load a data set, downloading it where it is not under `data_dir` yet and a network is there.

    Raises:
        UsageError: no data set of that name.
        DataError: not there and not to be downloaded, or damaged.
        MachineError: scikit-learn is needed and missing.
    """
    if name not in DATASETS:
        raise UsageError(f"--dataset: no data set named {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name](name, data_dir)


def checked_images(images: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> Images:
    """Check a user's own arrays; `what` names them in errors.

    Args:
        images: (N, H, W, C) or (N, H, W), uint8.
        labels: (N,) integers from 0.
        what: such as "test images".

    Raises:
        UsageError: of another shape or dtype, or labels outside 0 to 2^20 - 1.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise UsageError(f"{what}: expected uint8 (N, H, W, C) or (N, H, W), found {images.dtype} {images.shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{what}: expected {len(images)} whole-number labels, one an image, found {labels.dtype} {labels.shape}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise UsageError(
            f"{what}: expected labels from 0 to {MOST_CLASSES - 1}, found {labels.min()} to {labels.max()}"
        )
    return Images(np.ascontiguousarray(images), labels.astype(np.int64))


def hold_out(source: SourceData, fraction: float) -> SourceData:
    """Cut a validation split from the training images: the same images for every seed.

    Raises:
        UsageError: the fraction is not between 0 and 1, or leaves one side empty.
    """
    if fraction == 0:
        return source
    train = source.splits["train"]
    count = round(fraction * len(train.labels_N)) if 0 < fraction < 1 else 0
    if not 0 < count < len(train.labels_N):
        raise UsageError(
            f"--val-fraction: expected a fraction between 0 and 1 of {len(train.labels_N)} images, found {fraction}"
        )
    return cut_off(source, count)


def cut_off(source: SourceData, count: int) -> SourceData:
    """Cut `count` of the training images off as a validation split, at least one, and not all of them."""
    train = source.splits["train"]
    order = held_out_order(len(train.labels_N))
    kept, held = np.sort(order[:-count]), np.sort(order[-count:])
    val = Images(train.images_NHWC[held], train.labels_N[held])
    rest = Images(train.images_NHWC[kept], train.labels_N[kept])
    return replace(source, splits={**source.splits, "train": rest, "val": val})


def channel_statistics(images_NHWC: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, pixels taken as 0 to 1.

    Both come from exact integer histograms and are rounded once, to the nearest float64. A channel
    without any deviation gets 1, so that it normalizes to zero.
    """
    means, deviations = [], []
    with decimal.localcontext(decimal.Context(prec=60)):
        for channel in range(images_NHWC.shape[3]):
            blocks = [
                np.bincount(images_NHWC[start : start + BLOCK_IMAGES, ..., channel].reshape(-1), minlength=256)
                for start in range(0, len(images_NHWC), BLOCK_IMAGES)
            ]
            histogram = np.sum(blocks, axis=0).tolist()
            count = sum(histogram)
            total = sum(value * times for value, times in enumerate(histogram))
            squares = sum(value * value * times for value, times in enumerate(histogram))
            means.append(float(decimal.Decimal(total) / (255 * count)))
            variance = decimal.Decimal(count * squares - total * total)
            deviations.append(float(variance.sqrt() / (255 * count)) if variance else 1.0)
    return tuple(means), tuple(deviations)


def _digits(name: str, _data_dir: Path) -> SourceData:
    """scikit-learn's 1,797 handwritten digits, 8x8, 0 to 16 (UCI, Alpaydin and Kaynak, 1998).

    1,500 to train and 297 held out, dealt by a fixed permutation: the file is sorted by writer.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MachineError("digits needs scikit-learn: pip install -e '.[demo]'") from None
    bunch = load_digits()
    images = np.minimum(bunch.images * 16, 255).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = held_out_order(len(labels))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    splits = {"train": Images(images[train], labels[train]), "test": Images(images[test], labels[test])}
    return SourceData(name, tuple(str(digit) for digit in range(10)), splits)


def _torchvision(class_name: str) -> Callable[[str, Path], SourceData]:
    def load_both(name: str, data_dir: Path) -> SourceData:
        import torchvision

        dataset_class = getattr(torchvision.datasets, class_name)
        train = _open(name, dataset_class, data_dir)
        try:
            test = dataset_class(data_dir, train=False, download=False)
        except READ_ERRORS as error:
            raise _damaged(name, data_dir, _first_line(error)) from None
        splits = {"train": _images(train), "test": _images(test)}
        for split, images in splits.items():
            found = len(images.images_NHWC), len(images.labels_N)
            if found[0] != found[1] or not found[0]:
                raise DataError(f"{data_dir}: {name} {split} has {found[0]} images, but {found[1]} labels")
        return SourceData(name, tuple(train.classes), splits)

    return load_both


def _open(name: str, dataset_class: Any, data_dir: Path) -> Any:
    """Open the training split, downloading both where it can't be read; torchvision shows its progress."""
    try:
        return dataset_class(data_dir, train=True, download=False)
    except READ_ERRORS as error:
        trouble = _first_line(error)
    say(f"{name}: not usable under {data_dir} ({trouble}); downloading")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return dataset_class(data_dir, train=True, download=True)
    except READ_ERRORS as error:
        if _first_line(error) == trouble:  # torchvision found all files there, and downloaded none
            raise _damaged(name, data_dir, trouble) from None
        raise DataError(
            f"{name}: no usable files under {data_dir} ({trouble}), and they can't be downloaded "
            f"({_first_line(error)}). Name a torchvision root that holds them with --data-dir, "
            "or try the data that comes with the package: --dataset digits"
        ) from None


DATASETS: dict[str, Callable[[str, Path], SourceData]] = {
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "digits": _digits,
}


def _damaged(name: str, data_dir: Path, trouble: str) -> DataError:
    return DataError(
        f"{name}: damaged files under {data_dir} ({trouble}). Remove them and run the same command "
        "where a network is, or name another torchvision root with --data-dir"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _images(dataset: Any) -> Images:
    images = np.asarray(dataset.data)
    if images.ndim == 3:
        images = images[..., None]
    return Images(np.ascontiguousarray(images), np.asarray(dataset.targets, np.int64))
