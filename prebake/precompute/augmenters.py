"""Augmenters make the records of one split: from look-ups, or through a transform."""

import functools
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prebake.format.manifest import Plan, Shard
from prebake.format.record import Frame
from prebake.format.writer import empty_records
from prebake.precompute.augment import (
    Augmentation,
    Cutout,
    Draw,
    Encoder,
    ViewStore,
    at_side,
    augmentation_for,
    draw,
    order,
    transform,
    transform_seeds,
)
from prebake.precompute.images import Images, Resized, SourceData
from prebake.precompute.memory import resident_bytes, usual_bytes

__all__ = ["Augmenter", "LookupAugmenter", "PipelineAugmenter", "augmenter_for"]


class Augmenter(Protocol):
    """Makes the records of the shards of one split and image size."""

    def records(self, shard: Shard) -> Iterator[Frame]:
        """Yield the records of a shard in order; each frame is valid until the next step."""


class LookupAugmenter:
    """Makes records by copying rows of padded images.

    If memory allows, one store of all padded images is made first, which all threads share. Otherwise the images of
    each record are padded when they are needed. The bytes are the same.

    Args:
        images: of one split.
        augmentation: without a transform.
        plan: gives mean, std, dtype and seed.
        workers: threads that make the store; by default one per core.
        memory: bytes that this process may use, including what it uses already; by default half of the machine's.
    """

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        plan: Plan,
        workers: int | None = None,
        memory: int | None = None,
    ) -> None:
        self._labels_N, self._pixels = images.labels_N, images.pixels
        self._shape = images.pixels.shape[1:]
        self._encoder = Encoder(plan.source.mean, plan.source.std, plan.dtype)
        self._augmentation, self._seed = augmentation, plan.seed
        needed = ViewStore.size_bytes(images.pixels.shape, self._encoder, augmentation)
        fits = resident_bytes() + needed <= (usual_bytes() if memory is None else memory)
        self._store = ViewStore(images.pixels, self._encoder, augmentation, workers) if fits else None

    def records(self, shard: Shard) -> Iterator[Frame]:
        """Yield the records of a shard in order; each frame is valid until the next step."""
        train, count = shard.split == "train", len(self._labels_N)
        ordered, draws = _draws(train, shard.epoch, self._augmentation, self._seed, self._shape, count)
        for first, frame in empty_records(shard):
            index_N = ordered[first : first + frame.layout.samples]
            frame.index_N[:] = index_N
            frame.labels_N[:] = self._labels_N[index_N]
            store, at_N = self._store, index_N
            if store is None:
                store = ViewStore(self._pixels[index_N], self._encoder, self._augmentation)
                at_N = np.arange(len(index_N))
            store.make(at_N, draws[index_N], frame.images_NHWC)
            yield frame


class PipelineAugmenter:
    """Makes records with a transform that computes, image by image.

    Crop and flip come first, then the transform, on uint8 pixels; then the pixels are encoded and cut out.

    Args:
        images: of the split, in memory or in a file.
        augmentation: one with a transform.
        plan: for its source, encoding and seed.
    """

    def __init__(self, images: Images, augmentation: Augmentation, plan: Plan) -> None:
        self._images = images
        self._augmentation, self._seed = augmentation, plan.seed
        source = plan.source
        self._uint8 = Encoder(source.mean, source.std, "uint8")
        self._encoder = Encoder(source.mean, source.std, plan.dtype)
        self._cut = Cutout(augmentation.cutout, self._encoder.zero)

    def records(self, shard: Shard) -> Iterator[Frame]:
        """Yield the records of a shard in order; each frame is valid until the next step."""
        pixels, labels_N = self._images.pixels, self._images.labels_N
        count, shape = len(pixels), pixels.shape[1:]
        ordered, draws = _draws(True, shard.epoch, self._augmentation, self._seed, shape, count)
        seeds = transform_seeds(self._seed, shard.epoch, count)
        for first, frame in empty_records(shard):
            index_N = ordered[first : first + frame.layout.samples]
            drawn = draws[index_N]
            moved_NHWC = self._move(pixels[index_N], drawn)
            changed_NHWC = transform(self._augmentation.transform, moved_NHWC, seeds[index_N])
            frame.images_NHWC[:] = self._encoder.encode(changed_NHWC)
            self._cut(drawn, frame.images_NHWC)
            frame.index_N[:] = index_N
            frame.labels_N[:] = labels_N[index_N]
            yield frame

    def _move(self, images_NHWC: NDArray[np.uint8], drawn: Draw) -> NDArray[np.uint8]:
        moved_NHWC = np.empty_like(images_NHWC)
        store = ViewStore(images_NHWC, self._uint8, replace(self._augmentation, cutout=0))
        store.make(np.arange(len(images_NHWC)), drawn, moved_NHWC)
        return moved_NHWC


def augmenter_for(
    source: SourceData,
    augmentation: Augmentation,
    plan: Plan,
    shard: Shard,
    workers: int | None = None,
    memory: int | None = None,
) -> Augmenter:
    """Return the augmenter of all shards with this shard's split and image size.

    `workers` and `memory` are those of `LookupAugmenter`.
    """
    images, shape = source.splits[shard.split], shard.image_shape
    if shard.split == "train" and augmentation.transform != "none":
        return PipelineAugmenter(images, augmentation, plan)
    if shard.split == "train":
        augmentation, _ = at_side(augmentation, images.pixels.shape[1:], min(shape[:2]))
    else:
        augmentation = augmentation_for("plain")
    if images.pixels.shape[1:] != shape:
        images = Images(Resized(images.pixels, shape), images.labels_N)
    return LookupAugmenter(images, augmentation, plan, workers, memory)


_drawing = threading.Lock()  # threads begin an epoch at the same time; one of them draws for all


def _draws(
    train: bool, epoch: int, augmentation: Augmentation, seed: int, shape: tuple[int, ...], count: int
) -> tuple[NDArray[np.int64], Draw]:
    """Return the epoch's order, and the draws of all source indices; held-out splits keep the order of the source."""
    with _drawing:
        return _drawn(train, epoch, augmentation, seed, shape, count)


@functools.lru_cache(maxsize=2)  # an epoch has many shards, and the workers are in two epochs at most
def _drawn(
    train: bool, epoch: int, augmentation: Augmentation, seed: int, shape: tuple[int, ...], count: int
) -> tuple[NDArray[np.int64], Draw]:
    ordered = order(seed, epoch, count) if train else np.arange(count)
    height, width, channels = shape
    return ordered, draw(augmentation, seed, epoch, 0, count, (height, width, channels))
