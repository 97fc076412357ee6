"""Baking: images -> variants -> shards."""

from precompute.augment import Augmentation, augmentation_for
from precompute.bake import bake

__all__ = ["Augmentation", "augmentation_for", "bake"]
