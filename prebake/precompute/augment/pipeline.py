"""Transform: images under a torchvision transform, each by the choices that its own seed gives.

What such a transform draws is its own business, so a draw is the seed of the generator that it draws from.
torch is imported when it is needed: most bakes do without.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prebake.precompute.augment.presets import TRANSFORMS

__all__ = ["transform"]


def transform(name: str, images_NHWC: NDArray[np.uint8], seeds_N: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the images under a transform of torchvision.transforms.v2.

    torch's own generator is left as it was.

    Args:
        name: one of `presets.TRANSFORMS`.
        images_NHWC: uint8.
        seeds_N: one for each image.
    """
    import torch

    changed = np.empty_like(images_NHWC)
    transformed = _transform(name)
    with torch.random.fork_rng(devices=[]), _one_thread():
        for i, (image_HWC, seed) in enumerate(zip(images_NHWC, seeds_N.tolist(), strict=True)):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would turn to every GPU too
            image_CHW = torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous()
            changed[i] = transformed(image_CHW).permute(1, 2, 0).numpy()
    return changed


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """An image is too small to be shared, and threads that wait for each other would take the other workers' cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _transform(name: str) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    made: Callable[[Any], Any] = getattr(v2, name.partition("(")[0])(**TRANSFORMS[name])
    return made
