"""A record: consecutive samples as three `.npy` members of a USTAR archive (FORMAT.md, "Records").

The framing (tar headers, `.npy` headers, padding) is a pure function of key, samples, image shape and
dtype, so a writer makes it once and a verifier compares it byte for byte.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK_BYTES",
    "ENCODINGS",
    "RECORD_BYTES",
    "RECORD_SAMPLES",
    "Frame",
    "Layout",
    "normalized",
    "samples_per_record",
]

BLOCK_BYTES = 512
NPY_HEADER_BYTES = 128
RECORD_SAMPLES = 128
RECORD_BYTES = 2 * 1024 * 1024
ENCODINGS = ("float16", "uint8", "float32")


def samples_per_record(image_shape: tuple[int, int, int], dtype: str) -> int:
    """Return 128, or as many samples as fit 2 MiB of pixels where those are fewer (at least 1)."""
    sample_bytes = math.prod(image_shape) * np.dtype(dtype).itemsize
    return max(1, min(RECORD_SAMPLES, RECORD_BYTES // sample_bytes))


def normalized(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """Return (channels, 256): what each pixel value becomes, (pixel / 255 - mean) / deviation, in float64."""
    table: NDArray[np.float64] = (np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
    return table


@dataclass(frozen=True)
class Layout:
    """Where a record's bytes lie in its extent; all offsets and sizes in bytes."""

    samples: int
    image_shape: tuple[int, int, int]
    dtype: str

    @functools.cached_property
    def pixels_bytes(self) -> int:
        """Size of the pixels alone."""
        return self.samples * math.prod(self.image_shape) * np.dtype(self.dtype).itemsize

    @functools.cached_property
    def pixels_offset(self) -> int:
        """Offset of the first pixel: behind one tar header and one `.npy` header."""
        return BLOCK_BYTES + NPY_HEADER_BYTES

    @functools.cached_property
    def index_offset(self) -> int:
        """Offset of the first source index."""
        return self._index_header + BLOCK_BYTES + NPY_HEADER_BYTES

    @functools.cached_property
    def labels_offset(self) -> int:
        """Offset of the first label."""
        return self._labels_header + BLOCK_BYTES + NPY_HEADER_BYTES

    @functools.cached_property
    def size_bytes(self) -> int:
        """Size of the extent, from the first tar header to the last padding byte."""
        return self._labels_header + _member_bytes(8 * self.samples)

    @functools.cached_property
    def _index_header(self) -> int:
        return _member_bytes(self.pixels_bytes)

    @functools.cached_property
    def _labels_header(self) -> int:
        return self._index_header + _member_bytes(4 * self.samples)


class Frame:
    """A reusable buffer of one record, framing and samples, with views of its three arrays.

    Attributes:
        extent: the bytes of the whole record, as the tar holds them.
        images_NHWC: (samples, height, width, channels), the stored dtype.
        index_N: (samples,) uint32, the source indices.
        labels_N: (samples,) int64.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.extent = bytearray(layout.size_bytes)
        n = layout.samples
        self.images_NHWC: NDArray[np.generic] = np.frombuffer(
            self.extent,
            layout.dtype,
            layout.pixels_bytes // np.dtype(layout.dtype).itemsize,
            layout.pixels_offset,
        ).reshape(n, *layout.image_shape)
        self.index_N: NDArray[np.uint32] = np.frombuffer(self.extent, "<u4", n, layout.index_offset)
        self.labels_N: NDArray[np.int64] = np.frombuffer(self.extent, "<i8", n, layout.labels_offset)
        self._headers: list[tuple[str, int, int]] = []
        members: list[tuple[str, NDArray[Any], int]] = [
            ("images", self.images_NHWC, layout.pixels_offset),
            ("index", self.index_N, layout.index_offset),
            ("labels", self.labels_N, layout.labels_offset),
        ]
        for name, array, offset in members:
            header = _npy_header(array)
            self.extent[offset - len(header) : offset] = header
            self._headers.append((name, offset - len(header) - BLOCK_BYTES, len(header) + array.nbytes))

    def name(self, key: str) -> None:
        """Write the tar headers of the record `key`."""
        for name, offset, size in self._headers:
            self.extent[offset : offset + BLOCK_BYTES] = _tar_header(f"{key}.{name}.npy", size)


def _member_bytes(payload: int) -> int:
    blocks = -(-(NPY_HEADER_BYTES + payload) // BLOCK_BYTES)
    return BLOCK_BYTES + blocks * BLOCK_BYTES


def _tar_header(name: str, size: int) -> bytes:
    # Written here and not by tarfile, as below: how unused fields are filled is left to the implementation.
    fields = (
        name.encode("ascii").ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" + b"0000000\0"  # mode, user, group
        + b"%011o\0" % size
        + b"00000000000\0"  # time
        + b" " * 8  # the checksum's own place
        + b"0".ljust(101, b"\0")  # a file; no link
        + b"ustar\x0000".ljust(255, b"\0")  # no names of user and group, no device, no prefix
    )  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _npy_header(array: NDArray[np.generic]) -> bytes:
    # Written here and not by numpy.save, whose padding has changed between releases.
    shape = ", ".join(map(str, array.shape)) + ("," if array.ndim == 1 else "")
    text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': ({shape}), }}"
    return (
        b"\x93NUMPY\x01\x00" + (NPY_HEADER_BYTES - 10).to_bytes(2, "little") + text.ljust(117).encode("ascii") + b"\n"
    )
