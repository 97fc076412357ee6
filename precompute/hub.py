"""Data sets of Hugging Face `datasets`: from the hub, or a directory that `save_to_disk` wrote."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from precompute.decode import Decoding, Pictures, decoded
from precompute.folder import held_out_names, safe_name, split_of
from precompute.images import SourceData
from shards.command import say
from shards.errors import DataError, MachineError, listed, shown

__all__ = ["load_hub"]

IMAGE_NAMES = ("image", "img", "picture")
LABEL_NAMES = ("label", "labels", "fine_label")


def load_hub(where: str, how: Decoding) -> SourceData:
    """Read a data set of pictures with one label each.

    Raises:
        DataError: none of that name, or one without pictures or labels, or as `decoded`.
        MachineError: `datasets` is needed and missing, or as `decoded`.
        UsageError: as `decoded`.
    """
    splits = _splits(where)
    features = splits["train"].features
    image = _column(where, features, lambda feature: type(feature).__name__ == "Image", IMAGE_NAMES, "pictures")
    label = _column(where, features, _is_label, LABEL_NAMES, "labels")
    labels = {split: part.select_columns([label])[:][label] for split, part in splits.items()}
    names = getattr(features[label], "names", None)
    if names is None:  # numbers or words
        known = sorted(set(labels["train"]))
        numbers = {value: number for number, value in enumerate(known)}
        names = [str(value) for value in known]
        labels = {split: [numbers.get(value, -1) for value in values] for split, values in labels.items()}
    pictures = {}
    for split, part in splits.items():
        labels_N = np.array([-1 if value is None else value for value in labels[split]], np.int64)
        if (labels_N < 0).all() and split != "train":
            say(f"hf:{where}: {split} is left out, since its labels are not given")
        elif (labels_N < 0).any():
            raise DataError(
                f"hf:{where}: {split} has {int((labels_N < 0).sum())} pictures whose label in {label!r} is none that "
                "train has; remove them with datasets' filter, and bake what save_to_disk then writes"
            )
        else:
            pictures[split] = _pictures(split, part.select_columns([image]), image, labels_N)
    if len(names) < 2:
        raise DataError(f"hf:{where}: expected at least two classes in {label!r}, found {listed(names) or 'none'}")
    name = safe_name(Path(where).expanduser().resolve().name)
    return decoded(name, names, held_out_names(pictures), how)


def _splits(where: str) -> dict[str, Any]:
    """Open the data set, and return its parts by our names for them."""
    try:
        import datasets
    except ImportError:
        raise MachineError("hf:NAME needs Hugging Face datasets: pip install -e '.[hf]'") from None
    directory = Path(where).expanduser()
    try:
        found = datasets.load_from_disk(str(directory)) if directory.is_dir() else datasets.load_dataset(where)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AttributeError) as error:
        raise DataError(
            f"hf:{where}: can't be opened ({(str(error).splitlines() or [type(error).__name__])[0]}). Expected a "
            "directory that save_to_disk wrote, or, where a network is, a name on huggingface.co"
        ) from None
    parts: Mapping[str, Any] = found if isinstance(found, dict) else {"train": found}
    splits = {split_of(name): part for name, part in parts.items()}
    others = [name for name in parts if split_of(name) is None]
    if others:
        say(f"hf:{where}: left out what is neither train, test nor validation: {listed(others)}")
    if "train" not in splits:
        raise DataError(f"hf:{where}: expected a part named train, found {listed(list(parts))}")
    return {name: splits[name] for name in ("train", "test", "val") if name in splits}


def _is_label(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    return type(feature).__name__ == "ClassLabel" or (isinstance(kind, str) and kind.startswith(("int", "string")))


def _column(where: str, features: Mapping[str, Any], fits: Any, names: tuple[str, ...], what: str) -> str:
    """Return the column of that kind: the only one, or the first that has a usual name."""
    found = [name for name, feature in features.items() if fits(feature)]
    usual = [name for name in names if name in found]
    if len(found) != 1 and not usual:
        raise DataError(
            f"hf:{where}: expected one column of {what}, or one named {' or '.join(names)}, found "
            f"{shown({name: str(feature) for name, feature in features.items()})}"
        )
    return usual[0] if usual else found[0]


def _pictures(split: str, part: Any, column: str, labels_N: Any) -> Pictures:
    import datasets

    encoded = part.cast_column(column, datasets.Image(decode=False))

    def open_picture(number: int) -> IO[bytes]:
        row = encoded[number][column]
        if row is None:
            raise ValueError("no picture in this row")
        return Path(row["path"]).open("rb") if row["bytes"] is None else io.BytesIO(row["bytes"])

    return Pictures(labels_N, lambda number: f"{split}, row {number}", open_picture)
