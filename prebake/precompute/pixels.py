"""The source images of a split, in memory or in a file.

A file is read part by part instead of memory-mapped: the pages of a map would count as memory of this process, and a
full disk would end it with a signal instead of an error.
"""

import errno
import itertools
import math
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prebake.storage.atomic import with_path_in_errors
from prebake.storage.files import Location

__all__ = ["Chosen", "PixelFile", "Pixels", "blocks", "nearest_directory"]

BLOCK_BYTES = 4 * 1024 * 1024  # keeps temporary arrays small


class Pixels(Protocol):
    """Images, uint8 (N, H, W, C), indexed by a slice or by (n,) indices, such as a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W, C."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]: ...


def blocks(pixels: Pixels) -> Iterator[NDArray[np.uint8]]:
    """Yield all images in order, a few MiB at a time."""
    step = max(1, BLOCK_BYTES // math.prod(pixels.shape[1:]))
    for start in range(0, len(pixels), step):
        yield pixels[start : start + step]


def nearest_directory(location: Location) -> Path | None:
    """Return the directory itself, or the nearest one above it that exists; None for a remote location."""
    if not isinstance(location, Path):
        return None
    return next(path for path in (location.absolute(), *location.absolute().parents) if path.is_dir())


class Chosen:
    """A selection of other images, by (n,) indices."""

    def __init__(self, pixels: Pixels, index_N: NDArray[np.int64]) -> None:
        self._pixels, self._index_N = pixels, index_N
        self.shape = (len(index_N), *pixels.shape[1:])

    def __len__(self) -> int:
        return len(self._index_N)

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        return self._pixels[self._index_N[chosen]]


class PixelFile:
    """Images in a file of raw pixels.

    Args:
        file: a descriptor; this object closes it.
        shape: N, H, W, C.
        where: path for error messages.
    """

    def __init__(self, file: int, shape: tuple[int, ...], where: Path) -> None:
        self.shape = shape
        self._file, self._where = file, where
        self._image_bytes = math.prod(shape[1:])
        weakref.finalize(self, os.close, file)

    @classmethod
    def unnamed(cls, shape: tuple[int, ...], directory: Path) -> "PixelFile":
        """Create a file without a name in a directory; it disappears when this process ends."""
        with with_path_in_errors(directory), tempfile.TemporaryFile(dir=directory) as file:
            return cls(os.dup(file.fileno()), shape, directory)

    @classmethod
    def at(cls, path: Path, shape: tuple[int, ...], *, write: bool = False) -> "PixelFile":
        """Open an existing file."""
        return cls(os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC), shape, path)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        if isinstance(chosen, slice):
            wanted = range(len(self))[chosen]
            chosen = np.arange(wanted.start, wanted.stop, wanted.step)
        images_NHWC = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        starts = np.flatnonzero(np.diff(chosen, prepend=-2) != 1).tolist()  # of runs of consecutive images
        for first, end in itertools.pairwise([*starts, len(chosen)]):
            self._read(int(chosen[first]), images_NHWC[first:end])
        return images_NHWC

    def write(self, first: int, images_NHWC: NDArray[np.uint8]) -> None:
        """Write consecutive images; safe to call from many threads. Raises OSError: no space."""
        data = np.ascontiguousarray(images_NHWC).data.cast("B")
        offset = first * self._image_bytes
        with with_path_in_errors(self._where):
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written

    def _read(self, first: int, images_NHWC: NDArray[np.uint8]) -> None:
        data = images_NHWC.data.cast("B")
        offset = first * self._image_bytes
        with with_path_in_errors(self._where):
            while data:
                count = os.preadv(self._file, [data], offset)
                if not count:
                    raise OSError(errno.EIO, "the file of pixels ends before its end")
                data, offset = data[count:], offset + count
