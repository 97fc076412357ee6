"""Compute every augmented view of a data set once, then stream it to the accelerator.

Names are imported when they are first used: `import prebake` loads neither torch nor NumPy.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prebake.errors import DataError, DivergedError, MachineError, PrebakeError, UsageError
    from prebake.loader.loader import Loader
    from prebake.loader.shard_set import ShardSet
    from prebake.precompute.audit import audit
    from prebake.precompute.augment import Augmentation, Transform, augmentation_for
    from prebake.precompute.bake import bake
    from prebake.train.fit import fit

__version__ = "0.2.0"

_MODULES = {
    "Augmentation": "prebake.precompute.augment",
    "DataError": "prebake.errors",
    "DivergedError": "prebake.errors",
    "Loader": "prebake.loader.loader",
    "MachineError": "prebake.errors",
    "PrebakeError": "prebake.errors",
    "ShardSet": "prebake.loader.shard_set",
    "Transform": "prebake.precompute.augment",
    "UsageError": "prebake.errors",
    "audit": "prebake.precompute.audit",
    "augmentation_for": "prebake.precompute.augment",
    "bake": "prebake.precompute.bake",
    "fit": "prebake.train.fit",
}

__all__ = [
    "Augmentation",
    "DataError",
    "DivergedError",
    "Loader",
    "MachineError",
    "PrebakeError",
    "ShardSet",
    "Transform",
    "UsageError",
    "audit",
    "augmentation_for",
    "bake",
    "fit",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'prebake' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
