"""Recompute records from source and plan, record by record, and compare them with the stored ones.

This shares draws and kernels with the bake, but not its order of work, its caches or its store of all images.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from prebake.format.manifest import Plan, Shard
from prebake.format.record import Frame, Layout
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import (
    Cutout,
    Encoder,
    ViewStore,
    at_side,
    crop_and_flip,
    draw,
    order,
    resized,
    transform_seeds,
)
from prebake.precompute.augmenters import augmentation_of, encode_views
from prebake.precompute.provenance import Provenance

__all__ = ["compare"]


def compare(
    data: ShardSet, shard: Shard, numbers: Sequence[int], provenance: Provenance, stopped: threading.Event
) -> str | None:
    """Recompute records of one shard and compare every byte of each with the stored ones.

    Args:
        data: the shard set.
        shard: one whose index exists.
        numbers: of the records in this shard, ascending.
        provenance: source and augmentation.
        stopped: ends the work between two records.

    Returns:
        The difference in the first record that differs, and the number of other records that do; None if none does.

    Raises:
        CancelledError: `stopped` is set.
    """
    path = data.path / shard.tar
    if not path.is_file():
        return f"{path}: missing, though its index is there"
    fill = _recompute(shard, provenance, data.plan)
    keys = list(shard.records())
    frames: dict[Layout, Frame] = {}
    differences = []
    with path.open("rb") as file:
        for number in numbers:
            if stopped.is_set():
                raise CancelledError
            key, layout = keys[number]
            if layout not in frames:
                frames[layout] = Frame(layout)
            frame = frames[layout]
            frame.name(key)
            fill(shard.first_sample + number * shard.record_samples, frame)
            difference = _difference(_stored(file, shard, number), frame)
            if difference:
                differences.append(f"{path}, record {key}: {difference}")
    if len(differences) > 1:
        return f"{differences[0]}; and {len(differences) - 1} more records"
    return differences[0] if differences else None


def _stored(file: BinaryIO, shard: Shard, number: int) -> bytes:
    # The plan gives the position of a record: only the last one may be shorter. The index is not used.
    file.seek(number * shard.layouts[0].size_bytes)
    return file.read(shard.layouts[number].size_bytes)


def _recompute(shard: Shard, provenance: Provenance, plan: Plan) -> Callable[[int, Frame], None]:
    """Return a function that fills the record that begins with a given sample of the epoch."""
    images = provenance.source.splits[shard.split]
    train = shard.split == "train"
    augmentation = augmentation_of(provenance.augmentation, shard.split)
    pipeline = augmentation.transform
    if train and pipeline is None:
        augmentation, _ = at_side(augmentation, images.pixels.shape[1:], min(shard.image_shape[:2]))
    source, count = plan.source, len(images.labels_N)
    ordered = order(plan.seed, shard.epoch, count) if train else np.arange(count)
    drawn = draw(augmentation, plan.seed, shard.epoch, 0, count, shard.image_shape)
    seeds = transform_seeds(plan.seed, shard.epoch, count)
    encoder = Encoder(source.mean, source.std, plan.dtype)
    uint8 = Encoder(source.mean, source.std, "uint8")

    def fill(first: int, frame: Frame) -> None:
        index_N = ordered[first : first + frame.layout.samples]
        choices, images_NHWC = drawn[index_N], images.pixels[index_N]
        if pipeline is None:
            store = ViewStore(resized(images_NHWC, shard.image_shape), encoder, augmentation)
            store.make(np.arange(len(index_N)), choices, frame.images_NHWC)
        else:
            columns = {"index": index_N, "label": images.labels_N[index_N]}
            moved_NHWC = crop_and_flip(images_NHWC, choices, augmentation, uint8)
            views = pipeline.apply(moved_NHWC, seeds[index_N], columns)
            encode_views(views, index_N, None if plan.by_pipeline else encoder, frame.images_NHWC)
            Cutout(augmentation.cutout, encoder.zero)(choices, frame.images_NHWC)
        frame.index_N[:] = index_N
        frame.labels_N[:] = images.labels_N[index_N]

    return fill


def _difference(stored: bytes, derived: Frame) -> str | None:
    """Describe the difference between a stored record and the recomputed one; None if there is none."""
    if stored == derived.extent:
        return None
    if len(stored) < len(derived.extent):
        return "the archive is too short"
    found, samples = Frame(derived.layout), derived.layout.samples
    found.extent[:] = stored
    names, differing = [], np.zeros(samples, bool)
    for name, anew in derived.columns.items():
        there = found.columns[name]
        unequal = (_bytes(there, samples) != _bytes(anew, samples)).any(1)
        if unequal.any():
            names.append(name)
            differing |= unequal
        there[...] = anew
    if found.extent != derived.extent:
        names.append("headers or padding")
    words = f"{' and '.join(names)} differ from what source and plan give"
    if not differing.any():
        return words
    first = int(differing.argmax())
    return (
        f"{words} in {differing.sum()} of {samples} samples, first in sample {first} "
        f"(source index {derived.index_N[first]})"
    )


def _bytes(array: NDArray[Any], samples: int) -> NDArray[np.uint8]:
    return array.reshape(samples, -1).view(np.uint8)
