"""Class labels of any type, as numbers from 0 and the names of the classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed, quote

__all__ = ["Labels", "number_labels"]

MAX_CLASSES = 2**20  # every class up to the highest label needs a name


@dataclass(frozen=True)
class Labels:
    """The labels of all splits.

    Attributes:
        classes: names; label i is classes[i].
        splits: labels (N,) int64 of each split.
        notes: what a user should know about the numbering.
    """

    classes: tuple[str, ...]
    splits: dict[str, NDArray[np.int64]]
    notes: tuple[str, ...] = ()


def number_labels(where: str, labels: Mapping[str, Any], names: Iterable[str] | None = None) -> Labels:
    """Number the labels of a data set.

    With `names`, labels are indices into them, or names out of them. Without, whole numbers that begin with 0 stay as
    they are. Other whole numbers, bool and text are numbered in their order; text that consists of numbers is ordered
    by these numbers.

    Args:
        where: names the data set in errors.
        labels: of each split, with `train` among them: (N,) whole numbers, bool or text.
        names: of the classes.

    Raises:
        UsageError: class names that are no text, or not unique.
        DataError: labels of another type or shape, negative or missing ones, or held-out images of a class that has no
            training image.
    """
    arrays = {split: _as_array(f"{where}: labels of {split}", values) for split, values in labels.items()}
    kinds = {array.dtype.kind for array in arrays.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{where}: labels of several types, "
            f"{listed([f'{array.dtype} in {split}' for split, array in arrays.items()])}; convert them to one"
        )
    known = None if names is None else _names(where, names)
    notes: tuple[str, ...] = ()
    if kinds == {"i"} and (known is not None or not arrays["train"].min()):
        numbered = _indices(where, arrays, known)
        classes = known or tuple(str(label) for label in range(int(arrays["train"].max()) + 1))
    else:
        values: Sequence[Any] = known or _ordered(arrays["train"])
        classes = tuple(str(value) for value in values)
        numbered = {split: _places(where, split, array, values) for split, array in arrays.items()}
        if kinds == {"i"}:
            notes = (f"labels {listed(classes, 3)} are numbered 0 to {len(classes) - 1}",)
    _check_held_out(where, classes, numbered)
    return Labels(classes, numbered, notes)


def _as_array(what: str, values: Any) -> NDArray[Any]:
    """Return labels as int64, bool or text (N,)."""
    if isinstance(values, (list, tuple)) and any(value is None for value in values):
        missing = sum(value is None for value in values)
        raise DataError(f"{what}: {missing} of {len(values)} are missing (None or -1); remove these images")
    if isinstance(values, (list, tuple)) and len({isinstance(value, str) for value in values}) > 1:
        raise DataError(f"{what}: expected whole numbers, bool or text, found text among others; convert them to text")
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of several lengths
        raise DataError(f"{what}: expected one label per image, found lists of several lengths") from None
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
        raise DataError(f"{what}: shape {array.shape}, as of one-hot labels; convert them with labels.argmax(axis=1)")
    if array.ndim != 1:
        raise DataError(f"{what}: expected shape (N,), found {array.shape}; flatten them with labels.reshape(-1)")
    if array.dtype.kind in "iu":
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < 2**63:
            raise DataError(
                f"{what}: expected labels from 0, found {array.min()} to {array.max()}; a negative label often means "
                "'no label': remove these images, or number the classes from 0"
            )
        return array.astype(np.int64)
    if array.dtype.kind == "O":
        odd = next((value for value in array if not isinstance(value, str)), None)
        if odd is not None:
            raise DataError(f"{what}: expected whole numbers, bool or text, found {quote(odd)} of {type(odd).__name__}")
        return array.astype(str)
    if array.dtype.kind in "bU":
        return array
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    remedy = "; convert them with labels.astype('int64')" if array.dtype.kind == "f" else ""
    raise DataError(f"{what}: expected whole numbers, bool or text, found {array.dtype}{remedy}")


def _names(where: str, names: Iterable[str]) -> tuple[str, ...]:
    found = tuple(names)
    if not all(isinstance(name, str) for name in found):
        raise UsageError(f"{where}: classes: expected strings, found {quote(found)}")
    twice = sorted({name for name in found if found.count(name) > 1}) if len({*found}) < len(found) else []
    if twice:
        raise UsageError(f"{where}: classes: {len(twice)} names stand there more than once: {listed(twice)}")
    return found


def _indices(
    where: str, arrays: Mapping[str, NDArray[Any]], names: Sequence[str] | None
) -> dict[str, NDArray[np.int64]]:
    """Check labels that number the classes themselves."""
    for split, array in arrays.items():
        highest = int(array.max())
        if names is not None and highest >= len(names):
            raise UsageError(f"{where}: labels of {split}: found {highest}, but there are only {len(names)} classes")
        if highest >= MAX_CLASSES:
            raise DataError(f"{where}: labels of {split}: expected labels from 0 to {MAX_CLASSES - 1}, found {highest}")
    return dict(arrays)


def _ordered(array: NDArray[Any]) -> tuple[Any, ...]:
    """Return the distinct labels in their order."""
    values = np.unique(array).tolist()
    if array.dtype.kind == "U" and all(value.isdecimal() for value in values):
        values.sort(key=lambda value: (int(value), value))
    return tuple(values)


def _places(where: str, split: str, array: NDArray[Any], values: Sequence[Any]) -> NDArray[np.int64]:
    """Return the place of each label among the values, (N,)."""
    distinct, inverse = np.unique(array, return_inverse=True)
    places = {value: place for place, value in enumerate(values)}
    unknown = [value for value in distinct.tolist() if value not in places]
    if unknown:
        count = int(np.isin(array, np.array(unknown, array.dtype)).sum())
        named = listed([quote(value) for value in unknown])
        if split == "train":
            raise DataError(f"{where}: {count} labels of train are not among the class names: {named}")
        raise DataError(_not_in_train(where, split, count, len(unknown), named))
    return np.array([places[value] for value in distinct.tolist()], np.int64)[inverse.reshape(-1)]


def _check_held_out(where: str, classes: Sequence[str], splits: Mapping[str, NDArray[np.int64]]) -> None:
    counts = np.bincount(splits["train"], minlength=len(classes))
    for split, labels_N in splits.items():
        unknown = [label for label in np.unique(labels_N).tolist() if label >= len(counts) or not counts[label]]
        if unknown:
            count = int(np.isin(labels_N, unknown).sum())
            named = [quote(classes[label]) if label < len(classes) else str(label) for label in unknown]
            raise DataError(_not_in_train(where, split, count, len(unknown), listed(named)))


def _not_in_train(where: str, split: str, images: int, classes: int, names: str) -> str:
    return (
        f"{where}: {split} has {images} images of {classes} classes that are not in train: {names}; remove them there, "
        "or add such images to train"
    )
