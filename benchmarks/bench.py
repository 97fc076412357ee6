"""What `benchmarks.gpu` and `benchmarks.break_even` share: sizes, and steps fed in different ways in turn."""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines import ResidentAugmenter, online_transform, torchvision_batches
from prebake.console import log
from prebake.loader.data_wait import DataWaitMeter
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.precompute.images import Images
from prebake.precompute.sources import load
from prebake.train.device import PRECISIONS, choose_precision, synchronize
from prebake.train.recipes import recipe_for
from prebake.train.state import Settings
from prebake.train.trainer import Trainer

__all__ = ["FULL", "QUICK", "Batches", "Bench", "Size", "rates_of_steps"]

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        epochs: of a run, and baked.
        batch_size: samples a batch.
        steps: of one contestant in one round.
        settling: untimed steps before them, which take what workers have made while others were measured.
        rounds: that count; one more comes first.
        workers: processes of torchvision's contestants.
    """

    epochs: int
    batch_size: int
    steps: int
    settling: int
    rounds: int
    workers: tuple[int, ...]


FULL = Size(epochs=25, batch_size=512, steps=97, settling=36, rounds=5, workers=(2, 16))
QUICK = Size(epochs=2, batch_size=32, steps=2, settling=1, rounds=1, workers=(1,))


@dataclass(frozen=True)
class Bench:
    """Where things are, and what is made of them.

    Attributes:
        data_dir: torchvision root.
        work_dir: holds a shard set for each encoding.
        device: that is asked.
        deadline: on the monotonic clock; no stage begins later.
        quick: a few steps on noise.
    """

    data_dir: Path
    work_dir: Path
    device: torch.device
    deadline: float
    quick: bool

    @property
    def size(self) -> Size:
        """How much is done."""
        return QUICK if self.quick else FULL

    @property
    def dtype(self) -> torch.dtype:
        """Of the batches."""
        return PRECISIONS[choose_precision("auto", self.device)]

    @functools.cached_property
    def images(self) -> dict[str, Images]:
        """CIFAR-10's splits; noise of its shape where it is to be quick."""
        if not self.quick:
            return load("cifar10", self.data_dir).splits
        rng = np.random.default_rng(0)
        counts = {"train": 96, "test": 40}
        return {
            split: Images(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count))
            for split, count in counts.items()
        }

    def data(self, dtype: str) -> ShardSet:
        """Open the shards of an encoding."""
        return ShardSet(self.work_dir / dtype)

    def trainer(self, recipe: str, *, compiled: bool) -> Trainer:
        """Return a trainer of DavidNet on the float16 shards, seed 0."""
        rate = 0.01 if self.quick else None  # noise in small batches diverges at the recipe's own
        chosen = recipe_for(recipe, epochs=self.size.epochs, batch_size=self.size.batch_size, peak_lr=rate)
        precision = choose_precision("auto", self.device)
        return Trainer(self.data("float16"), Settings(chosen, 0, str(self.device), precision, compiled))

    def from_shards(self, dtype: str, streams: contextlib.ExitStack, waits: DataWaitMeter | None = None) -> Batches:
        """Yield the batches that `rates_of_steps` asks for; the stack closes their loader."""
        loader = Loader(
            self.data(dtype),
            batch_size=self.size.batch_size,
            device=self.device,
            dtype=self.dtype,
            drop_last=True,
            replay=True,
            reuse_buffers=True,
            data_wait=waits,
        )
        return itertools.chain.from_iterable(itertools.repeat(streams.enter_context(loader)))

    def on_device(self) -> ResidentAugmenter:
        """Return the images on the device, to be augmented there."""
        images, source = self.images["train"], self.data("float16").plan.source
        return ResidentAugmenter(
            images.images_NHWC,
            images.labels_N,
            source.mean,
            source.std,
            self.device,
            self.size.batch_size,
            self.dtype,
        )

    def on_line(self) -> dict[str, Batches]:
        """Return batches that torchvision's workers make, with no more of them than there are cores."""
        images, source = self.images["train"], self.data("float16").plan.source
        transform = online_transform("standard", source.mean, source.std)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return {
            f"torchvision, {workers} workers": torchvision_batches(
                images.images_NHWC,
                images.labels_N,
                transform,
                self.size.batch_size,
                workers,
                self.device,
                self.dtype,
            )
            for workers in sorted({min(workers, cores) for workers in self.size.workers})
        }


def rates_of_steps(trainer: Trainer, contestants: Mapping[str, Batches], size: Size) -> dict[str, list[float]]:
    """Train with each contestant's batches in turn; return images/s, the first round thrown away."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(size.rounds + 1):
        for name, batches in contestants.items():
            _take(trainer, batches, size.settling)
            started = time.perf_counter()
            images = _take(trainer, batches, size.steps)
            rate = images / (time.perf_counter() - started)
            log(f"round {turn}: {name}: {rate:,.0f} images/s")
            if turn:
                rates[name].append(rate)
    return rates


def _take(trainer: Trainer, batches: Batches, steps: int) -> int:
    count = 0
    for _ in range(steps):
        images, labels = next(batches)
        trainer.step(images, labels)
        count += len(labels)
    synchronize(trainer.device)
    return count
