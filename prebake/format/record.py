"""Records: consecutive samples, one `.npy` member of a USTAR archive per column (FORMAT.md, "Records").

The framing (tar headers, `.npy` headers, padding) is a pure function of key, number of samples and columns.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.format.columns import Column

__all__ = [
    "BLOCK_BYTES",
    "RECORD_BYTES",
    "RECORD_SAMPLES",
    "Frame",
    "Layout",
    "normalized",
    "samples_per_record",
    "value_trouble",
]

BLOCK_BYTES = 512
NPY_HEADER_BYTES = 128
RECORD_SAMPLES = 128
RECORD_BYTES = 2 * 1024 * 1024


def samples_per_record(columns: Sequence[Column]) -> int:
    """Return the number of samples per record: 128, or as many as fit into 2 MiB if those are fewer, at least 1.

    `index` and `labels` do not count.
    """
    sample_bytes = sum(column.sample_bytes for column in columns if column.name not in ("index", "labels"))
    return max(1, min(RECORD_SAMPLES, RECORD_BYTES // sample_bytes))


def normalized(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float64]:
    """Return a table (channels, 256) of float64: the normalized value of each pixel, (pixel / 255 - mean) / std."""
    table: NDArray[np.float64] = (np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]
    return table


@dataclass(frozen=True)
class Layout:
    """Positions of a record's columns in its bytes; all offsets and sizes in bytes."""

    samples: int
    columns: tuple[Column, ...]

    @functools.cached_property
    def offsets(self) -> dict[str, int]:
        """Offset of the first value of each column, by name."""
        offsets, start = {}, 0
        for column in self.columns:
            offsets[column.name] = start + BLOCK_BYTES + NPY_HEADER_BYTES
            start += _member_bytes(self.samples * column.sample_bytes)
        return offsets

    @functools.cached_property
    def size_bytes(self) -> int:
        """Size of the record, from its first tar header to its last padding byte."""
        return sum(_member_bytes(self.samples * column.sample_bytes) for column in self.columns)

    @functools.cached_property
    def pixels_offset(self) -> int:
        """Offset of the first pixel; 0 if there are no images."""
        return self.offsets.get("images", 0)

    @functools.cached_property
    def pixels_bytes(self) -> int:
        """Size of all pixels; 0 if there are no images."""
        return sum(self.samples * column.sample_bytes for column in self.columns if column.name == "images")

    def views(self, buffer: bytearray, start: int = 0) -> dict[str, NDArray[Any]]:
        """Return every column behind `start` as a view of `buffer`, which holds the record's bytes from `start` on."""
        return {
            column.name: column.view(buffer, self.offsets[column.name] - start, self.samples)
            for column in self.columns
            if self.offsets[column.name] >= start
        }


class Frame:
    """A reusable buffer for one record.

    Attributes:
        layout: the positions of the columns.
        extent: the record's bytes, as the tar holds them.
        columns: a writable view (samples, *shape) of each column, by name.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.extent = bytearray(layout.size_bytes)
        self.columns = layout.views(self.extent)
        self._members: list[tuple[str, int, int]] = []  # name, offset of the tar header, size of the file
        for name, array in self.columns.items():
            start = layout.offsets[name] - NPY_HEADER_BYTES
            self.extent[start : start + NPY_HEADER_BYTES] = _npy_header(array)
            self._members.append((name, start - BLOCK_BYTES, NPY_HEADER_BYTES + array.nbytes))

    @property
    def images_NHWC(self) -> NDArray[Any]:
        """The images (samples, height, width, channels)."""
        return self.columns["images"]

    @property
    def index_N(self) -> NDArray[np.uint32]:
        """The source index of each sample."""
        return self.columns["index"]

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """The class of each sample."""
        return self.columns["labels"]

    def name(self, key: str) -> None:
        """Write the tar headers of the record `key`."""
        for name, offset, size in self._members:
            self.extent[offset : offset + BLOCK_BYTES] = _tar_header(f"{key}.{name}.npy", size)


def value_trouble(columns: Mapping[str, NDArray[Any]], classes: int) -> str | None:
    """Describe the first value of a record that the format does not allow, or return None."""
    if "labels" in columns:
        labels_N = columns["labels"]
        # As unsigned integers, negative labels are large: one comparison checks both ends.
        if labels_N.view(np.uint64).max() >= classes:
            return f"expected labels from 0 to {classes - 1}, found {labels_N.min()} to {labels_N.max()}"
    elif not (columns["soft_labels"].min() >= 0 and columns["soft_labels"].max() <= 1):  # NaN is refused as well
        return "expected soft labels from 0 to 1"
    return None


def _member_bytes(payload: int) -> int:
    blocks = -(-(NPY_HEADER_BYTES + payload) // BLOCK_BYTES)
    return BLOCK_BYTES + blocks * BLOCK_BYTES


def _tar_header(name: str, size: int) -> bytes:
    # tarfile is not used: it leaves the content of unused fields to the implementation.
    fields = (
        name.encode("ascii").ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" + b"0000000\0"  # mode, user, group
        + b"%011o\0" % size
        + b"00000000000\0"  # time
        + b" " * 8  # the place of the checksum
        + b"0".ljust(101, b"\0")  # a file; no link
        + b"ustar\x0000".ljust(255, b"\0")  # no names of user and group, no device, no prefix
    )  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def _npy_header(array: NDArray[Any]) -> bytes:
    # numpy.save is not used: its padding has changed between releases.
    shape = ", ".join(map(str, array.shape)) + ("," if array.ndim == 1 else "")
    text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': ({shape}), }}"
    return (
        b"\x93NUMPY\x01\x00" + (NPY_HEADER_BYTES - 10).to_bytes(2, "little") + text.ljust(117).encode("ascii") + b"\n"
    )
