"""Augmentation: presets (what), draw (seed, epoch, index -> choices), apply and transform (choices -> views)."""

from prebake.precompute.augment.crop_flip_cutout import Cutout, Encoder, ViewStore
from prebake.precompute.augment.draw import Draw, draw, held_out_order, order, transform_seeds
from prebake.precompute.augment.pipeline import transform
from prebake.precompute.augment.presets import (
    AUGMENTATIONS,
    BY_RECIPE,
    FLIPS,
    PAD_MODES,
    Augmentation,
    augmentation_for,
)
from prebake.precompute.augment.resize import at_side, resized, sides

__all__ = [
    "AUGMENTATIONS",
    "BY_RECIPE",
    "FLIPS",
    "PAD_MODES",
    "Augmentation",
    "Cutout",
    "Draw",
    "Encoder",
    "ViewStore",
    "at_side",
    "augmentation_for",
    "draw",
    "held_out_order",
    "order",
    "resized",
    "sides",
    "transform",
    "transform_seeds",
]
