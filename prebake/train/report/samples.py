"""Samples: the images that a report shows, taken from the shards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.loader.grid import views
from prebake.loader.shard_set import ShardSet

__all__ = ["Views", "at_positions", "baked_variants", "input_statistics"]

SEEN = 128


@dataclass(frozen=True)
class Views:
    """Some source images, each in several epochs.

    Attributes:
        labels: of the images.
        epochs: of the columns.
        pixels: (images, epochs, H, W, C), uint8.
    """

    labels: Sequence[int]
    epochs: Sequence[int]
    pixels: NDArray[np.uint8]


def at_positions(data: ShardSet, split: str, positions: Collection[int]) -> dict[int, NDArray[np.uint8 | np.floating]]:
    """Return images of a split as they are stored, (H, W, C), by their positions in it."""
    found: dict[int, NDArray[np.uint8 | np.floating]] = {}
    wanted, start = np.unique(np.array(list(positions), np.int64)), 0
    for images, labels, _ in data.records(split):
        here = wanted[(start <= wanted) & (wanted < start + len(labels))]
        found |= {int(position): images[position - start].copy() for position in here}
        start += len(labels)
    return found


def baked_variants(data: ShardSet, played: int, images: int, columns: int) -> Views | None:
    """Return the first images of the first epoch, one of a class while there are others, in the first epochs.

    Of the `played` epochs those count that are there, and of the last one's size; None where there is none.
    """
    shape = data.image_shape("train", played - 1)
    epochs = [
        epoch
        for epoch in range(played)
        if data.image_shape("train", epoch) == shape and not data.missing("train", epoch)
    ][:columns]
    if not epochs:
        return None
    _, labels, index = next(data.records("train", epochs[0]))
    one_of_each = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), one_of_each)
    chosen = np.concatenate([np.sort(one_of_each), others])[:images]
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    return Views(labels[chosen].tolist(), epochs, views(data, index[chosen].tolist(), epochs))


def input_statistics(data: ShardSet) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation of each channel of what a net is fed, over SEEN images; None where there are none.

    They are training images, where an epoch is there: those are shuffled, and held-out ones may come class by class.
    """
    epochs = [("train", epoch) for epoch in range(data.epochs)]
    places = [*epochs, *((split, 0) for split in ("test", "val") if split in data.splits)]
    there = next((place for place in places if not data.missing(*place)), None)
    if there is None:
        return None
    images, seen = [], 0
    for record, _, _ in data.records(*there):
        images.append(data.normalize(record).astype(np.float64))
        seen += len(record)
        if seen >= SEEN:
            break
    normalized = np.concatenate(images)
    return normalized.mean((0, 1, 2)).tolist(), normalized.std((0, 1, 2)).tolist()
