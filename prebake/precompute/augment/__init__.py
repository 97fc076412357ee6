"""Augmentation: `draw` makes choices from (seed, epoch, index), `ViewStore` and `Pipeline` make views from them."""

from prebake.precompute.augment.crop_flip_cutout import Cutout, Encoder, ViewStore, crop_and_flip
from prebake.precompute.augment.draws import Draw, draw, held_out_order, order, transform_seeds
from prebake.precompute.augment.pipeline import Pipeline, Transform, torchvision_transform, user_transform
from prebake.precompute.augment.presets import (
    AUGMENTATIONS,
    FLIPS,
    PAD_MODES,
    Augmentation,
    augmentation_for,
)
from prebake.precompute.augment.resize import at_side, resized, sides

__all__ = [
    "AUGMENTATIONS",
    "FLIPS",
    "PAD_MODES",
    "Augmentation",
    "Cutout",
    "Draw",
    "Encoder",
    "Pipeline",
    "Transform",
    "ViewStore",
    "at_side",
    "augmentation_for",
    "crop_and_flip",
    "draw",
    "held_out_order",
    "order",
    "resized",
    "sides",
    "torchvision_transform",
    "transform_seeds",
    "user_transform",
]
