"""Flip, crop and cutout as copies of rows.

A store holds every source image encoded and padded, and also mirrored if flips are drawn. A crop is one contiguous run
of the store, from its first pixel to its last, with padding between its rows. A view is made in two steps. First, one
indexing operation gathers the runs of some images. It indexes an overlapping view of the store, whose dtype is as wide
as a run. Then the rows are copied from the runs, which are still in the cache. Making a view needs no arithmetic on
pixels, so the views have the same bits on every machine.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prebake.format.record import normalized
from prebake.precompute.augment.draws import Draw
from prebake.precompute.augment.presets import Augmentation
from prebake.precompute.pixels import Pixels

__all__ = ["Cutout", "Encoder", "ViewStore", "crop_and_flip"]

BLOCK_BYTES = 1024 * 1024  # size of a block of source pixels
CACHED_BYTES = 128 * 1024  # total size of the gathered runs, which fits the L2 cache of a core


class Encoder:
    """Convert pixels 0 to 255 to the stored dtype: for floats, (pixel / 255 - mean) / std.

    Attributes:
        tables: (C, 256) in the stored dtype: the stored value of each pixel value.
        zero: (C,) in the stored dtype: the stored value of the mean colour. It is 0 for floats, and the nearest pixel
            value for uint8.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], dtype: str) -> None:
        if dtype == "uint8":
            self.tables = np.tile(np.arange(256, dtype=np.uint8), (len(mean), 1))
            self.zero = np.rint(np.array(mean) * 255).astype(np.uint8)
        else:
            self.tables = normalized(mean, std).astype(dtype)
            self.zero = np.zeros(len(mean), dtype)

    def encode(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return uint8 images in the stored dtype."""
        encoded = np.empty(images_NHWC.shape, self.tables.dtype)
        for channel, table in enumerate(self.tables):
            np.take(table, images_NHWC[..., channel], out=encoded[..., channel], mode="clip")
        return encoded


class Cutout:
    """Set a square of each image to the mean colour, row by row."""

    def __init__(self, side: int, zero: NDArray[np.generic]) -> None:
        self._steps = np.arange(side)
        row = np.tile(zero, side)
        self._row = row.view(np.dtype((np.void, max(1, row.nbytes))))[0] if side else None
        self._side, self._pixel_bytes = side, zero.nbytes

    def __call__(self, draw: Draw, images_NHWC: NDArray[np.generic]) -> None:
        """Fill the drawn squares in place. The images are contiguous, in the dtype of `zero`."""
        if not self._side:
            return
        n, height, width, _ = images_NHWC.shape
        row_bytes = self._side * self._pixel_bytes
        segments = np.ndarray(
            ((images_NHWC.nbytes - row_bytes) // self._pixel_bytes + 1,),
            np.dtype((np.void, row_bytes)),
            buffer=images_NHWC.reshape(-1).view(np.uint8),
            strides=(self._pixel_bytes,),
        )
        corner = (np.arange(n) * height + draw.cut_y) * width + draw.cut_x
        segments[corner[:, None] + self._steps * width] = self._row


class ViewStore:
    """All images encoded and padded, and also mirrored if flips are drawn.

    Args:
        pixels: the source images, read in blocks.
        encoder: converts pixels to the stored dtype.
        augmentation: gives padding, flips and cutout.
        workers: number of threads that fill the store; by default one per core.
    """

    def __init__(
        self,
        pixels: Pixels,
        encoder: Encoder,
        augmentation: Augmentation,
        workers: int | None = None,
    ) -> None:
        n, self.height, self.width, channels = pixels.shape
        self._cut = Cutout(augmentation.cutout, encoder.zero)
        dtype = encoder.tables.dtype
        pixel_bytes = channels * dtype.itemsize
        shape = self._shape((n, self.height, self.width, channels), augmentation)
        self._padded = shape[2:4]
        self._store = np.empty(shape, dtype)
        self._prepare(pixels, encoder, augmentation, workers)
        self._run_bytes = ((self.height - 1) * self._padded[1] + self.width) * pixel_bytes
        self._runs = np.ndarray(
            ((self._store.nbytes - self._run_bytes) // pixel_bytes + 1,),
            np.dtype((np.void, self._run_bytes)),
            buffer=self._store.reshape(-1).view(np.uint8),
            strides=(pixel_bytes,),
        )
        self._row = np.dtype((np.void, self.width * pixel_bytes))
        self._row_stride = self._padded[1] * pixel_bytes

    @classmethod
    def size_bytes(cls, shape: tuple[int, ...], encoder: Encoder, augmentation: Augmentation) -> int:
        """Return the size of a store for images of shape (N, H, W, C)."""
        return math.prod(cls._shape(shape, augmentation)) * encoder.tables.itemsize

    @staticmethod
    def _shape(shape: tuple[int, ...], augmentation: Augmentation) -> tuple[int, ...]:
        n, height, width, channels = shape
        sides, pad = 1 if augmentation.flip == "none" else 2, augmentation.pad
        return sides, n, height + 2 * pad, width + 2 * pad, channels

    def _prepare(self, images: Pixels, encoder: Encoder, augmentation: Augmentation, workers: int | None) -> None:
        """Fill the store with threads, in blocks that fit the cache. NumPy releases the GIL while it copies."""
        pixel = np.dtype((np.void, self._store.strides[-2]))
        pixels = self._store.reshape(-1).view(pixel).reshape(self._store.shape[:-1])

        step = max(1, BLOCK_BYTES // math.prod(images.shape[1:]))

        def prepare(start: int) -> None:
            block = slice(start, start + step)
            encoded_NHWC = encoder.encode(images[block])
            self._store[0, block] = _pad(encoded_NHWC, encoder, augmentation.pad, augmentation.pad_mode)
            if len(pixels) == 2:
                pixels[1, block] = pixels[0, block, :, ::-1]

        if len(images) <= step:
            prepare(0)
            return
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(prepare, range(0, len(images), step)))

    def make(self, index_N: NDArray[np.int64], draw: Draw, out_NHWC: NDArray[np.generic]) -> None:
        """Write the views of the images `index_N` to `out_NHWC`, which is contiguous, in the stored dtype."""
        rows, columns = self._padded
        image = draw.flip * self._store.shape[1] + index_N
        corner = (image * rows + draw.y) * columns + draw.x
        out_rows = out_NHWC.reshape(-1).view(self._row).reshape(len(index_N), self.height)
        step = max(1, CACHED_BYTES // self._run_bytes)
        for start in range(0, len(index_N), step):
            runs = self._runs[corner[start : start + step]]
            strides = self._run_bytes, self._row_stride
            out_rows[start : start + step] = np.ndarray((len(runs), self.height), self._row, runs, strides=strides)
        self._cut(draw, out_NHWC)


def _pad(images_NHWC: NDArray[np.generic], encoder: Encoder, pad: int, mode: str) -> NDArray[np.generic]:
    widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    if mode == "reflect":
        return np.pad(images_NHWC, widths, mode="reflect")
    colour = encoder.zero if mode == "zero" else encoder.tables[:, 0]
    n, height, width, channels = images_NHWC.shape
    padded = np.empty((n, height + 2 * pad, width + 2 * pad, channels), images_NHWC.dtype)
    padded[...] = colour
    padded[:, pad : pad + height, pad : pad + width] = images_NHWC
    return padded


def crop_and_flip(
    images_NHWC: NDArray[np.uint8], draw: Draw, augmentation: Augmentation, encoder: Encoder
) -> NDArray[np.uint8]:
    """Return mirrored and cropped copies of uint8 images, as input of a transform. `encoder` must be for uint8."""
    if not augmentation.pad and augmentation.flip == "none":
        return images_NHWC.copy()
    moved_NHWC = np.empty_like(images_NHWC)
    store = ViewStore(images_NHWC, encoder, replace(augmentation, cutout=0))
    store.make(np.arange(len(images_NHWC)), draw, moved_NHWC)
    return moved_NHWC
