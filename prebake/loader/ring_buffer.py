"""The ring buffer of a stream: staging memory for a few batches, which is reused."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prebake.errors import MachineError
from prebake.format.columns import standard_columns
from prebake.format.record import samples_per_record

__all__ = ["RingSlot", "allocate_ring", "ring_slots"]

# The ring holds this many samples more than one record needs. The reader fills them while the consumer sleeps.
RING_SAMPLES = 1024
# Limit on the memory of these samples.
RING_BYTES = 64 * 1024 * 1024


class RingSlot:
    """Staging memory for one batch.

    Args:
        images_NHWC: memory for the pixels, in the stored dtype.
        columns: memory for the other columns, in the order of the batch.

    Attributes:
        pixels: byte view of the images.
        arrays: NumPy views of the other columns, by name.
        size: number of samples in the batch.
    """

    def __init__(self, images_NHWC: Tensor, columns: Mapping[str, Tensor]) -> None:
        self._tensors = (images_NHWC, *columns.values())
        self.pixels = images_NHWC.numpy().data.cast("B")
        self.arrays: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in columns.items()}
        self.size = 0

    def batch(self) -> tuple[Tensor, ...]:
        """Return the images and the other columns of the batch: views of this memory."""
        if self.size == len(self._tensors[0]):
            return self._tensors
        return tuple(tensor[: self.size] for tensor in self._tensors)


def ring_slots(image_shape: tuple[int, int, int], dtype: str, batch_size: int) -> int:
    """Return the number of batches in the ring.

    A record is read whole. So the ring holds all batches that one record can overlap, one more for the consumer, and
    one more to fill. Small batches get more slots, as the constants above say.
    """
    touched = (samples_per_record(standard_columns(image_shape, dtype)) + batch_size - 2) // batch_size + 1
    batch_bytes = batch_size * math.prod(image_shape) * np.dtype(dtype).itemsize
    return max(4, touched + 2, 3 + min(RING_SAMPLES // batch_size, RING_BYTES // batch_bytes))


def allocate_ring(
    image_shape: tuple[int, int, int],
    dtype: str,
    batch_size: int,
    columns: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    *,
    pin: bool,
) -> list[RingSlot]:
    """Allocate the slots of a ring.

    Args:
        image_shape: (H, W, C).
        dtype: dtype of the stored pixels.
        batch_size: samples per batch.
        columns: dtype and shape per sample of the other columns, by name.
        pin: use page-locked memory, from which CUDA copies asynchronously.

    Raises:
        MachineError: not enough memory.
    """
    slots = ring_slots(image_shape, dtype, batch_size)

    def allocate(kind: torch.dtype, shape: Sequence[int]) -> Tensor:
        return torch.empty((slots, batch_size, *shape), dtype=kind, pin_memory=pin)

    try:
        images = allocate(getattr(torch, dtype), image_shape)
        others = {name: allocate(kind, shape) for name, (kind, shape) in columns.items()}
    except RuntimeError as error:
        raise MachineError(f"no memory for {slots} batches of {batch_size} samples ({error})") from None
    return [RingSlot(images[i], {name: tensor[i] for name, tensor in others.items()}) for i in range(slots)]
