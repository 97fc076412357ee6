"""Data sets that torchvision downloads and reads."""

import contextlib
import functools
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prebake.console import log
from prebake.errors import DataError
from prebake.optional import import_optional
from prebake.precompute.images import Images, SourceData
from prebake.precompute.sources.registry import Decoding, Source, register

TRAIN, TEST = {"train": True}, {"train": False}  # how most of torchvision's data sets name their parts
SIDE = 32  # 28 pixels get the padding of 32
# What torchvision's readers and its downloader raise over missing, truncated and foreign files.
READ_ERRORS = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class TorchvisionReader:
    """Reads one of torchvision's data sets.

    Attributes:
        name: of ours.
        class_name: in `torchvision.datasets`.
        mirror: whether its images may be mirrored.
        train, test: arguments of the class for each part.
        needs: an optional module that the class imports.
    """

    name: str
    class_name: str
    mirror: bool
    train: dict[str, Any]
    test: dict[str, Any]
    needs: str = ""

    def __call__(self, _argument: str, data_dir: Path, _how: Decoding) -> SourceData:
        import torchvision

        if self.needs:
            import_optional(self.needs, "demo", self.name)  # scikit-learn depends on SciPy
        dataset_class = getattr(torchvision.datasets, self.class_name)
        try:
            train = _open(self.name, functools.partial(dataset_class, data_dir, **self.train), data_dir)
            test = dataset_class(data_dir, **self.test, download=False)
        except READ_ERRORS as error:
            raise _damaged(self.name, data_dir, _first_line(error)) from None
        splits = {"train": _images(train), "test": _images(test)}
        for split, images in splits.items():
            found = len(images.pixels), len(images.labels_N)
            if found[0] != found[1] or not found[0]:
                raise DataError(f"{data_dir}: {self.name} {split} has {found[0]} images, but {found[1]} labels")
        classes = getattr(train, "classes", [str(label) for label in range(10)])  # svhn names none
        return SourceData(self.name, tuple(classes), splits, mirror=self.mirror, preset_side=SIDE)


def _open(name: str, train: Callable[..., Any], data_dir: Path) -> Any:
    """Open the training part; download both parts where it cannot be read. torchvision shows its progress."""
    try:
        return train(download=False)
    except READ_ERRORS as error:
        trouble = _first_line(error)
    log(f"{name}: not usable under {data_dir} ({trouble}); downloading")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return train(download=True)
    except READ_ERRORS as error:
        if _first_line(error) == trouble:  # torchvision found all files there, and downloaded none
            raise _damaged(name, data_dir, trouble) from None
        raise DataError(
            f"{name}: no usable files under {data_dir} ({trouble}), and they can't be downloaded "
            f"({_first_line(error)}). Name a torchvision root that holds them with --data-dir, "
            "or try the data that comes with the package: --dataset digits"
        ) from None


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
    if hasattr(dataset, "targets"):
        labels = dataset.targets
    else:  # svhn, whose channels come first
        images, labels = images.transpose(0, 2, 3, 1), dataset.labels
    return Images(np.ascontiguousarray(images), np.asarray(labels, np.int64))


def _register(
    name: str,
    class_name: str,
    about: str,
    *,
    mirror: bool = False,
    train: dict[str, Any] = TRAIN,
    test: dict[str, Any] = TEST,
    needs: str = "",
) -> None:
    register(Source(name, TorchvisionReader(name, class_name, mirror, train, test, needs), about))


_register("cifar10", "CIFAR10", "50,000 + 10,000 photographs, 32x32x3, 10 classes", mirror=True)
_register("cifar100", "CIFAR100", "50,000 + 10,000 photographs, 32x32x3, 100 classes", mirror=True)
_register("mnist", "MNIST", "60,000 + 10,000 handwritten digits, 28x28x1")
_register("fashion-mnist", "FashionMNIST", "60,000 + 10,000 pieces of clothing, 28x28x1, 10 classes", mirror=True)
_register("kmnist", "KMNIST", "60,000 + 10,000 cursive hiragana, 28x28x1, 10 classes")
_register(
    "emnist",
    "EMNIST",
    "112,800 + 18,800 digits and letters (EMNIST balanced, transposed as it comes), 28x28x1, 47 classes",
    train={"split": "balanced", **TRAIN},
    test={"split": "balanced", **TEST},
)
_register(
    "svhn",
    "SVHN",
    "73,257 + 26,032 digits of house numbers, 32x32x3",
    train={"split": "train"},
    test={"split": "test"},
    needs="scipy.io",
)
