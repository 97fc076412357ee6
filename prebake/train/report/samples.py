"""Images from the shards, for the report."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prebake.loader.grid import views
from prebake.loader.shard_set import ShardSet

__all__ = ["Views", "at_positions", "input_statistics", "view_grid"]

MIN_IMAGES = 128  # for the statistics of the inputs


@dataclass(frozen=True)
class Views:
    """The views of some images in several epochs.

    Attributes:
        labels: labels of the images.
        epochs: epochs of the views.
        pixels: (images, epochs, H, W, C), uint8.
    """

    labels: Sequence[int]
    epochs: Sequence[int]
    pixels: NDArray[np.uint8]


def at_positions(data: ShardSet, split: str, positions: Collection[int]) -> dict[int, NDArray[np.uint8 | np.floating]]:
    """Return stored images, (H, W, C), by their positions in a split."""
    found: dict[int, NDArray[np.uint8 | np.floating]] = {}
    wanted, start = np.unique(np.array(list(positions), np.int64)), 0
    for record in data.records(split):
        here = wanted[(start <= wanted) & (wanted < start + len(record))]
        found |= {int(position): record.images_NHWC[position - start].copy() for position in here}
        start += len(record)
    return found


def view_grid(data: ShardSet, played: int, images: int, columns: int) -> Views | None:
    """Return views of a few images, of different classes if possible.

    Args:
        data: the shard set.
        played: number of epochs that the run trained on.
        images: number of images, at most.
        columns: number of epochs, at most. Epochs count whose shards exist, with images of the last epoch's size.

    Returns:
        None if there is no such epoch.
    """
    shape = data.image_shape("train", played - 1)
    epochs = [
        epoch
        for epoch in range(played)
        if data.image_shape("train", epoch) == shape and not data.missing("train", epoch)
    ][:columns]
    if not epochs:
        return None
    record = next(data.records("train", epochs[0]))
    labels, index = record.labels_N, record.index_N
    one_of_each = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), one_of_each)
    chosen = np.concatenate([np.sort(one_of_each), others])[:images]
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    return Views(labels[chosen].tolist(), epochs, views(data, index[chosen].tolist(), epochs))


def input_statistics(data: ShardSet) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation of each channel of normalized images; None if all shards are gone.

    Training images are preferred: they are shuffled, while held-out images may be sorted by class.
    """
    epochs = [("train", epoch) for epoch in range(data.epochs)]
    choices = [*epochs, *((split, 0) for split in ("test", "val") if split in data.splits)]
    chosen = next((choice for choice in choices if not data.missing(*choice)), None)
    if chosen is None:
        return None
    images, seen = [], 0
    for record in data.records(*chosen):
        images.append(data.normalize(record.images_NHWC).astype(np.float64))
        seen += len(record)
        if seen >= MIN_IMAGES:
            break
    normalized = np.concatenate(images)
    return normalized.mean((0, 1, 2)).tolist(), normalized.std((0, 1, 2)).tolist()
