"""python -m benchmarks.augment: how fast are views made on one core, into a reused record buffer?

Pad 4 by reflection, crop 32, flip, cutout 8, normalize; CIFAR-10. Beside them: torchvision's transforms
on PIL images, one by one, and `np.take` of whole images in the same order, the limit of any gather.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import held_to, interleaved, machine, report
from prebake.cli.run import run_command
from prebake.precompute.augment import Encoder, ViewStore, augmentation_for, draw, order
from prebake.precompute.images import channel_statistics
from prebake.precompute.sources import load

RECORD = 128
SLOW_IMAGES = 3000
TORCHVISION = "torchvision v1 on PIL, per sample"
GOALS = (
    ("prebake, uint8", TORCHVISION, "at least 100"),
    ("prebake, uint8", "np.take of whole images, uint8", "at least 0.35"),
    ("prebake, float16", TORCHVISION, "at least 70"),
    ("prebake, float16", "np.take of whole images, float16", "at least 0.35"),
)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.augment", description=__doc__)
    options.add_argument("--data-dir", type=Path, default=Path("data"), help="torchvision root; default data")
    options.add_argument("--repetitions", type=int, default=5, help="rounds that count; default 5")
    options.add_argument("--json", action="store_true", help="print JSON")
    arguments = options.parse_args()
    about = machine("numpy", "torch", "torchvision", "pillow")
    torch.set_num_threads(1)
    images = load("cifar10", arguments.data_dir).splits["train"].images_NHWC
    mean, std = channel_statistics(images)
    contestants: dict[str, Callable[[], int]] = {}
    for dtype in ("uint8", "float16"):
        encoder = Encoder(mean, std, dtype)
        contestants[f"prebake, {dtype}"] = _ours(images, encoder)
        contestants[f"np.take of whole images, {dtype}"] = _take(encoder.encode(images))
    contestants[TORCHVISION] = _torchvision(images[:SLOW_IMAGES], mean, std)
    rates = interleaved(contestants, arguments.repetitions)
    report("augment", rates, TORCHVISION, about, as_json=arguments.json, facts=held_to(GOALS, rates))


def _ours(images_NHWC: NDArray[np.uint8], encoder: Encoder) -> Callable[[], int]:
    augmentation = augmentation_for()
    store = ViewStore(images_NHWC, encoder, augmentation)
    shape: tuple[int, ...] = images_NHWC.shape
    out = np.empty((RECORD, *shape[1:]), encoder.tables.dtype)
    epoch = iter(range(10**9))

    def work() -> int:
        number = next(epoch)
        ordered = order(0, number, shape[0])
        draws = draw(augmentation, 0, number, 0, shape[0], (shape[1], shape[2], shape[3]))
        for start in range(0, shape[0] - RECORD + 1, RECORD):
            index = ordered[start : start + RECORD]
            store.make(index, draws[index], out)
        return shape[0] // RECORD * RECORD

    return work


def _take(encoded_NHWC: NDArray[Any]) -> Callable[[], int]:
    out = np.empty((RECORD, *encoded_NHWC.shape[1:]), encoded_NHWC.dtype)
    count = len(encoded_NHWC)
    epoch = iter(range(10**9))

    def work() -> int:
        ordered = order(0, next(epoch), count)
        for start in range(0, count - RECORD + 1, RECORD):
            np.take(encoded_NHWC, ordered[start : start + RECORD], axis=0, out=out, mode="clip")
        return count // RECORD * RECORD

    return work


def _torchvision(images_NHWC: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[], int]:
    from PIL import Image
    from torchvision import transforms

    def cutout(image: torch.Tensor) -> torch.Tensor:
        y, x = torch.randint(25, (2,)).tolist()
        image[:, y : y + 8, x : x + 8] = 0
        return image

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            transforms.Lambda(cutout),
        ]
    )

    def work() -> int:
        for image in images_NHWC:
            transform(Image.fromarray(image))
        return len(images_NHWC)

    return work


if __name__ == "__main__":
    run_command(main)
