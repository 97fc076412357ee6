"""Baking: check what is there, check the space, write what is missing."""

import contextlib
import io
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precompute.augment import Augmentation, at_side, augmentation_for, resized
from precompute.baker import Baker, TransformBaker
from precompute.elsewhere import check_scratch, check_writable, claim
from precompute.existing import discard_damaged, discard_parts, files_of, is_begun, settle
from precompute.plan import check_space, estimate, make_plan, out_of_space
from precompute.progress import Progress
from precompute.sources import Images, SourceData, checked_images, hold_out
from precompute.workers import cores, each_in_processes, each_in_threads, stop_if
from shards.command import say
from shards.errors import UsageError
from shards.files import Place, place
from shards.lock import add_bake_seconds, locked
from shards.plan import MANIFEST, Plan, Shard
from shards.record import Frame
from shards.remote import Remote
from shards.scratch import scratch
from shards.writer import make_directory, remove, remove_shards, write_plainly, write_shard, write_whole

__all__ = ["bake", "bake_source"]

PIXELS = "pixels.part"
LABELS = "labels.part"


def bake(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    out: str | Place,
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
    directory = place(out)
    check_writable(directory)
    bake_source(source, plan, augmentation, directory, workers=workers, overwrite=overwrite)


def bake_source(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Place,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write what is missing of a plan, after checking every byte of what is there; elsewhere, what it has no index of.

    Raises: as `bake`.
    """
    workers = workers or cores()
    if isinstance(directory, Remote):
        plan, todo = claim(plan, directory, overwrite=overwrite)
        check_scratch(todo, workers)
        if todo:
            _write(source, plan, augmentation, directory, todo, workers)
        else:
            say(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already")
        return
    try:
        make_directory(directory)
        with locked(directory):
            plan = settle(plan, directory, overwrite=overwrite)
            check_space([estimate(plan, directory, overwrite=overwrite)], directory)
            if overwrite and not is_begun(plan, directory):
                # Their manifest stays meanwhile: at no time are there shards of which nobody knows what they are.
                remove_shards(files_of(directory))
            discard_parts(directory)
            discard_damaged(plan, directory, workers)
            check_space([estimate(plan, directory)], directory)  # what was damaged counts now
            manifest = directory / MANIFEST
            if not manifest.is_file() or manifest.read_bytes() != plan.to_bytes():
                write_whole(manifest, plan.to_bytes())
            todo = [shard for shard in plan.shards() if not (directory / shard.index).is_file()]
            if todo:
                _write_and_tidy(source, plan, augmentation, directory, todo, workers)
            else:
                say(f"{plan.source.name}: all {plan.epochs} epochs are in {directory} already, every byte checked")
    except OSError as error:
        raise out_of_space(error, plan, directory) from None


def _write_and_tidy(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Path,
    todo: Sequence[Shard],
    workers: int,
) -> None:
    """Write shards; note the seconds that it took, and leave nothing half behind, however it ends."""
    started = time.monotonic()
    try:
        _write(source, plan, augmentation, directory, todo, workers)
    except BaseException:
        # What failed first is the thing to tell. A process that was killed leaves what it was writing.
        with contextlib.suppress(OSError):
            discard_parts(directory)
        with contextlib.suppress(OSError):
            add_bake_seconds(directory, time.monotonic() - started)
        raise
    add_bake_seconds(directory, time.monotonic() - started)


def _write(
    source: SourceData,
    plan: Plan,
    augmentation: Augmentation,
    directory: Place,
    todo: Sequence[Shard],
    workers: int,
) -> None:
    """Write shards, epoch after epoch, so that the first ones are of use early."""
    plain = augmentation_for(plan.source.name, "plain")
    train = [shard for shard in todo if shard.split == "train"]
    held_out = [shard for shard in todo if shard.split != "train"]
    with Progress(plan.source.name, "bake", todo) as progress:
        for split in dict.fromkeys(shard.split for shard in held_out):
            shards = [shard for shard in held_out if shard.split == split]
            baker = Baker(_at(source.splits[split], shards[0].image_shape), plain, plan, workers)
            _write_in_threads(baker, plan, directory, shards, workers, progress)
        if not train:
            return
        if augmentation.transform == "none":
            images = source.splits["train"]
            for shape, group in itertools.groupby(train, lambda shard: shard.image_shape):
                scaled, _ = at_side(augmentation, images.images_NHWC.shape[1:], min(shape[:2]))
                baker = Baker(_at(images, shape), scaled, plan, workers)
                _write_in_threads(baker, plan, directory, list(group), workers, progress)
        else:
            with contextlib.nullcontext(directory) if isinstance(directory, Path) else scratch() as here:
                write = _ProcessWriter(
                    directory, plan.identity, _shared(source.splits["train"], augmentation, plan, here)
                )
                each_in_processes(write, train, workers, here, progress.add, progress.finish)
                remove(here / PIXELS)
                remove(here / LABELS)


def _at(images: Images, shape: tuple[int, int, int]) -> Images:
    return Images(resized(images.images_NHWC, shape), images.labels_N)


def _write_in_threads(
    baker: Baker, plan: Plan, directory: Place, shards: Sequence[Shard], workers: int, progress: Progress
) -> None:
    def write(shard: Shard, stopped: threading.Event) -> None:
        fill = baker.filler(shard)

        def step(first: int, frame: Frame) -> None:
            stop_if(stopped)
            fill(first, frame)
            progress.add(frame.layout.samples)

        write_shard(directory, shard, plan.identity, step)
        progress.finish(shard)

    each_in_threads(write, shards, workers)


def _shared(images: Images, augmentation: Augmentation, plan: Plan, here: Path) -> TransformBaker:
    """Lay the images where all processes can map them."""
    pixels, labels = here / PIXELS, here / LABELS
    _share(images.images_NHWC, pixels)
    _share(images.labels_N, labels)
    return TransformBaker(pixels, labels, augmentation, plan)


def _share(array: NDArray[np.generic], path: Path) -> None:
    """Write a `.npy` file. Not numpy.save, whose error on a full disk does not say that it is full."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    write_plainly(path, header.getvalue(), array.data.cast("B"))


@dataclass(frozen=True)
class _ProcessWriter:
    """Writes one shard in whichever process it is called."""

    directory: Place
    identity: str
    baker: TransformBaker

    def __call__(self, shard: Shard, count: Callable[[int], None]) -> None:
        fill = self.baker.filler(shard)

        def step(first: int, frame: Frame) -> None:
            fill(first, frame)
            count(frame.layout.samples)

        write_shard(self.directory, shard, self.identity, step)
