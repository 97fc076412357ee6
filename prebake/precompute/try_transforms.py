"""Try a transform before a bake: find the shape of its views, and refuse one that depends on more than its seed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.errors import UsageError
from prebake.precompute.augment import Augmentation, Encoder, crop_and_flip, draw, transform_seeds
from prebake.precompute.augmenters import augmentation_of
from prebake.precompute.images import Images, SourceData

__all__ = ["try_transforms"]

TRIED = 8  # images


def try_transforms(
    source: SourceData,
    augmentation: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: str,
    seed: int,
) -> tuple[tuple[int, int, int], bool]:
    """Make a few views of each split twice.

    Returns:
        The shape (height, width, channels) of a view, and whether the views are floats. Without a transform, the shape
        is that of the images.

    Raises:
        UsageError: two views of one sample differ, the shapes or dtypes differ, or the plan cannot store them.
    """
    _, *own = source.splits["train"].pixels.shape
    if augmentation.transform is None:
        return (own[0], own[1], own[2]), False
    augmentation.check(own[0], own[1], cutout=False)
    encoder = Encoder(tuple(mean), tuple(std), "uint8")
    views = _views_twice(source.splits["train"], augmentation_of(augmentation, "train"), encoder, seed)
    shape, floats = (*views[0].shape[:2], views[0].shape[2]), views[0].dtype != np.uint8
    augmentation.check(shape[0], shape[1], pad=False)
    if floats and dtype == "uint8":
        raise UsageError("--dtype uint8: the transform returns floats; take float16 or float32")
    if shape[2] != own[2]:
        raise UsageError(
            f"{augmentation.transform.name}: returns {shape[2]} channels, and the images have {own[2]}; keep the number"
        )
    for split, images in source.splits.items():
        held_out = augmentation_of(augmentation, split)
        if split == "train":
            continue
        if held_out.transform is not None:
            views = _views_twice(images, held_out, encoder, seed)
        elif floats:
            raise UsageError(
                f"{augmentation.transform.name}: returns floats, which only it can make of the {split} images, too; "
                "name the transform for them with --test-transform (test_transform=)"
            )
        if (views[0].shape, views[0].dtype != np.uint8) != (shape, floats):
            raise UsageError(
                f"{held_out.transform.name if held_out.transform else split}: expected {shape} "
                f"{'floats' if floats else 'uint8'}, as the transform of train returns them, "
                f"found {views[0].shape} {views[0].dtype}"
            )
    return shape, floats


def _views_twice(images: Images, augmentation: Augmentation, encoder: Encoder, seed: int) -> list[NDArray[Any]]:
    """Make the views of some images in epoch 0, then again in reverse order, and compare them."""
    assert augmentation.transform is not None  # noqa: S101 - the callers have checked it
    pipeline = augmentation.transform
    index_N = np.arange(min(TRIED, len(images.labels_N)))
    height, width, channels = images.pixels.shape[1:]
    geometry = replace(augmentation, cutout=0)
    drawn = draw(geometry, seed, 0, 0, len(index_N), (height, width, channels))
    seeds = transform_seeds(seed, 0, len(index_N))
    made = []
    for chosen in (index_N, index_N[::-1]):
        moved_NHWC = crop_and_flip(images.pixels[chosen], drawn[chosen], geometry, encoder)
        columns = {"index": chosen, "label": images.labels_N[chosen]}
        made.append(pipeline.apply(moved_NHWC, seeds[chosen], columns))
    for index, (view, again) in enumerate(zip(made[0], made[1][::-1], strict=True)):
        if view.shape != again.shape or view.dtype != again.dtype or view.tobytes() != again.tobytes():
            raise UsageError(
                f"{pipeline.name} made two different views of sample {index} from one "
                "seed. Its randomness must come from random, numpy.random or torch, or it needs set_random_seed(seed); "
                "and it must keep no state between two calls"
            )
        if view.shape != made[0][0].shape or view.dtype != made[0][0].dtype:
            raise UsageError(
                f"{pipeline.name}: expected views of one shape and dtype, found {made[0][0].shape} "
                f"{made[0][0].dtype} for sample 0, and {view.shape} {view.dtype} for sample {index}"
            )
    return made[0]
