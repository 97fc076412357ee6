"""Read a map-style data set of images, in order, each sample once.

Samples are read by one thread: nothing says that a user's data set may be read by several.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from prebake.errors import DataError, PrebakeError, UsageError, quote
from prebake.loader.image_file import is_grey, pixels_of_image, why
from prebake.precompute.pixels import Chosen, PixelFile, Pixels
from prebake.precompute.sources.pictures import Unreadable, check_side, pixel_file
from prebake.precompute.sources.registry import Decoding
from prebake.signals import check_signals

__all__ = ["IMAGE_NAMES", "LABEL_NAMES", "check_map_style", "is_tensor", "read_map_style"]

IMAGE_NAMES = ("image", "img", "picture")
LABEL_NAMES = ("label", "labels", "fine_label")
TWICE = 3  # samples that are read twice, to find random transforms


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def check_map_style(dataset: Any, what: str) -> None:
    """Raise UsageError unless an object has the methods of a map-style data set; the message says what it is."""
    kinds = {kind.__name__ for kind in type(dataset).__mro__}
    if "DataLoader" in kinds:
        raise UsageError(f"{what}: expected a data set, found a DataLoader; pass its data set, loader.dataset")
    if isinstance(dataset, np.ndarray) or is_tensor(dataset):
        raise UsageError(f"{what}: found an array without labels; pass both, images and labels")
    if "IterableDataset" in kinds or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UsageError(
            f"{what}: expected arrays, or a map-style data set with __len__ and __getitem__, found "
            f"{type(dataset).__name__}; an iterable data set that fits in memory becomes one with list(dataset)"
        )
    if not len(dataset):
        raise UsageError(f"{what}: the data set is empty")


def read_map_style(dataset: Any, name: str, split: str, how: Decoding) -> tuple[Pixels, list[Any], list[str]]:
    """Read all samples of a map-style data set.

    Args:
        dataset: with `__len__` and `__getitem__`.
        name: of the data set, for messages.
        split: which part it is, for messages.
        how: see there.

    Returns:
        The pixels (N, H, W, C) in a temporary file, the labels (N), and phrases about what is left out.

    Raises:
        DataError: samples of another form, images of several sizes and no `image_size`, samples that differ when they
            are read again, or unreadable ones.
        UsageError, MachineError: as `pictures.decode`.
    """
    check_side(how)
    reader = _Reader(dataset, f"{name}: {split}", how)
    unreadable = Unreadable(name, {split: len(dataset)}, how)
    with tqdm(range(len(dataset)), f"read {name} {split}", unit=" images", unit_scale=True, disable=None) as numbers:
        for number in numbers:
            check_signals()
            try:
                image_HWC, label = reader.convert(number, dataset[number])
            except (PrebakeError, MemoryError, ImportError, NameError, AttributeError, TypeError):
                raise  # faults of the program, or of all samples
            except Exception as error:  # readers raise whatever damaged files lead to; all of it is reported
                unreadable.add(split, number, f"{split}, sample {number} ({why(error)})")
                reader.labels.append(None)
                continue
            reader.add(number, image_HWC, label)
    kept = unreadable.judge()[split]
    reader.check_repeatable(kept[:TWICE].tolist())
    labels = [reader.labels[number] for number in kept.tolist()]
    pixels = reader.file
    assert pixels is not None  # noqa: S101 - one sample at least is readable
    return pixels if len(kept) == len(dataset) else Chosen(pixels, kept), labels, [*unreadable.phrases()]


class _Reader:
    """Writes the images of one data set into a file, and keeps their labels."""

    def __init__(self, dataset: Any, where: str, how: Decoding) -> None:
        self._dataset, self._where, self._how = dataset, where, how
        self._size = None if how.image_size is None else (how.image_size, how.image_size)
        self.labels: list[Any] = []
        self.file: PixelFile | None = None

    def add(self, number: int, image_HWC: NDArray[np.uint8], label: Any) -> None:
        if self.file is None:
            (self.file,) = pixel_file([(len(self._dataset), *image_HWC.shape)], self._how)
        expected = self.file.shape[1:]
        if image_HWC.shape[:2] != expected[:2]:
            raise DataError(
                f"{self._where}: sample {number} has {image_HWC.shape[1]}x{image_HWC.shape[0]} pixels, the first one "
                f"{expected[1]}x{expected[0]}; name the side in pixels to which all are resized and cropped, such as "
                "--image-size 64"
            )
        if {image_HWC.shape[2], expected[2]} == {1, 3}:  # grey images among coloured ones
            if expected[2] == 1:
                self._widen(number)
            image_HWC = np.broadcast_to(image_HWC, (*expected[:2], 3))
        elif image_HWC.shape[2] != expected[2]:
            raise DataError(
                f"{self._where}: sample {number} has {image_HWC.shape[2]} channels, the first {expected[2]}"
            )
        self.file.write(number, image_HWC[None])
        self.labels.append(label)

    def check_repeatable(self, numbers: Sequence[int]) -> None:
        """Raise DataError where samples differ when they are read again."""
        for number in numbers:
            again_HWC, label = self.convert(number, self._dataset[number])
            assert self.file is not None  # noqa: S101 - these samples are in it
            stored_HWC = self.file[number : number + 1][0]
            if label != self.labels[number] or not np.array_equal(
                np.broadcast_to(again_HWC, stored_HWC.shape), stored_HWC
            ):
                raise DataError(
                    f"{self._where}: sample {number} differs when it is read again; remove random transforms from the "
                    "data set, since baking augments the images"
                )

    def _widen(self, count: int) -> None:
        """Repeat the one channel of the first `count` images three times."""
        grey = self.file
        assert grey is not None  # noqa: S101 - its images are grey
        (self.file,) = pixel_file([(*grey.shape[:3], 3)], self._how)
        for number in range(count):
            self.file.write(number, np.repeat(grey[number : number + 1], 3, axis=3))

    def convert(self, number: int, sample: Any) -> tuple[NDArray[np.uint8], Any]:
        where = f"{self._where}: sample {number}"
        image, label = _pair_of(where, sample)
        label = label.item() if getattr(label, "shape", None) == () else label
        if isinstance(label, Image.Image) or np.ndim(label) >= 2:
            raise DataError(f"{where}: image and label are swapped; expected (image, label)")
        if np.ndim(label):
            raise DataError(
                f"{where}: expected one label, found {quote(label, 60)}; convert one-hot labels with label.argmax()"
            )
        if isinstance(image, Image.Image):
            return pixels_of_image(image, 1 if is_grey(image) else 3, self._size), label
        image_HWC = _image_array(where, image)
        if self._size is not None and image_HWC.shape[:2] != self._size:
            channels = image_HWC.shape[2]
            if channels not in (1, 3):
                raise DataError(f"{where}: an image of {channels} channels is not resized; resize it in the data set")
            picture = Image.fromarray(image_HWC[..., 0] if channels == 1 else image_HWC)
            image_HWC = pixels_of_image(picture, channels, self._size)
        return image_HWC, label


def _pair_of(where: str, sample: Any) -> tuple[Any, Any]:
    """Return the image and the label of a sample."""
    if isinstance(sample, Mapping):
        keys = [next((name for name in names if name in sample), None) for names in (IMAGE_NAMES, LABEL_NAMES)]
        if None in keys:
            raise DataError(f"{where}: expected a mapping with image and label, found {quote(list(sample))}")
        return sample[keys[0]], sample[keys[1]]
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return sample[0], sample[1]
    found = f"{type(sample).__name__} of {len(sample)}" if isinstance(sample, (tuple, list)) else type(sample).__name__
    raise DataError(f"{where}: expected (image, label), or a mapping with both, found {found}")


def _image_array(where: str, image: Any) -> NDArray[np.uint8]:
    """Return an array or tensor as uint8 (H, W, C)."""
    tensor = is_tensor(image)
    if not tensor and not isinstance(image, np.ndarray):
        raise DataError(f"{where}: expected a PIL image, an array or a tensor, found {type(image).__name__}")
    array = np.asarray(image.cpu() if tensor else image)
    if array.dtype != np.uint8:
        raise DataError(
            f"{where}: expected uint8 from 0 to 255, found {array.dtype} {array.shape}; remove ToTensor, ToDtype and "
            "Normalize from the data set's transform, since baking normalizes the images"
        )
    expected = "(C, H, W)" if tensor else "(H, W, C)"
    if array.ndim == 2:
        return np.ascontiguousarray(array[..., None])
    if array.ndim != 3 or not array.size:
        raise DataError(f"{where}: expected {expected} or (H, W), found {array.shape}")
    channels, other = (array.shape[0], array.shape[2]) if tensor else (array.shape[2], array.shape[0])
    if channels > 4 and other <= 4:
        raise DataError(f"{where}: expected {expected}, found {array.shape}: the channels are on the wrong side")
    return np.ascontiguousarray(array.transpose(1, 2, 0) if tensor else array)
