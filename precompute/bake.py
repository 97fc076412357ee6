"""Baking: plan, check space, then workers that write one shard each at a time."""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precompute.augment import Augmentation, Encoder, VariantStore, augmentation_for, draw, order
from precompute.progress import Progress, gigabytes, say
from precompute.sources import Images, SourceData, channel_statistics, hold_out
from shards.errors import DataError, MachineError, UsageError, listed
from shards.lock import add_bake_seconds, locked
from shards.plan import MANIFEST, Epoch, Plan, Shard, Source, differences
from shards.record import ENCODINGS, Frame
from shards.verify import damage
from shards.writer import PART, write_shard, write_whole

__all__ = ["Estimate", "bake", "bake_source", "estimate", "make_plan"]

MOST_SEED = 2**63 - 1
SHARD_FILE = re.compile(r"(train-e\d{3,}|test|val)-\d{3,}\.(tar|json)(\.part)?|manifest\.json\.part")


@dataclass(frozen=True)
class Estimate:
    """What a bake would write: shards and bytes still missing, of how many planned, and the free space."""

    shards: int
    bytes: int
    planned_shards: int
    planned_bytes: int
    free_bytes: int


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
        overwrite: replace a set of another plan.

    Raises:
        UsageError: an argument outside its range, or arrays that don't fit each other.
        DataError: another plan's shards stand there.
        MachineError: not enough space.
    """
    splits = {"train": _checked(images, labels, "images")}
    if test is not None:
        splits["test"] = _checked(*test, "test images")
    highest = max(int(split.labels_N.max()) for split in splits.values())
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))
    if highest >= len(names):
        raise UsageError(f"labels: found {highest}, but there are only {len(names)} classes")
    source = hold_out(SourceData(name, names, splits), val_fraction)
    augmentation = augmentation_for(name, augment) if isinstance(augment, str) else augment
    plan = make_plan(source, augmentation, epochs, encoding, seed)
    bake_source(source, plan, augmentation, Path(out), workers=workers, overwrite=overwrite)


def make_plan(source: SourceData, augmentation: Augmentation, epochs: int, encoding: str, seed: int) -> Plan:
    """Plan the shard set of a source.

    Raises:
        UsageError: a value outside its range.
    """
    if epochs < 1:
        raise UsageError(f"--epochs: expected at least 1, found {epochs}")
    if not 0 <= seed <= MOST_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    if encoding not in ENCODINGS:
        raise UsageError(f"--dtype: expected one of {', '.join(ENCODINGS)}, found {encoding!r}")
    train = source.splits["train"].images_NHWC
    augmentation.check(train.shape[1], train.shape[2])
    mean, deviation = channel_statistics(train)
    return Plan(
        source=Source(
            name=source.name,
            classes=source.classes,
            mean=mean,
            deviation=deviation,
            sha256={name: _sha256(split) for name, split in source.splits.items()},
            recipe="digits" if source.name == "digits" else "default",
        ),
        augmentation=augmentation.to_json(),
        encoding=encoding,
        seed=seed,
        splits={
            name: (Epoch(len(split.labels_N), split.images_NHWC.shape[1:]),) * (epochs if name == "train" else 1)
            for name, split in source.splits.items()
        },
    )


def estimate(plan: Plan, directory: Path) -> Estimate:
    """Say what is still to be written, judging by which indexes are there."""
    shards = plan.shards()
    todo = [shard for shard in shards if not (directory / shard.index).is_file()]
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    return Estimate(len(todo), sum(s.bytes for s in todo), len(shards), sum(s.bytes for s in shards), free)


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

    Raises:
        DataError: another plan's shards stand there, or another process is baking them.
        MachineError: not enough space.
    """
    started = time.monotonic()
    workers = workers or os.cpu_count() or 1
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        if overwrite:
            _remove(directory)
        plan = _settle(plan, directory)
        for part in directory.glob("*" + PART):
            part.unlink()
        _discard_damaged(plan, directory, workers)
        left = estimate(plan, directory)
        if left.bytes > left.free_bytes:
            raise MachineError(
                f"{directory}: {gigabytes(left.bytes)} are still to be written, {gigabytes(left.free_bytes)} are free; "
                "free some space, bake fewer --epochs or --dtype uint8, or name another --out"
            )
        write_whole(directory / MANIFEST, plan.to_bytes())
        todo = [shard for shard in plan.shards() if not (directory / shard.index).is_file()]
        _write(source, plan, augmentation, directory, todo, workers)
        if todo:
            add_bake_seconds(directory, time.monotonic() - started)
        else:
            say(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already, every byte checked")


def _write(
    source: SourceData, plan: Plan, augmentation: Augmentation, directory: Path, todo: list[Shard], workers: int
) -> None:
    """Write shards; epochs in order, so that the first ones are of use early."""
    encoder = Encoder(plan.source.mean, plan.source.deviation, plan.encoding)
    plain = augmentation_for(plan.source.name, "plain")
    bakers = {
        split: Baker(source.splits[split], encoder, augmentation if split == "train" else plain, plan.seed, split == "train")
        for split in sorted({shard.split for shard in todo})
    }

    with Progress(plan.source.name, "bake", todo) as progress:

        def write(shard: Shard, stopped: threading.Event) -> None:
            fill = bakers[shard.split].filler(shard)

            def step(first: int, frame: Frame) -> None:
                if stopped.is_set():
                    raise CancelledError
                fill(first, frame)
                progress.add(frame.layout.samples, frame.layout.bytes)

            write_shard(directory, shard, plan.identity, step)
            progress.finish(shard)

        _in_threads(write, todo, workers)


class Baker:
    """Makes the records of one split."""

    def __init__(self, images: Images, encoder: Encoder, augmentation: Augmentation, seed: int, shuffled: bool) -> None:
        self._labels_N = images.labels_N
        self._shape = images.images_NHWC.shape[1:]
        self._store = VariantStore(images.images_NHWC, encoder, augmentation)
        self._augmentation = augmentation
        self._seed = seed
        self._shuffled = shuffled

    def filler(self, shard: Shard) -> Callable[[int, Frame], None]:
        """Return what fills the records of one shard: called with the first sample's position in the epoch."""
        count = len(self._labels_N)
        ordered = order(self._seed, shard.epoch, count) if self._shuffled else np.arange(count)
        draws = draw(self._augmentation, self._seed, shard.epoch, 0, count, self._shape)

        def fill(first: int, frame: Frame) -> None:
            index_N = ordered[first : first + frame.layout.samples]
            self._store.make(index_N, draws[index_N], frame.images_NHWC)
            frame.index_N[:] = index_N
            frame.labels_N[:] = self._labels_N[index_N]

        return fill


def _in_threads(work: Callable[[Shard, threading.Event], None], shards: list[Shard], workers: int) -> None:
    """Do `work` on every shard; the first failure, or an interruption, stops all.

    Threads and not processes: what they do most (gathering rows, hashing, writing) releases the
    interpreter lock, and they share the prepared images.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in as_completed([pool.submit(work, shard, stopped) for shard in shards]):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _settle(plan: Plan, directory: Path) -> Plan:
    """Hold the plan against what stands there; return it with the larger number of epochs.

    Raises:
        DataError: another plan's shards, or shards without a manifest.
    """
    if not (directory / MANIFEST).exists():
        strays = sorted(path.name for path in directory.iterdir() if SHARD_FILE.fullmatch(path.name))
        if strays:
            raise DataError(
                f"{directory}: holds {listed(strays, 2)}, but no {MANIFEST} to say what they are; "
                "--overwrite replaces them, or name another --out"
            )
        return plan
    there = Plan.read(directory)
    found = differences(there, plan)
    if found:
        raise DataError(
            f"{directory}: holds other shards ({'; '.join(found)}). --overwrite replaces them, or name another --out"
        )
    return plan.with_epochs(max(plan.epochs, there.epochs))


def _remove(directory: Path) -> None:
    """Remove a shard set's files and no others, the manifest first."""
    (directory / MANIFEST).unlink(missing_ok=True)
    for path in directory.iterdir():
        if SHARD_FILE.fullmatch(path.name):
            path.unlink()


def _discard_damaged(plan: Plan, directory: Path, workers: int) -> None:
    """Read what is there already, and remove the index of what is not whole: it is baked again."""
    present = [shard for shard in plan.shards() if (directory / shard.index).is_file()]
    with Progress(plan.source.name, "check", present) as progress:

        def check(shard: Shard, stopped: threading.Event) -> None:
            if stopped.is_set():
                raise CancelledError
            trouble = damage(directory, shard, plan.identity)
            progress.add(shard.samples, shard.bytes)
            if trouble:
                say(f"{trouble}; baking {shard.tar} again")
                (directory / shard.index).unlink()

        _in_threads(check, present, workers)


def _checked(images: NDArray[np.uint8], labels: NDArray[np.int64], what: str) -> Images:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise UsageError(f"{what}: expected uint8 (N, H, W, C) or (N, H, W), found {images.dtype} {images.shape}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images) or not len(labels):
        raise UsageError(f"{what}: expected one whole-number label for each of {len(images)}, found {labels.dtype} {labels.shape}")
    if labels.min() < 0:
        raise UsageError(f"{what}: labels start from 0, found {labels.min()}")
    return Images(np.ascontiguousarray(images), labels.astype(np.int64))


def _sha256(images: Images) -> str:
    digest = hashlib.sha256(str(images.images_NHWC.shape).encode())
    digest.update(images.images_NHWC)
    digest.update(images.labels_N)
    return digest.hexdigest()
