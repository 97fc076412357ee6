"""Slots: the staging memory of a stream, a ring of batches."""

import math

import numpy as np
from torch import Tensor

from prebake.format.record import samples_per_record

__all__ = ["RingSlot", "ring_slots"]

# What lasts while a consumer sleeps, in samples, where that is not too much memory.
RING_SAMPLES = 1024
RING_BYTES = 64 * 1024 * 1024


class RingSlot:
    """One batch's worth of staging memory, and byte views to read into; `size` samples are to fill it.

    Attributes:
        dropped: whether nobody is to have the batch, since it is an epoch's last and short.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images_NHWC, self.labels_N = images, labels
        self.pixels = images.numpy().data.cast("B")
        self.labels = labels.numpy()
        self.size = self.filled = 0
        self.dropped = False

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images and labels, as many as there are; views of this memory."""
        if self.size == len(self.labels):
            return self.images_NHWC, self.labels_N
        return self.images_NHWC[: self.size], self.labels_N[: self.size]


def ring_slots(image_shape: tuple[int, int, int], dtype: str, batch_size: int) -> int:
    """Return how many batches the ring holds.

    A record is read whole, so it must take all the batches that one may touch, and two more: one in the
    consumer's hands and one to go on with. Small batches need more, to last while the consumer sleeps.
    """
    touched = (samples_per_record(image_shape, dtype) + batch_size - 2) // batch_size + 1
    batch_bytes = batch_size * math.prod(image_shape) * np.dtype(dtype).itemsize
    return max(4, touched + 2, 3 + min(RING_SAMPLES // batch_size, RING_BYTES // batch_bytes))
