"""Names of splits and of data sets."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prebake.errors import DataError, listed, quote

__all__ = ["choose_splits", "held_out_names", "other_parts", "safe_name", "split_of"]

T = TypeVar("T")

# The names that Hugging Face datasets, torchvision and webdataset users give to the parts of a data set.
SPLITS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def split_of(name: str) -> str | None:
    """Return the split that a directory or a part of that name holds: train, val, test, or None."""
    return SPLITS.get(name.lower())


def choose_splits(where: str, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Choose the part of each split.

    Args:
        where: names the data set in errors.
        names: of its parts.

    Returns:
        The name of the part of each split, in the order train, test, val; and the names that are no split.

    Raises:
        DataError: two parts for one split.
    """
    found: dict[str, str] = {}
    others = []
    for name in names:
        split = split_of(name)
        if split is None:
            others.append(name)
        elif split in found:
            raise DataError(f"{where}: both {found[split]} and {name} would be its {split} part; rename one")
        else:
            found[split] = name
    return {split: found[split] for split in ("train", "test", "val") if split in found}, others


def held_out_names(splits: Mapping[str, T]) -> dict[str, T]:
    """Rename a validation split to test where there is no test split, as in sets whose test labels are secret."""
    return {"test" if split == "val" and "test" not in splits else split: part for split, part in splits.items()}


def safe_name(text: str) -> str:
    """Return a data set's name, which becomes a part of file names, made from any text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:64] or "pictures"


def other_parts(names: Sequence[str]) -> list[str]:
    """Return a phrase about parts that are left out since they are no split; none where there are no such parts."""
    if not names:
        return []
    return [f"what is neither train, val nor test ({listed([quote(name) for name in names], 4)})"]
