"""Columns: the arrays that a record consists of, and their description in a manifest."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prebake.errors import DataError, quote
from prebake.format.document import Fields

__all__ = [
    "COLUMN_DTYPES",
    "IMAGE_DTYPES",
    "Column",
    "check_columns",
    "columns_from_json",
    "columns_to_json",
    "standard_columns",
]

IMAGE_DTYPES = ("float16", "uint8", "float32")
COLUMN_DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
)
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")  # it becomes a part of the names of tar members
MAX_SAMPLE_BYTES = 2**32  # half of the largest tar member
MAX_DIMENSIONS = 8  # the header of the .npy file has room for more, but no need


class Column(NamedTuple):  # hashed often
    """One array of a record: name, dtype (as NumPy names it), and shape of one sample."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"

    @property
    def sample_bytes(self) -> int:
        """Size of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def view(self, buffer: bytearray, offset: int, samples: int) -> NDArray[Any]:
        """Return samples in a buffer as an array (samples, *shape), little-endian, without a copy."""
        dtype = np.dtype(self.dtype).newbyteorder("<")
        return np.frombuffer(buffer, dtype, samples * math.prod(self.shape), offset).reshape(samples, *self.shape)


INDEX = Column("index", "uint32", ())
LABELS = Column("labels", "int64", ())


@functools.lru_cache(maxsize=2**13)  # the epochs of a set may all differ
def standard_columns(image_shape: tuple[int, int, int], dtype: str) -> tuple[Column, Column, Column]:
    """Return the three columns that every shard set begins with: images, index and labels."""
    return Column("images", dtype, image_shape), INDEX, LABELS


def check_columns(columns: Sequence[Column], where: str) -> None:
    """Raise DataError unless these can be the columns of a record."""
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: columns: expected different names, found {quote(names)}")
    for column in columns:
        if not NAME.fullmatch(column.name):
            raise DataError(f"{where}: columns: expected names like {NAME.pattern}, found {quote(column.name)}")
        expected = IMAGE_DTYPES if column.name == "images" else COLUMN_DTYPES
        if column.dtype not in expected:
            raise DataError(
                f"{where}: column {column.name}: dtype: expected one of {', '.join(expected)}, "
                f"found {quote(column.dtype)}"
            )
        if len(column.shape) > MAX_DIMENSIONS or min(column.shape, default=1) < 1:
            raise DataError(
                f"{where}: column {column.name}: shape: expected at most {MAX_DIMENSIONS} sizes of at least 1, "
                f"found {quote(column.shape)}"
            )
        if column.sample_bytes > MAX_SAMPLE_BYTES:
            raise DataError(
                f"{where}: column {column.name}: expected at most {MAX_SAMPLE_BYTES} bytes per sample, "
                f"found {quote(str(column))}"
            )


def columns_to_json(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return columns as a manifest holds them."""
    return [{"name": column.name, "dtype": column.dtype, "shape": list(column.shape)} for column in columns]


def columns_from_json(fields: Fields) -> tuple[Column, ...]:
    """Take the columns from a manifest and check them; raises DataError."""
    found = []
    for number, item in enumerate(fields.items("columns")):
        column = Fields(item, f"{fields.where}: columns[{number}]")
        shape = column.items("shape")
        if not all(type(size) is int for size in shape):
            raise DataError(f"{column.where}: shape: expected whole numbers, found {quote(shape)}")
        found.append(Column(column.text("name"), column.text("dtype"), tuple(shape)))
    check_columns(found, fields.where)
    return tuple(found)
