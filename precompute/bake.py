"""Baking: check what is there, check the space, write what is missing."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precompute.augment import Augmentation, Encoder, VariantStore, augmentation_for, draw, order
from precompute.existing import discard_damaged, discard_parts, files_of, settle
from precompute.plan import check_space, estimate, make_plan
from precompute.progress import Progress
from precompute.sources import Images, SourceData, hold_out
from precompute.workers import each_in_threads, stop_if
from shards.command import say
from shards.errors import UsageError
from shards.lock import add_bake_seconds, locked
from shards.plan import MANIFEST, Plan, Shard
from shards.record import Frame
from shards.writer import write_shard, write_whole

__all__ = ["bake", "bake_source"]

MOST_CLASSES = 2**20  # a label beyond it is a mistake: every class up to it would need a name


def bake(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    out: str | Path,
    augment: Augmentation | str = "standard",
    test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    classes: Iterable[str] | None = None,
    name: str = "images",
    val_fraction: float = 0.0,
    encoding: str = "float16",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Bake a user's own arrays into the shard set `out`.

    Args:
        images: (N, H, W, C) or (N, H, W), uint8.
        labels: (N,) integers from 0.
        epochs: how many variants of each image.
        out: the directory of this one set.
        augment: an `Augmentation`, or the name of a preset.
        test: images and labels of a test split, stored un-augmented.
        classes: names of the classes; by default the labels' numbers.
        name: of the data set.
        val_fraction: share of the images to cut off as a validation split.
        encoding: float16, uint8 or float32.
        seed: of all draws, 0 to 2^63 - 1.
        workers: threads; by default one a core.
        overwrite: replace what stands there.

    Raises:
        UsageError: an argument outside its range, or arrays that don't fit each other.
        DataError: another plan's shards stand there, or another process is baking them.
        MachineError: not enough space.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    splits = {"train": _checked(images, labels, "images")}
    if test is not None:
        splits["test"] = _checked(*test, "test images")
        shapes = [split.images_NHWC.shape[1:] for split in splits.values()]
        if shapes[0] != shapes[1]:
            raise UsageError(f"test images: expected {shapes[0]} like the images, found {shapes[1]}")
    highest = max(int(split.labels_N.max()) for split in splits.values())
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))
    if highest >= len(names):
        raise UsageError(f"labels: found {highest}, but there are only {len(names)} classes")
    source = hold_out(SourceData(name, names, splits), val_fraction)
    augmentation = augmentation_for(name, augment) if isinstance(augment, str) else augment
    plan = make_plan(source, augmentation, epochs, encoding, seed)
    bake_source(source, plan, augmentation, Path(out), workers=workers, overwrite=overwrite)


def bake_source(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write what is missing of a plan, after checking every byte of what is there.

    Raises: as `bake`.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        plan = settle(plan, directory, overwrite=overwrite)
        check_space([estimate(plan, directory, overwrite=overwrite)], directory)
        if overwrite:
            for path in files_of(directory):
                path.unlink()
        discard_parts(directory)
        discard_damaged(plan, directory, workers)
        check_space([estimate(plan, directory)], directory)  # what was damaged counts now
        manifest = directory / MANIFEST
        if not manifest.exists() or manifest.read_bytes() != plan.to_bytes():
            write_whole(manifest, plan.to_bytes())
        todo = [shard for shard in plan.shards() if not (directory / shard.index).is_file()]
        if not todo:
            say(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already, every byte checked")
            return
        started = time.monotonic()
        try:
            _write(source, plan, augmentation, directory, todo, workers)
        finally:
            add_bake_seconds(directory, time.monotonic() - started)


def _write(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Path,
    todo: Sequence[Shard],
    workers: int,
) -> None:
    """Write shards, epoch after epoch, so that the first ones are of use early."""
    encoder = Encoder(plan.source.mean, plan.source.deviation, plan.encoding)
    plain = augmentation_for(plan.source.name, "plain")
    bakers = {
        split: Baker(source.splits[split], encoder, augmentation if split == "train" else plain, plan.seed)
        for split in {shard.split for shard in todo}
    }
    with Progress(plan.source.name, "bake", todo) as progress:

        def write(shard: Shard, stopped: threading.Event) -> None:
            fill = bakers[shard.split].filler(shard)

            def step(first: int, frame: Frame) -> None:
                stop_if(stopped)
                fill(first, frame)
                progress.add(frame.layout.samples, frame.layout.size_bytes)

            write_shard(directory, shard, plan.identity, step)
            progress.finish(shard)

        each_in_threads(write, todo, workers)


class Baker:
    """Makes the records of one split; its images are prepared once and shared by all workers."""

    def __init__(self, images: Images, encoder: Encoder, augmentation: Augmentation, seed: int) -> None:
        self._labels_N = images.labels_N
        self._shape = images.images_NHWC.shape[1:]
        self._store = VariantStore(images.images_NHWC, encoder, augmentation)
        self._augmentation = augmentation
        self._seed = seed

    def filler(self, shard: Shard) -> Callable[[int, Frame], None]:
        """Return what fills a record, called with its first sample's position in the epoch."""
        count = len(self._labels_N)
        ordered = order(self._seed, shard.epoch, count) if shard.split == "train" else np.arange(count)
        draws = draw(self._augmentation, self._seed, shard.epoch, 0, count, self._shape)

        def fill(first: int, frame: Frame) -> None:
            index_N = ordered[first : first + frame.layout.samples]
            self._store.make(index_N, draws[index_N], frame.images_NHWC)
            frame.index_N[:] = index_N
            frame.labels_N[:] = self._labels_N[index_N]

        return fill


def _checked(images: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> Images:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise UsageError(f"{what}: expected uint8 (N, H, W, C) or (N, H, W), found {images.dtype} {images.shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"{what}: expected {len(images)} whole-number labels, one an image, found {labels.dtype} {labels.shape}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
        raise UsageError(
            f"{what}: expected labels from 0 to {MOST_CLASSES - 1}, found {labels.min()} to {labels.max()}"
        )
    return Images(np.ascontiguousarray(images), labels.astype(np.int64))
