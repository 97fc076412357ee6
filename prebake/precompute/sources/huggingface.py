"""Data sets of Hugging Face `datasets`: from the hub, or a directory that `save_to_disk` wrote."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from prebake.console import log
from prebake.errors import DataError, listed, shown
from prebake.optional import import_optional
from prebake.precompute.images import SourceData
from prebake.precompute.sources.decode import Decoding, Pictures, decoded
from prebake.precompute.sources.folder import held_out_names, safe_name, split_of

__all__ = ["load_hub"]

IMAGE_NAMES = ("image", "img", "picture")
LABEL_NAMES = ("label", "labels", "fine_label")
NO_LABELS = {None, -1}  # of a test part whose labels nobody has


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
    known = getattr(features[label], "names", None) or sorted({*_labels(splits["train"], label)} - {None})
    classes = [str(value) for value in known]
    if len(classes) < 2:
        raise DataError(f"hf:{where}: expected at least two classes in {label!r}, found {listed(classes) or 'none'}")
    pictures = {}
    for split, part in splits.items():
        absent = [column for column in (image, label) if column not in part.features]
        if absent:
            log(f"hf:{where}: {split} is left out, since it has no column {absent[0]!r}")
            continue
        labels = _labels(part, label)
        if split != "train" and {*labels} <= NO_LABELS - {*known}:
            log(f"hf:{where}: {split} is left out, since its labels are not given")
            continue
        labels_N = _numbers(f"hf:{where}: {split}", label, labels, known)
        pictures[split] = _pictures(split, part.select_columns([image]), image, labels_N)
    name = safe_name(Path(where).expanduser().resolve().name)
    return decoded(name, classes, held_out_names(pictures), how)


def _splits(where: str) -> dict[str, Any]:
    """Open the data set, and return its parts by our names for them."""
    datasets = import_optional("datasets", "hf", "hf:NAME")
    directory = Path(where).expanduser()
    try:
        found = datasets.load_from_disk(str(directory)) if directory.is_dir() else datasets.load_dataset(where)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AttributeError) as error:
        raise DataError(
            f"hf:{where}: can't be opened ({(str(error).splitlines() or [type(error).__name__])[0]}). Expected a "
            "directory that save_to_disk wrote, or, where a network is, a name on huggingface.co"
        ) from None
    parts: Mapping[str, Any] = found if isinstance(found, dict) else {"train": found}
    splits: dict[str | None, str] = {}
    for name in parts:
        split = split_of(name)
        if split is not None and split in splits:
            raise DataError(
                f"hf:{where}: both {splits[split]} and {name} would be its {split} part; rename one, and bake what "
                "save_to_disk then writes"
            )
        splits[split] = name
    others = [name for name in parts if split_of(name) is None]
    if others:
        log(f"hf:{where}: left out what is neither train, test nor validation: {listed(others)}")
    if "train" not in splits:
        raise DataError(f"hf:{where}: expected a part named train, found {listed(list(parts))}")
    return {split: parts[splits[split]] for split in ("train", "test", "val") if split in splits}


def _is_label(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    return type(feature).__name__ == "ClassLabel" or (isinstance(kind, str) and kind.startswith(("int", "string")))


def _labels(part: Any, column: str) -> list[Any]:
    """Return the labels of a part: names, where it has them, since each part may number them in its own way."""
    values = list(part.select_columns([column])[:][column])
    names = getattr(part.features[column], "names", None)
    return values if names is None else [None if value in NO_LABELS else names[value] for value in values]


def _numbers(whose: str, column: str, labels: Sequence[Any], known: Sequence[Any]) -> NDArray[np.int64]:
    """Return each label's place among those of train, (N,)."""
    places = {value: place for place, value in enumerate(known)}
    unknown = [value for value in labels if value not in places]
    if unknown:
        raise DataError(
            f"{whose} has {len(unknown)} pictures whose label in {column!r} is missing or none of train's: "
            f"{listed(sorted(map(shown, {*unknown})))}; remove them with datasets' filter, and bake what save_to_disk "
            "then writes"
        )
    return np.array([places[value] for value in labels], np.int64)


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
