"""Baking: check what is there, check the space, write what is missing."""

import contextlib
import functools
import io
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import UsageError
from prebake.format.manifest import MANIFEST, Plan, Shard
from prebake.precompute.augment import Augmentation, augmentation_for
from prebake.precompute.augmenters import LookupAugmenter, PipelineAugmenter, augmenter_for
from prebake.precompute.images import Images, SourceData
from prebake.precompute.pixels import PixelFile, Pixels, blocks
from prebake.precompute.plan import check_space, estimate, make_plan, out_of_space
from prebake.precompute.progress import Progress
from prebake.precompute.remote import check_scratch, check_writable, claim
from prebake.precompute.resume import discard_damaged, discard_parts, files_of, is_begun, reconcile
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources.known import checked_images, hold_out
from prebake.precompute.workers import each_in_processes, each_in_threads, stop_if
from prebake.storage.atomic import make_directory, part_name, remove, remove_shards, write_plainly, write_whole
from prebake.storage.files import Location, parse_path
from prebake.storage.lock import add_bake_seconds, locked
from prebake.storage.remote import Remote
from prebake.storage.temp_dir import scratch

__all__ = ["Pool", "bake", "bake_source", "has_manifest", "write_and_tidy", "write_here", "write_manifest"]

Pool = Callable[[Sequence[Shard], Progress], None]  # writes these shards, and tells how far it is


def bake(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    out: str | Location,
    augment: Augmentation | str = "standard",
    test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    classes: Iterable[str] | None = None,
    name: str = "images",
    val_fraction: float = 0.0,
    dtype: str = "float16",
    seed: int = 0,
    workers: int | None = None,
    memory: int | None = None,
    overwrite: bool = False,
) -> None:
    """Bake a user's own arrays into the shard set `out`.

    Args:
        images: (N, H, W, C) or (N, H, W), uint8.
        labels: (N,) integers from 0.
        epochs: how many views of each image.
        out: the directory of this one set, or its URL.
        augment: an `Augmentation`, or the name of a preset.
        test: images and labels of a test split, stored un-augmented.
        classes: names of the classes; by default the labels' numbers.
        name: of the data set.
        val_fraction: share of the images to cut off as a validation split.
        encoding: float16, uint8 or float32.
        seed: of all draws, 0 to 2^63 - 1.
        workers: threads, or processes where the augmentation has a transform; by default one a core. A script
            that bakes in processes does so under `if __name__ == "__main__":`, since each imports it anew.
        memory: bytes that this process may hold, the arrays included, unless they are mapped; by default half of what
            the machine has. With less than all prepared images take, each is prepared anew when it is needed.
        overwrite: replace what stands there; this very plan, begun and not finished, is gone on with.

    Raises:
        UsageError: an argument outside its range, or arrays that don't fit each other.
        DataError: another plan's shards stand there, or another process is baking them.
        MachineError: not enough space, or a process was killed.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    splits = {"train": checked_images(images, labels, "images")}
    if test is not None:
        splits["test"] = checked_images(*test, "test images")
        shapes = [split.pixels.shape[1:] for split in splits.values()]
        if shapes[0] != shapes[1]:
            raise UsageError(f"test images: expected {shapes[0]} like the images, found {shapes[1]}")
    highest = max(int(split.labels_N.max()) for split in splits.values())
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(highest + 1))
    if highest >= len(names):
        raise UsageError(f"labels: found {highest}, but there are only {len(names)} classes")
    source = hold_out(SourceData(name, names, splits), val_fraction)
    augmentation = augmentation_for(name, augment) if isinstance(augment, str) else augment
    plan = make_plan(source, augmentation, epochs, dtype, seed)
    directory = parse_path(out)
    check_writable(directory)
    bake_source(source, plan, augmentation, directory, workers=workers, memory=memory, overwrite=overwrite)


def bake_source(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Location,
    *,
    workers: int | None = None,
    memory: int | None = None,
    overwrite: bool = False,
    pool: Pool | None = None,
) -> None:
    """Write what is missing of a plan, after checking every byte of what is there; elsewhere, what it has no index of.

    Arguments and errors as `bake`.

    `pool` is who writes the shards: by default threads or processes of this machine.
    """
    workers = workers or usable_cores()
    if isinstance(directory, Remote):
        plan, todo = claim(plan, directory, overwrite=overwrite)
        check_scratch(todo, workers)
        if todo:
            writer = ShardWriter(directory, plan.identity)
            pool = pool or functools.partial(write_here, source, plan, augmentation, writer, workers, memory)
            with Progress(plan.source.name, "bake", todo) as progress:
                pool(todo, progress)
        else:
            log(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already")
        return
    try:
        make_directory(directory)
        with locked(directory):
            plan = reconcile(plan, directory, overwrite=overwrite)
            check_space([estimate(plan, directory, overwrite=overwrite)], directory)
            if overwrite and not is_begun(plan, directory):
                # Their manifest stays meanwhile: at no time are there shards of which nobody knows what they are.
                remove_shards(files_of(directory))
            discard_parts(directory)
            discard_damaged(plan, directory, workers, plan.shards())
            check_space([estimate(plan, directory)], directory)  # what was damaged counts now
            writer = ShardWriter(directory, plan.identity)
            write_manifest(plan, directory, writer.token)
            todo = [shard for shard in plan.shards() if not writer.has(shard)]
            if todo:
                pool = pool or functools.partial(write_here, source, plan, augmentation, writer, workers, memory)
                # Workers elsewhere have tokens of their own.
                write_and_tidy(pool, plan, directory, todo, functools.partial(discard_parts, directory))
            else:
                log(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already, every byte checked")
    except OSError as error:
        raise out_of_space(error, plan, directory) from None


def has_manifest(plan: Plan, directory: Path) -> bool:
    """Say whether this very plan's manifest stands there."""
    manifest = directory / MANIFEST
    return manifest.is_file() and manifest.read_bytes() == plan.to_bytes()


def write_manifest(plan: Plan, directory: Path, token: str) -> None:
    """Write the manifest, where it does not stand there already, under that temporary name; raises OSError."""
    if not has_manifest(plan, directory):
        try:
            write_whole(directory / MANIFEST, plan.to_bytes(), token)
        except FileNotFoundError:
            if not has_manifest(plan, directory):  # else another one wrote the same, and tidied up meanwhile
                raise


def write_and_tidy(pool: Pool, plan: Plan, directory: Path, todo: Sequence[Shard], tidy: Callable[[], None]) -> None:
    """Let a pool write shards; note the seconds that it took, and leave nothing half behind, however it ends."""
    started = time.monotonic()
    try:
        with Progress(plan.source.name, "bake", todo) as progress:
            pool(todo, progress)
    except BaseException:
        # What failed first is the thing to tell. A process that was killed leaves what it was writing.
        with contextlib.suppress(OSError):
            tidy()
        with contextlib.suppress(OSError):
            add_bake_seconds(directory, time.monotonic() - started)
        raise
    tidy()  # where a worker was killed, and another one has done its work
    add_bake_seconds(directory, time.monotonic() - started)


def write_here(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    writer: ShardWriter,
    workers: int,
    memory: int | None,
    todo: Sequence[Shard],
    progress: Progress,
) -> None:
    """Write shards by threads or processes of this machine, epoch after epoch, so that the first are of use early."""
    for (split, _), group in itertools.groupby(todo, lambda shard: (shard.split, shard.image_shape)):
        shards = list(group)
        if split == "train" and augmentation.transform != "none":
            _write_in_processes(source.splits[split], augmentation, plan, writer, shards, workers, progress)
        else:
            prepare = functools.partial(augmenter_for, source, augmentation, plan, shards[0], workers, memory)
            _write_in_threads(prepare, writer, shards, workers, progress)


def _write_in_threads(
    prepare: Callable[[], LookupAugmenter | PipelineAugmenter],
    writer: ShardWriter,
    shards: Sequence[Shard],
    workers: int,
    progress: Progress,
) -> None:
    # Nobody else holds the baker: its memory is free when these shards are done, and the next ones are decided on.
    augmenter = prepare()

    def write(shard: Shard, stopped: threading.Event) -> None:
        def count(samples: int) -> None:
            stop_if(stopped)
            progress.add(samples)

        writer.bake(augmenter, shard, count)
        progress.finish(shard)

    each_in_threads(write, shards, workers)


def _write_in_processes(
    images: Images,
    augmentation: Augmentation,
    plan: Plan,
    writer: ShardWriter,
    shards: Sequence[Shard],
    workers: int,
    progress: Progress,
) -> None:
    with contextlib.nullcontext(writer.directory) if isinstance(writer.directory, Path) else scratch() as here:
        pixels, labels, counts = (here / part_name(name, writer.token) for name in ("pixels", "labels", "counts"))
        _share_pixels(images.pixels, pixels)
        _share(images.labels_N, labels)
        write = _ProcessWriter(writer, plan, augmentation, pixels, images.pixels.shape, labels)
        each_in_processes(write, shards, workers, counts, progress.add, progress.finish)
        remove(pixels)
        remove(labels)


def _share_pixels(images: Pixels, path: Path) -> None:
    write_plainly(path)
    file, first = PixelFile.at(path, images.shape, write=True), 0
    for images_NHWC in blocks(images):
        file.write(first, images_NHWC)
        first += len(images_NHWC)


def _share(array: NDArray[np.generic], path: Path) -> None:
    """Write a `.npy` file. Not numpy.save, whose error on a full disk does not say that it is full."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    write_plainly(path, header.getvalue(), array.data.cast("B"))


@dataclass(frozen=True)
class _ProcessWriter:
    """Writes one shard in whichever process it is called; the source's files are shared by all who map them."""

    writer: ShardWriter
    plan: Plan
    augmentation: Augmentation
    pixels: Path
    shape: tuple[int, ...]
    labels: Path

    def __call__(self, shard: Shard, count: Callable[[int], None]) -> None:
        images = Images(PixelFile.at(self.pixels, self.shape), np.load(self.labels, mmap_mode="r"))
        self.writer.bake(PipelineAugmenter(images, self.augmentation, self.plan), shard, count)
