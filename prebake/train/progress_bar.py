"""The bar that a terminal shows while an epoch runs."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

__all__ = ["with_bar"]

T = TypeVar("T")


def with_bar(batches: Iterable[T], title: str, done: int, total: int) -> Iterator[T]:
    """Yield the batches of the steps from `done` to before `total`; on a terminal, show how far that is."""
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
