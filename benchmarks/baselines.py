"""What prebake is measured against: augmenting on line, by torchvision's workers or on the device itself.

Both make the standard augmentation of CIFAR-10: pad 4 by reflection, crop, mirror by chance, cut out 8, normalize.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

__all__ = ["ResidentAugmenter", "online_transform", "torchvision_batches"]

SIDE, PAD, CUTOUT = 32, 4, 8
# What comes between mirroring and cutting out, by the name of a preset of ours.
BETWEEN: dict[str, Callable[[], list[Any]]] = {
    "standard": list,
    "trivial-augment-wide": lambda: [transforms.TrivialAugmentWide()],
    "rand-augment": lambda: [transforms.RandAugment()],
}


def online_transform(augment: str, mean: Sequence[float], std: Sequence[float]) -> Callable[[Any], Tensor]:
    """Return torchvision's transforms v1 for a preset: PIL image of 32x32 -> (C, 32, 32), float32, normalized."""
    transform: Callable[[Any], Tensor] = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=PAD, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            *BETWEEN[augment](),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            _cut_out,
        ]
    )
    return transform


def torchvision_batches(
    images_NHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    transform: Callable[[Any], Tensor],
    batch_size: int,
    workers: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches for ever, epoch after epoch, made by a DataLoader as its users are told to set it up.

    Workers persist, memory is pinned where the device is CUDA, a short last batch is dropped.

    Args:
        images_NHWC: uint8.
        transform: PIL image -> (C, H, W).
        batch_size: samples a batch.
        workers: processes; 0 for this one.
        device: where the batches are to lie, (N, C, H, W) in channels_last memory.
        dtype: of these.
    """
    loader = DataLoader(
        _Pictures(images_NHWC, labels_N, transform),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    while True:
        for images, labels in loader:
            there = images.to(device, non_blocking=True)
            yield there.to(dtype, memory_format=torch.channels_last), labels.to(device, non_blocking=True)


class ResidentAugmenter:
    """All images on the device, padded and normalized once; each batch is cropped, mirrored and cut out there.

    For data that fits, this is what the fastest trainings of CIFAR-10 do (KellerJordan/cifar10-airbench); here in
    its plain form, a gather a batch, written with torch's indexing.

    Args:
        images_NHWC: uint8.
        labels_N: integers.
        mean, deviation: of each channel, pixels taken as 0 to 1.
        device: where they are to lie.
        batch_size: samples a batch; a short last one is dropped.
        dtype: of the batches.
    """

    def __init__(
        self,
        images_NHWC: NDArray[np.uint8],
        labels_N: NDArray[np.int64],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        batch_size: int,
        dtype: torch.dtype,
    ) -> None:
        self._device, self._batch_size = device, batch_size
        self._height, self._width = images_NHWC.shape[1:3]
        pixels = torch.from_numpy(images_NHWC).to(device).permute(0, 3, 1, 2).float() / 255
        normalized = transforms.Normalize(mean, std)(pixels)
        padded = F.pad(normalized, (PAD, PAD, PAD, PAD), mode="reflect")
        self._padded_NHWC = padded.to(dtype).permute(0, 2, 3, 1).contiguous()
        self._labels_N = torch.from_numpy(labels_N).to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch: (N, C, H, W) in channels_last memory, normalized, and labels."""
        order = torch.randperm(len(self._labels_N), device=self._device)
        for start in range(0, len(order) - self._batch_size + 1, self._batch_size):
            chosen = order[start : start + self._batch_size]
            yield self._augmented(chosen), self._labels_N[chosen]

    def forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield epoch after epoch."""
        while True:
            yield from self

    def _augmented(self, chosen_N: Tensor) -> Tensor:
        rows_NH = self._draw(2 * PAD + 1) + torch.arange(self._height, device=self._device)
        steps = torch.arange(self._width, device=self._device)
        columns_NW = self._draw(2 * PAD + 1) + torch.where(self._draw(2) == 1, steps.flip(0), steps)
        images_NHWC = self._padded_NHWC[chosen_N[:, None, None], rows_NH[:, :, None], columns_NW[:, None, :]]
        cut_NHW = self._cut(self._height)[:, :, None] & self._cut(self._width)[:, None, :]
        return images_NHWC.masked_fill_(cut_NHW[..., None], 0).permute(0, 3, 1, 2)

    def _cut(self, size: int) -> Tensor:
        """Choose CUTOUT places in a row for each image of a batch: (N, size), bool."""
        place = torch.arange(size, device=self._device) - self._draw(size - CUTOUT + 1)
        return (place >= 0) & (place < CUTOUT)

    def _draw(self, below: int) -> Tensor:
        return torch.randint(below, (self._batch_size, 1), device=self._device)


class _Pictures(Dataset[tuple[Tensor, int]]):
    def __init__(
        self, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], transform: Callable[[Any], Tensor]
    ) -> None:
        self._images_NHWC, self._labels_N, self._transform = images_NHWC, labels_N, transform

    def __len__(self) -> int:
        return len(self._labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images_NHWC[index])), int(self._labels_N[index])


def _cut_out(image_CHW: Tensor) -> Tensor:
    y, x = torch.randint(SIDE - CUTOUT + 1, (2,)).tolist()
    image_CHW[:, y : y + CUTOUT, x : x + CUTOUT] = 0
    return image_CHW
