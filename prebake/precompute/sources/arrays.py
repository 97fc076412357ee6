"""A data set from Python: arrays, or map-style data sets."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, UsageError, listed, quote
from prebake.precompute.images import Images, SourceData
from prebake.precompute.pixels import Pixels
from prebake.precompute.sources.labels import number_labels
from prebake.precompute.sources.map_style import check_map_style, is_tensor, read_map_style
from prebake.precompute.sources.registry import FUNCTION, Decoding, Source, absolute_path, register
from prebake.precompute.sources.splits import choose_splits, held_out_names, other_parts, safe_name
from prebake.user_code import import_object

__all__ = ["source_from"]

CHANNELS = (1, 2, 3, 4)


def source_from(
    data: Any,
    labels: Any = None,
    *,
    test: Any = None,
    classes: Iterable[str] | None = None,
    mirror: bool | None = None,
    name: str = "images",
    how: Decoding | None = None,
) -> SourceData:
    """Return the source that a user's own objects make.

    Args:
        data: images as a uint8 array (N, H, W, C) or (N, H, W), with `labels`; or a map-style data set, whose items
            are (image, label) or mappings with `image` and `label`; or a mapping of the names of splits to such data
            sets or to pairs (images, labels). The mapping may also hold `classes` and `mirror`. An image is a PIL
            image, a uint8 array (H, W, C) or (H, W), or a uint8 tensor (C, H, W).
        labels: (N,) whole numbers, bool or text; only for arrays.
        test: a pair (images, labels) of arrays, or a map-style data set.
        classes: names of the classes; by default the data set's attribute `classes`, or the labels themselves.
        mirror: whether images may be mirrored; by default the data set's attribute `mirror`, or unknown.
        name: of the data set.
        how: how the images of map-style data sets are resized, and whether unreadable ones are skipped.

    Raises:
        UsageError: another object, arrays of another layout or dtype, or labels that do not fit.
        DataError: samples of a map-style data set that are not as above.
        MachineError: not enough space for the pixels.
    """
    parts, left_out = _parts(data, labels, test)
    if isinstance(data, Mapping):
        classes = data.get("classes") if classes is None else classes
        mirror = data.get("mirror") if mirror is None else mirror
    train = parts["train"]
    while not isinstance(train, tuple) and train is not None:
        classes = _class_names(train) if classes is None else classes
        mirror = getattr(train, "mirror", None) if mirror is None else mirror
        train = getattr(train, "dataset", None)  # which torch.utils.data.Subset takes its samples from
    pixels: dict[str, Pixels] = {}
    values: dict[str, Any] = {}
    try:
        for split, part in parts.items():
            if isinstance(part, tuple):
                pixels[split], values[split] = _checked_arrays(part[0], part[1], _words(split))
            else:
                pixels[split], values[split], skipped = read_map_style(part, name, split, how or Decoding())
                left_out += skipped
        numbered = number_labels(name, values, classes)
    except DataError as error:
        raise (UsageError if isinstance(parts["train"], tuple) else DataError)(str(error)) from None
    for split, images in pixels.items():
        if images.shape[1:] != pixels["train"].shape[1:]:
            raise UsageError(
                f"{_words(split)}: expected {pixels['train'].shape[1:]} like the images, found {images.shape[1:]}"
            )
    splits = {split: Images(pixels[split], numbered.splits[split]) for split in pixels}
    left, notes = tuple(left_out), numbered.notes
    return SourceData(name, numbered.classes, splits, mirror=mirror, left_out=left, notes=notes)


def _parts(data: Any, labels: Any, test: Any) -> tuple[dict[str, Any], list[str]]:
    """Return each split as a pair of images and labels, or as a map-style data set; and phrases about what is left."""
    left_out: list[str] = []
    if isinstance(data, Mapping):
        if labels is not None:
            raise UsageError("labels: expected none beside a mapping of splits, which has them in its data sets")
        about = {"classes", "mirror"}
        splits, others = choose_splits("data", [key for key in map(str, data) if key not in about])
        if "train" not in splits:
            raise UsageError(f"data: expected a mapping with train, found {listed(list(map(str, data)))}")
        parts = {split: _pair(data[key]) for split, key in held_out_names(splits).items()}
        left_out = other_parts(others)
    else:
        parts = {"train": _pair(data) if labels is None else (data, labels)}
    if test is not None:
        if "test" in parts:
            raise UsageError("test: the mapping of splits has a test split already")
        parts["test"] = _pair(test)
    for split, part in parts.items():
        if not isinstance(part, tuple):
            check_map_style(part, _words(split))
    return parts, left_out


def _pair(part: Any) -> Any:
    """Return a pair of arrays as a tuple, and anything else as it is."""
    if isinstance(part, (tuple, list)) and len(part) == 2 and getattr(part[0], "ndim", 0) >= 3:
        return tuple(part)
    return part


def _class_names(dataset: Any) -> Any:
    """Return the names of the classes that a data set knows: torchvision's attribute, or Hugging Face's feature."""
    names = getattr(dataset, "classes", None)
    if names is None:
        feature = (getattr(dataset, "features", None) or {}).get("label")
        names = getattr(feature, "names", None)
    return names


def _words(split: str) -> str:
    return "images" if split == "train" else f"{split} images"


def _checked_arrays(images: Any, labels: Any, what: str) -> tuple[NDArray[np.uint8], Any]:
    """Return images as uint8 (N, H, W, C) and their labels; raises UsageError that says what else they are."""
    if is_tensor(images):
        raise UsageError(
            f"{what}: expected a NumPy array (N, H, W, C), found a torch tensor {tuple(images.shape)}; convert it with "
            "images.permute(0, 2, 3, 1).numpy()"
        )
    images = _as_array(images, what)
    if images.ndim < 3 and np.ndim(labels) >= 3:
        raise UsageError(f"{what}: images and labels are swapped; expected the images first")
    if images.dtype.kind == "f":
        raise UsageError(
            f"{what}: expected uint8 from 0 to 255, found {images.dtype} {images.shape}; convert images of 0 to 1 with "
            "(images * 255).round().astype('uint8'). Baking normalizes them"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise UsageError(f"{what}: expected uint8 (N, H, W, C) or (N, H, W), found {images.dtype} {images.shape}")
    if images.shape[1] in CHANNELS and images.shape[3] not in CHANNELS:
        raise UsageError(
            f"{what}: expected channels last, (N, H, W, C), found {images.shape}, as of (N, C, H, W); convert them "
            "with images.transpose(0, 2, 3, 1)"
        )
    found = np.shape(labels) if hasattr(labels, "shape") else (len(labels),)
    if found[:1] != (len(images),):
        raise UsageError(f"{what}: expected {len(images)} labels, one per image, found {found[0] if found else labels}")
    return np.ascontiguousarray(images), labels


def _as_array(images: Any, what: str) -> NDArray[Any]:
    try:
        return np.asarray(images)
    except ValueError:
        shapes = sorted({np.shape(image) for image in images})
        raise UsageError(
            f"{what}: found images of {len(shapes)} shapes: {listed([str(shape) for shape in shapes], 4)}; resize them "
            "to one, or pass a map-style data set with image_size"
        ) from None


def read_function(argument: str, _data_dir: Path, how: Decoding) -> SourceData:
    """Call a user's function, and read the data set that it returns, as `source_from`.

    Raises:
        UsageError: no such file, module or function; and as `source_from`.
        DataError, MachineError: as `source_from`.
    """
    path, _, function = argument.rpartition(":")
    path = absolute_path(path) if path.endswith(".py") else path
    found = import_object(f"{path}:{function}", "--dataset").value
    data = found() if callable(found) and not hasattr(found, "__getitem__") else found
    if data is None:
        raise UsageError(f"--dataset {argument}: expected a data set, and {quote(function)} returned None")
    return source_from(data, name=safe_name(function), how=how)


def _absolute(argument: str) -> str:
    path, _, name = argument.rpartition(":")
    return f"{absolute_path(path)}:{name}" if path.endswith(".py") else argument


register(
    Source(
        FUNCTION,
        read_function,
        "your own function that returns a map-style data set, or a mapping of splits to such; or package.module:NAME",
        "NAME",
        _absolute,
    )
)
