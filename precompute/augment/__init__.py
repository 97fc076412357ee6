"""Augmentation: presets (what), draw (seed, epoch, index -> choices), apply and transform (choices -> variants)."""

from precompute.augment.apply import Cutout, Encoder, VariantStore
from precompute.augment.draw import Draw, draw, held_out_order, order, transform_seeds
from precompute.augment.presets import (
    AUGMENTATIONS,
    BY_RECIPE,
    FLIPS,
    PAD_MODES,
    PLANS,
    Augmentation,
    augmentation_for,
    in_proportion,
)
from precompute.augment.resize import at_side, resized, sides
from precompute.augment.transform import transform

__all__ = [
    "AUGMENTATIONS",
    "BY_RECIPE",
    "FLIPS",
    "PAD_MODES",
    "PLANS",
    "Augmentation",
    "Cutout",
    "Draw",
    "Encoder",
    "VariantStore",
    "at_side",
    "augmentation_for",
    "draw",
    "held_out_order",
    "in_proportion",
    "order",
    "resized",
    "sides",
    "transform",
    "transform_seeds",
]
