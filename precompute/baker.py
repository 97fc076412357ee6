"""Bakers: what fills the records of one split."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from precompute.augment import (
    Augmentation,
    Cutout,
    Draw,
    Encoder,
    VariantStore,
    at_side,
    augmentation_for,
    draw,
    order,
    resized,
    transform,
    transform_seeds,
)
from precompute.sources import Images, SourceData
from shards.plan import Plan, Shard
from shards.record import Frame

__all__ = ["Baker", "Fill", "TransformBaker", "baker_for"]

Fill = Callable[[int, Frame], None]  # fills a record, given its first sample's position in the epoch


class Baker:
    """Makes records by look-ups alone; its images are prepared once and shared by all threads."""

    def __init__(self, images: Images, augmentation: Augmentation, plan: Plan, workers: int | None = None) -> None:
        self._labels_N = images.labels_N
        self._shape = images.images_NHWC.shape[1:]
        encoder = Encoder(plan.source.mean, plan.source.deviation, plan.encoding)
        self._store = VariantStore(images.images_NHWC, encoder, augmentation, workers)
        self._augmentation, self._seed = augmentation, plan.seed

    def filler(self, shard: Shard) -> Fill:
        """Return what fills this shard's records."""
        ordered, draws = _draws(shard, self._augmentation, self._seed, self._shape, len(self._labels_N))

        def fill(first: int, frame: Frame) -> None:
            index_N = ordered[first : first + frame.layout.samples]
            self._store.make(index_N, draws[index_N], frame.images_NHWC)
            frame.index_N[:] = index_N
            frame.labels_N[:] = self._labels_N[index_N]

        return fill


class TransformBaker:
    """Makes records with a transform that computes, image by image.

    Crop and flip come first, then the transform, on uint8 pixels; then the pixels are encoded and cut out.

    Args:
        images: of the split, in memory or mapped from files.
        augmentation: one with a transform.
        plan: for its source, encoding and seed.
    """

    def __init__(self, images: Images, augmentation: Augmentation, plan: Plan) -> None:
        self._images = images
        self._augmentation, self._seed = augmentation, plan.seed
        source = plan.source
        self._uint8 = Encoder(source.mean, source.deviation, "uint8")
        self._encoder = Encoder(source.mean, source.deviation, plan.encoding)
        self._cut = Cutout(augmentation.cutout, self._encoder.zero)

    def filler(self, shard: Shard) -> Fill:
        """Return what fills this shard's records."""
        images_NHWC, labels_N = self._images.images_NHWC, self._images.labels_N
        count = len(images_NHWC)
        ordered, draws = _draws(shard, self._augmentation, self._seed, images_NHWC.shape[1:], count)
        seeds = transform_seeds(self._seed, shard.epoch, count)

        def fill(first: int, frame: Frame) -> None:
            index_N = ordered[first : first + frame.layout.samples]
            drawn = draws[index_N]
            moved_NHWC = self._move(images_NHWC[index_N], drawn)
            changed_NHWC = transform(self._augmentation.transform, moved_NHWC, seeds[index_N])
            frame.images_NHWC[:] = self._encoder.encode(changed_NHWC)
            self._cut(drawn, frame.images_NHWC)
            frame.index_N[:] = index_N
            frame.labels_N[:] = labels_N[index_N]

        return fill

    def _move(self, images_NHWC: NDArray[np.uint8], drawn: Draw) -> NDArray[np.uint8]:
        moved_NHWC = np.empty_like(images_NHWC)
        store = VariantStore(images_NHWC, self._uint8, replace(self._augmentation, cutout=0))
        store.make(np.arange(len(images_NHWC)), drawn, moved_NHWC)
        return moved_NHWC


def baker_for(
    source: SourceData, augmentation: Augmentation, plan: Plan, shard: Shard, workers: int | None = None
) -> Baker | TransformBaker:
    """Return what bakes a shard, and all others of its split and image size; `workers` are threads that prepare it."""
    images, shape = source.splits[shard.split], shard.image_shape
    if shard.split == "train" and augmentation.transform != "none":
        return TransformBaker(images, augmentation, plan)
    if shard.split == "train":
        augmentation, _ = at_side(augmentation, images.images_NHWC.shape[1:], min(shape[:2]))
    else:
        augmentation = augmentation_for(source.name, "plain")
    return Baker(Images(resized(images.images_NHWC, shape), images.labels_N), augmentation, plan, workers)


def _draws(
    shard: Shard, augmentation: Augmentation, seed: int, shape: tuple[int, ...], count: int
) -> tuple[NDArray[np.int64], Draw]:
    """Return the epoch's order, and the draw of every source index; held-out splits keep their order."""
    ordered = order(seed, shard.epoch, count) if shard.split == "train" else np.arange(count)
    height, width, channels = shape
    return ordered, draw(augmentation, seed, shard.epoch, 0, count, (height, width, channels))
