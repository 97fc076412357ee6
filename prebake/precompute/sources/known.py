"""Where the images come from: data sets by name, and a user's own pictures."""

import contextlib
import functools
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.console import log
from prebake.errors import DataError, MachineError, UsageError
from prebake.optional import import_optional
from prebake.precompute.augment import held_out_order
from prebake.precompute.images import Images, SourceData, channel_statistics
from prebake.precompute.pixels import Chosen
from prebake.precompute.sources.decode import Decoding
from prebake.precompute.sources.folder import load_folder
from prebake.precompute.sources.huggingface import load_hub
from prebake.precompute.sources.webdataset import load_tars

__all__ = [
    "DATASETS",
    "OWN",
    "Images",
    "SourceData",
    "channel_statistics",
    "check_name",
    "checked_images",
    "cut_off",
    "hold_out",
    "is_own",
    "load",
]

DIGITS_TRAIN = 1500
TRAIN, TEST = {"train": True}, {"train": False}  # how most of torchvision's data sets name their parts
MAX_CLASSES = 2**20  # a label beyond it is a mistake: every class up to it would need a name
# What torchvision's readers and its downloader raise over missing, truncated and foreign files.
READ_ERRORS = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Known:
    """A data set that is known by its name: what reads it, given that name and a torchvision root; about it."""

    read: Callable[[str, Path], SourceData]
    about: str


@dataclass(frozen=True)
class Own:
    """A kind of a user's own pictures: what stands behind its colon, what reads it, given that; about it."""

    where: str
    read: Callable[[str, Decoding], SourceData]
    about: str


def load(name: str, data_dir: Path, how: Decoding | None = None) -> SourceData:
    """Load a data set, downloading it where it is not under `data_dir` yet and a network is there.

    Args:
        name: one of `DATASETS`, or a kind out of `OWN`, a colon, and where the pictures are.
        data_dir: torchvision root.
        how: to decode a user's own pictures.

    Raises:
        UsageError: no data set of that name, or an option of decoding outside its range.
        DataError: not there and not to be downloaded, damaged, or pictures that don't fit each other.
        MachineError: a package is needed and missing, or space.
    """
    how = how or Decoding()
    check_name(name, how)
    if is_own(name):
        kind, _, where = name.partition(":")
        return OWN[kind].read(where, how)
    return DATASETS[name].read(name, data_dir)


def check_name(name: str, how: Decoding) -> None:
    """Ask whether there is such a data set, and whether it is one whose pictures are decoded as is wanted.

    Raises:
        UsageError: as `load` does.
    """
    if is_own(name):
        return
    if name not in DATASETS:
        own = ", ".join(f"{kind}:{own.where}" for kind, own in OWN.items())
        raise UsageError(
            f"--dataset: no data set named {name!r}; there are {', '.join(DATASETS)}, and your own as {own}"
        )
    if how.image_size is not None:
        raise UsageError(f"--image-size: for your own pictures only; {name} has a size, and --resize bakes another one")
    if how.skip_unreadable:
        raise UsageError(f"--skip-unreadable: for your own pictures only; {name} is read whole or not at all")


def is_own(name: str) -> bool:
    """Say whether a name is that of a user's own pictures, such as folder:PATH."""
    kind, colon, where = name.partition(":")
    return bool(colon and where) and kind in OWN


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
    if not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
        raise UsageError(f"{what}: expected labels from 0 to {MAX_CLASSES - 1}, found {labels.min()} to {labels.max()}")
    return Images(np.ascontiguousarray(images), labels.astype(np.int64))


def hold_out(source: SourceData, fraction: float) -> SourceData:
    """Cut a validation split from the training images: the same images for every seed.

    Raises:
        UsageError: the fraction is not between 0 and 1, or leaves one side empty; or there is a validation split.
    """
    if fraction == 0:
        return source
    if "val" in source.splits:
        raise UsageError(f"--val-fraction: {source.name} has validation images of its own; leave the option out")
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
    val = Images(Chosen(train.pixels, held), train.labels_N[held])
    rest = Images(Chosen(train.pixels, kept), train.labels_N[kept])
    return replace(source, splits={**source.splits, "train": rest, "val": val})


def _digits(name: str, _data_dir: Path) -> SourceData:
    """scikit-learn's 1,797 handwritten digits, 8x8, 0 to 16 (UCI, Alpaydin and Kaynak, 1998).

    1,500 to train and 297 held out, dealt by a fixed permutation: the file is sorted by writer.
    """
    bunch = import_optional("sklearn.datasets", "demo", "digits").load_digits()
    images = np.minimum(bunch.images * 16, 255).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = held_out_order(len(labels))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    splits = {"train": Images(images[train], labels[train]), "test": Images(images[test], labels[test])}
    return SourceData(name, tuple(str(digit) for digit in range(10)), splits)


def _torchvision(
    class_name: str, train_part: dict[str, Any] = TRAIN, test_part: dict[str, Any] = TEST
) -> Callable[[str, Path], SourceData]:
    def load_both(name: str, data_dir: Path) -> SourceData:
        import torchvision

        dataset_class = getattr(torchvision.datasets, class_name)
        try:
            train = _open(name, functools.partial(dataset_class, data_dir, **train_part), data_dir)
            test = dataset_class(data_dir, **test_part, download=False)
        except ImportError as error:  # svhn's format
            raise MachineError(f"{name} needs {error.name}: pip install {error.name}") from None
        except READ_ERRORS as error:
            raise _damaged(name, data_dir, _first_line(error)) from None
        splits = {"train": _images(train), "test": _images(test)}
        for split, images in splits.items():
            found = len(images.pixels), len(images.labels_N)
            if found[0] != found[1] or not found[0]:
                raise DataError(f"{data_dir}: {name} {split} has {found[0]} images, but {found[1]} labels")
        classes = getattr(train, "classes", [str(label) for label in range(10)])  # svhn names none
        return SourceData(name, tuple(classes), splits)

    return load_both


def _open(name: str, train: Callable[..., Any], data_dir: Path) -> Any:
    """Open the training split, downloading both where it can't be read; torchvision shows its progress."""
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


DATASETS: dict[str, Known] = {
    "cifar10": Known(_torchvision("CIFAR10"), "50,000 + 10,000 photographs, 32x32x3, 10 classes"),
    "cifar100": Known(_torchvision("CIFAR100"), "50,000 + 10,000 photographs, 32x32x3, 100 classes"),
    "mnist": Known(_torchvision("MNIST"), "60,000 + 10,000 handwritten digits, 28x28x1"),
    "fashion-mnist": Known(_torchvision("FashionMNIST"), "60,000 + 10,000 pieces of clothing, 28x28x1, 10 classes"),
    "kmnist": Known(_torchvision("KMNIST"), "60,000 + 10,000 cursive hiragana, 28x28x1, 10 classes"),
    "emnist": Known(
        _torchvision("EMNIST", {"split": "balanced", **TRAIN}, {"split": "balanced", **TEST}),
        "112,800 + 18,800 digits and letters (EMNIST balanced, transposed as it comes), 28x28x1, 47 classes",
    ),
    "svhn": Known(
        _torchvision("SVHN", {"split": "train"}, {"split": "test"}),
        "73,257 + 26,032 digits of house numbers, 32x32x3 (needs SciPy)",
    ),
    "digits": Known(_digits, "1,500 + 297 handwritten digits, 8x8x1, which come with scikit-learn"),
}
OWN: dict[str, Own] = {
    "folder": Own("PATH", load_folder, "pictures in train/CLASS/ and test/CLASS/ or val/CLASS/, or in CLASS/ alone"),
    "hf": Own(
        "NAME", load_hub, "of Hugging Face datasets, or a directory that save_to_disk wrote (needs the extra hf)"
    ),
    "webdataset": Own("URLS", load_tars, "local WebDataset shards of pictures and .cls: data-{000..009}.tar"),
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
    if hasattr(dataset, "targets"):
        labels = dataset.targets
    else:  # svhn, whose channels come first
        images, labels = images.transpose(0, 2, 3, 1), dataset.labels
    return Images(np.ascontiguousarray(images), np.asarray(labels, np.int64))
