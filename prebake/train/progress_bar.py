"""A progress bar for the steps of one epoch."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["progress"]

T = TypeVar("T")


def progress(batches: Iterable[T], title: str, done: int, total: int) -> Iterator[T]:
    """Yield the batches of steps `done` to `total - 1`, with a progress bar if stderr is a terminal."""
    return iter(
        tqdm(
            itertools.islice(batches, total - done),
            total=total,
            initial=done,
            desc=title,
            unit=" steps",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
    )
