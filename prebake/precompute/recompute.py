"""Deriving: records made anew from source and plan, apart from how they were baked, to compare what is stored."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from prebake.format.manifest import Plan, Shard
from prebake.format.record import Frame, Layout
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import (
    AUGMENTATIONS,
    Cutout,
    Encoder,
    ViewStore,
    at_side,
    draw,
    order,
    resized,
    transform,
    transform_seeds,
)
from prebake.precompute.provenance import Provenance

__all__ = ["compare"]


def compare(
    data: ShardSet, shard: Shard, numbers: Sequence[int], provenance: Provenance, done: Callable[[Layout], None]
) -> str | None:
    """Derive records of one shard anew and compare them, every byte of each, with what is stored.

    Args:
        data: the shard set.
        shard: one whose index is there.
        numbers: of the records in this shard, ascending.
        origin: what to derive them from.
        done: called after each record.

    Returns:
        What differs in the first record that does, and in how many more; None where nothing does.
    """
    path = data.path / shard.tar
    if not path.is_file():
        return f"{path}: missing, though its index is there"
    derive = _deriver(shard, provenance, data.plan)
    keys = list(shard.records())
    frames: dict[Layout, Frame] = {}
    trouble, more = None, 0
    with path.open("rb") as file:
        for number in numbers:
            key, layout = keys[number]
            if layout not in frames:
                frames[layout] = Frame(layout)
            frame = frames[layout]
            frame.name(key)
            derive(shard.first_sample + number * shard.record_samples, frame)
            words = _difference(_stored(file, shard, number), frame)
            if words and trouble:
                more += 1
            elif words:
                trouble = f"{path}, record {key}: {words}"
            done(layout)
    return f"{trouble}; and {more} more records" if more else trouble


def _stored(file: BinaryIO, shard: Shard, number: int) -> bytes:
    # Where a record lies follows from the plan (only the last one may be shorter); the index is not asked.
    file.seek(number * shard.layouts[0].size_bytes)
    return file.read(shard.layouts[number].size_bytes)


def _deriver(shard: Shard, provenance: Provenance, plan: Plan) -> Callable[[int, Frame], None]:
    """Return what fills a record of this shard, given its first sample's position in the epoch.

    Only the images of the record at hand are prepared.
    """
    images = provenance.source.splits[shard.split]
    train = shard.split == "train"
    augmentation = AUGMENTATIONS["plain"]
    if train:
        augmentation, _ = at_side(provenance.augmentation, images.pixels.shape[1:], min(shard.image_shape[:2]))
    source, count = plan.source, len(images.labels_N)
    ordered = order(plan.seed, shard.epoch, count) if train else np.arange(count)
    drawn = draw(augmentation, plan.seed, shard.epoch, 0, count, shard.image_shape)
    seeds = transform_seeds(plan.seed, shard.epoch, count)
    computes = augmentation.transform != "none"
    encoder = Encoder(source.mean, source.std, plan.dtype)
    looked_up = Encoder(source.mean, source.std, "uint8") if computes else encoder

    def derive(first: int, frame: Frame) -> None:
        index_N = ordered[first : first + frame.layout.samples]
        choices = drawn[index_N]
        images_NHWC = resized(images.pixels[index_N], shard.image_shape)
        store = ViewStore(images_NHWC, looked_up, replace(augmentation, cutout=0))
        moved_NHWC = np.empty(frame.images_NHWC.shape, looked_up.tables.dtype)
        store.make(np.arange(len(index_N)), choices, moved_NHWC)
        frame.images_NHWC[...] = (
            encoder.encode(transform(augmentation.transform, moved_NHWC, seeds[index_N])) if computes else moved_NHWC
        )
        Cutout(augmentation.cutout, encoder.zero)(choices, frame.images_NHWC)
        frame.index_N[:] = index_N
        frame.labels_N[:] = images.labels_N[index_N]

    return derive


def _difference(stored: bytes, derived: Frame) -> str | None:
    """Say what tells a stored record from the derived one, or None where nothing does."""
    if stored == derived.extent:
        return None
    if len(stored) < len(derived.extent):
        return "the archive ends before its end"
    found, samples = Frame(derived.layout), derived.layout.samples
    found.extent[:] = stored
    members: list[tuple[str, NDArray[Any], NDArray[Any]]] = [
        ("images", found.images_NHWC, derived.images_NHWC),
        ("index", found.index_N, derived.index_N),
        ("labels", found.labels_N, derived.labels_N),
    ]
    names, differing = [], np.zeros(samples, bool)
    for name, there, anew in members:
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
