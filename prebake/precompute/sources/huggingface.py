"""Data sets of Hugging Face `datasets`: from the hub, or a directory that `save_to_disk` wrote."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, listed, quote
from prebake.optional import import_optional
from prebake.precompute.images import SourceData
from prebake.precompute.sources.labels import number_labels
from prebake.precompute.sources.map_style import IMAGE_NAMES, LABEL_NAMES
from prebake.precompute.sources.pictures import Pictures, decode
from prebake.precompute.sources.registry import Decoding, Source, absolute_path, register
from prebake.precompute.sources.splits import choose_splits, held_out_names, other_parts, safe_name

LABEL_TYPES = ("int", "uint", "bool", "string", "large_string")  # the beginnings of their names
NO_LABELS = {None, -1}  # how a test part says that its labels are secret


def read_huggingface(argument: str, _data_dir: Path, how: Decoding) -> SourceData:
    """Read a data set of pictures with one label each.

    Raises:
        DataError: no such data set, no pictures or labels in it, or as `decode`.
        MachineError: `datasets` is missing, or as `decode`.
        UsageError: as `decode`.
    """
    where = f"hf:{argument}"
    parts, left_out = _parts(argument)
    features = parts["train"].features
    image = _column(where, features, lambda feature: type(feature).__name__ == "Image", IMAGE_NAMES, "pictures")
    label = _column(where, features, _is_label, LABEL_NAMES, "labels: whole numbers, bool or text")
    others = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel" and name != label]
    others += [name for name, feature in features.items() if type(feature).__name__ == "Image" and name != image]
    left_out += [f"the columns {listed(others)} beside {image} and {label}"] if others else []
    names = getattr(features[label], "names", None)
    labels = {}
    for split, part in parts.items():
        absent = [column for column in (image, label) if column not in part.features]
        if absent:
            left_out.append(f"{split}, which has no column {absent[0]!r}")
            continue
        values = _labels(part, label)
        if split != "train" and {*values} <= NO_LABELS:
            left_out.append(f"{split}, whose labels are not given")
            continue
        labels[split] = values
    numbered = number_labels(where, labels, names)
    if len(numbered.classes) < 2:
        raise DataError(f"{where}: expected at least two classes in {label!r}, found {listed(numbered.classes)}")
    pictures = {
        split: _pictures(split, parts[split].select_columns([image]), image, labels_N)
        for split, labels_N in numbered.splits.items()
    }
    name = safe_name(Path(argument).expanduser().resolve().name)
    about = SourceData(name, numbered.classes, {}, left_out=tuple(left_out), notes=numbered.notes)
    return decode(about, held_out_names(pictures), how)


def _parts(argument: str) -> tuple[dict[str, Any], list[str]]:
    """Open the data set; return its parts by the names of their splits, and phrases about those left out."""
    datasets = import_optional("datasets", "hf", "hf:NAME")
    directory = Path(argument).expanduser()
    try:
        found = datasets.load_from_disk(str(directory)) if directory.is_dir() else datasets.load_dataset(argument)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, AttributeError) as error:
        raise DataError(
            f"hf:{argument}: can't be opened ({(str(error).splitlines() or [type(error).__name__])[0]}). Expected a "
            "directory that save_to_disk wrote, or, where a network is, a name on huggingface.co"
        ) from None
    parts: Mapping[str, Any] = found if isinstance(found, dict) else {"train": found}
    splits, others = choose_splits(f"hf:{argument}", parts)
    if "train" not in splits:
        raise DataError(f"hf:{argument}: expected a part named train, found {listed(list(parts))}")
    return {split: parts[name] for split, name in splits.items()}, other_parts(others)


def _is_label(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "")
    return type(feature).__name__ == "ClassLabel" or (isinstance(kind, str) and kind.startswith(LABEL_TYPES))


def _labels(part: Any, column: str) -> list[Any]:
    """Return the labels of a part: their names, where it has names, since each part may number them in its own way."""
    values = list(part.select_columns([column])[:][column])
    names = getattr(part.features[column], "names", None)
    return values if names is None else [None if value in NO_LABELS else names[value] for value in values]


def _column(
    where: str, features: Mapping[str, Any], fits: Callable[[Any], bool], names: tuple[str, ...], what: str
) -> str:
    """Return the column of that kind: the only one, or the first that has a usual name."""
    found = [name for name, feature in features.items() if fits(feature)]
    usual = [name for name in names if name in found]
    if len(found) != 1 and not usual:
        raise DataError(
            f"{where}: expected one column of {what}, or one named {' or '.join(names)}, found "
            f"{quote({name: str(feature) for name, feature in features.items()})}"
        )
    return usual[0] if usual else found[0]


def _pictures(split: str, part: Any, column: str, labels_N: NDArray[np.int64]) -> Pictures:
    import datasets

    encoded = part.cast_column(column, datasets.Image(decode=False))

    def open_picture(number: int) -> IO[bytes]:
        row = encoded[number][column]
        if row is None:
            raise ValueError("no picture in this row")
        return Path(row["path"]).open("rb") if row["bytes"] is None else io.BytesIO(row["bytes"])

    return Pictures(labels_N, lambda number: f"{split}, row {number}", open_picture)


def _absolute(argument: str) -> str:
    """Make a directory absolute; a name on the hub stays."""
    return absolute_path(argument) if Path(argument).expanduser().is_dir() else argument


register(
    Source(
        "hf",
        read_huggingface,
        "of Hugging Face datasets, or a directory that save_to_disk wrote (needs the extra hf)",
        "NAME",
        _absolute,
    )
)
