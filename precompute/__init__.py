"""Baking: images -> variants -> shards."""

from precompute.audit import audit
from precompute.augment import Augmentation, augmentation_for
from precompute.bake import bake

__all__ = ["Augmentation", "audit", "augmentation_for", "bake"]
