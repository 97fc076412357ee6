"""Augmentation: presets (what), draw (seed, epoch, index -> choices), apply (choices -> variants)."""

from precompute.augment.apply import Encoder, VariantStore
from precompute.augment.draw import Draw, draw, held_out_order, order
from precompute.augment.presets import AUGMENTATIONS, FLIPS, PAD_MODES, Augmentation, augmentation_for

__all__ = [
    "AUGMENTATIONS",
    "FLIPS",
    "PAD_MODES",
    "Augmentation",
    "Draw",
    "Encoder",
    "VariantStore",
    "augmentation_for",
    "draw",
    "held_out_order",
    "order",
]
