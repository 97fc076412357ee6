"""Augmenters make the records of one split: from look-ups, or through a transform."""

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prebake.errors import UsageError
from prebake.format.manifest import Plan, Shard
from prebake.format.record import Frame
from prebake.format.writer import empty_records
from prebake.precompute.augment import (
    AUGMENTATIONS,
    Augmentation,
    Cutout,
    Draw,
    Encoder,
    ViewStore,
    at_side,
    crop_and_flip,
    draw,
    order,
    transform_seeds,
)
from prebake.precompute.images import Images, Resized, SourceData
from prebake.precompute.memory import resident_bytes, usual_bytes

__all__ = [
    "Augmenter",
    "LookupAugmenter",
    "PipelineAugmenter",
    "augmentation_of",
    "augmenter_for",
    "encode_views",
]


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
    """Makes records with a transform, image by image.

    Training images are mirrored and cropped first, as uint8; then transformed; then encoded and cut out. Floats that
    the transform returns are not encoded.

    Args:
        images: of one split, in memory or in a file.
        augmentation: of this split, with a transform.
        plan: gives mean, std, dtype and seed.
    """

    def __init__(self, images: Images, augmentation: Augmentation, plan: Plan) -> None:
        assert augmentation.transform is not None  # noqa: S101 - see the arguments
        self._images, self._pipeline, self._seed = images, augmentation.transform, plan.seed
        self._floats = plan.by_pipeline
        self._geometry = replace(augmentation, transform=None, test_transform=None)
        mean, std = plan.source.mean, plan.source.std
        self._uint8, self._encoder = Encoder(mean, std, "uint8"), Encoder(mean, std, plan.dtype)
        self._cut = Cutout(augmentation.cutout, self._encoder.zero)

    def records(self, shard: Shard) -> Iterator[Frame]:
        """Yield the records of a shard in order; each frame is valid until the next step."""
        pixels, labels_N = self._images.pixels, self._images.labels_N
        train, count = shard.split == "train", len(labels_N)
        ordered, draws = _draws(train, shard.epoch, self._geometry, self._seed, shard.image_shape, count)
        seeds = transform_seeds(self._seed, shard.epoch, count)
        for first, frame in empty_records(shard):
            index_N = ordered[first : first + frame.layout.samples]
            frame.index_N[:] = index_N
            frame.labels_N[:] = labels_N[index_N]
            moved_NHWC = crop_and_flip(pixels[index_N], draws[index_N], self._geometry, self._uint8)
            columns = {"index": index_N, "label": labels_N[index_N]}
            views = self._pipeline.apply(moved_NHWC, seeds[index_N], columns)
            encode_views(views, index_N, None if self._floats else self._encoder, frame.images_NHWC)
            self._cut(draws[index_N], frame.images_NHWC)
            yield frame


def encode_views(
    views: Sequence[NDArray[Any]], index_N: NDArray[np.int64], encoder: Encoder | None, out_NHWC: NDArray[Any]
) -> None:
    """Write the results of a transform to `out_NHWC`: uint8 encoded; floats, where `encoder` is None, as they are.

    Raises:
        UsageError: a view has another shape or kind of dtype than the plan.
    """
    planned = out_NHWC.shape[1:], "uint8" if encoder else "floats"
    for view, index in zip(views, index_N.tolist(), strict=True):
        found = view.shape, "uint8" if view.dtype == np.uint8 else "floats"
        if found != planned:
            raise UsageError(
                f"--transform: expected {planned[0]} {planned[1]} for all samples, found {found[0]} {found[1]} for "
                f"sample {index}; end the transform with a resize or a crop to one size, and with one dtype"
            )
    images_NHWC = np.stack(views)
    out_NHWC[...] = encoder.encode(images_NHWC) if encoder else images_NHWC


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
    augmentation = augmentation_of(augmentation, shard.split)
    if augmentation.transform is not None:
        return PipelineAugmenter(images, augmentation, plan)
    if shard.split == "train":
        augmentation, _ = at_side(augmentation, images.pixels.shape[1:], min(shape[:2]))
    if images.pixels.shape[1:] != shape:
        images = Images(Resized(images.pixels, shape), images.labels_N)
    return LookupAugmenter(images, augmentation, plan, workers, memory)


def augmentation_of(augmentation: Augmentation, split: str) -> Augmentation:
    """Return the augmentation of a split: held-out splits have none, or only the test transform."""
    if split == "train":
        return replace(augmentation, test_transform=None)
    return replace(AUGMENTATIONS["plain"], transform=augmentation.test_transform)


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
