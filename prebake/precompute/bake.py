"""Bake a data set: verify the shards that exist, check the space, write the shards that are missing."""

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prebake.console import log
from prebake.cores import usable_cores
from prebake.errors import UsageError
from prebake.format.manifest import MANIFEST, Plan, Shard
from prebake.precompute.augment import Augmentation, Pipeline, Transform
from prebake.precompute.augmenters import PipelineAugmenter, augmentation_of, augmenter_for
from prebake.precompute.images import Images, SourceData, hold_out
from prebake.precompute.pixels import PixelFile, blocks, nearest_directory
from prebake.precompute.plan import check_space, estimate, make_plan, out_of_space
from prebake.precompute.progress import Progress
from prebake.precompute.remote import check_temp_space, check_writable, claim
from prebake.precompute.resume import discard_damaged, discard_parts, files_of, is_begun, reconcile
from prebake.precompute.shard_writer import ShardWriter
from prebake.precompute.sources.arrays import source_from
from prebake.precompute.sources.registry import Decoding
from prebake.precompute.workers import imap_processes, imap_threads
from prebake.storage.atomic import make_dirs, part_name, remove, remove_shards, write_atomic, write_file
from prebake.storage.files import Location, existing, parse_path
from prebake.storage.lock import add_bake_seconds, locked
from prebake.storage.remote import Remote
from prebake.storage.temp_dir import temp_dir

__all__ = ["LocalPool", "Pool", "bake", "bake_source", "has_manifest", "timed_bake", "write_manifest", "write_shards"]

Pool = Callable[[Sequence[Shard]], Iterator[Shard]]  # writes shards, and yields each when it is written


def bake(
    data: Any,
    labels: Any = None,
    *,
    epochs: int,
    out: str | Location,
    augment: Augmentation | str | None = None,
    transform: Transform | None = None,
    test_transform: Transform | None = None,
    test: Any = None,
    classes: Iterable[str] | None = None,
    mirror: bool | None = None,
    name: str = "images",
    recipe: str = "default",
    image_size: int | None = None,
    val_fraction: float = 0.0,
    dtype: str = "float16",
    seed: int = 0,
    workers: int | None = None,
    memory: int | None = None,
    overwrite: bool = False,
) -> None:
    """Bake arrays, or a map-style data set, into the shard set `out`. The same call resumes an interrupted bake.

    Args:
        data: images, uint8 (N, H, W, C) or (N, H, W); or a map-style data set of (image, label), or a mapping of the
            names of splits to such, see `prebake.precompute.sources.arrays.source_from`.
        labels: (N,) whole numbers, bool or text, where `data` is an array.
        epochs: number of views of each image.
        out: the directory of this one set, or its URL.
        augment: an `Augmentation`, or the name of a preset; by default `standard`, or `plain` with a transform.
        transform: makes the view of a training image, after the flips and crops of `augment` and before its cutout;
            see `prebake.Transform`.
        test_transform: makes the view of a validation or test image. Needed if `transform` returns floats.
        test: images and labels of a test split, or a map-style data set; it is stored without augmentation.
        classes: names of the classes; by default the data set's own, or the labels.
        mirror: whether images may be mirrored where `augment` is a preset; by default no.
        name: of the data set.
        recipe: name of the training recipe that the manifest suggests, where `augment` names none.
        image_size: side in pixels that the images of a map-style data set are resized and cropped to.
        val_fraction: share of the images to hold out as a validation split.
        dtype: of the stored images: float16, uint8 or float32.
        seed: of all draws, 0 to 2^63 - 1.
        workers: number of threads, or of processes for a transform; by default one per core. Processes import the
            script that bakes, so it must call `bake` under `if __name__ == "__main__":`.
        memory: bytes that this process may use, including the arrays unless they are memory-mapped; by default half of
            the machine's. With too little for all prepared images, each is prepared when it is needed.
        overwrite: replace another set in `out`.

    Raises:
        UsageError: an argument outside its range, arrays that do not fit each other, or a transform whose result
            depends on more than image and seed.
        DataError: `out` holds another set, or another process is baking it.
        MachineError: not enough space, or a process was killed.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected at least 1, found {workers}")
    directory = parse_path(out)
    how = Decoding(image_size=image_size, scratch=nearest_directory(directory))
    source = source_from(data, labels, test=test, classes=classes, mirror=mirror, name=name, how=how)
    source = replace(hold_out(source, val_fraction), recipe=recipe)
    log(source.summary())
    if augment is None:
        augment = "standard" if transform is None else "plain"
    augmentation = source.augmentation(augment) if isinstance(augment, str) else augment
    augmentation = augmentation.with_transforms(
        None if transform is None else Pipeline.of(transform),
        None if test_transform is None else Pipeline.of(test_transform, "test_transform"),
    )
    plan = make_plan(source, augmentation, epochs, dtype, seed)
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
    """Write the shards of a plan that are missing or damaged.

    The bytes of existing local shards are verified first; remote shards count as complete if their index exists.

    Arguments and errors are those of `bake`. `pool` writes the shards; by default threads or processes of this machine.
    """
    workers = workers or usable_cores()
    if isinstance(directory, Remote):
        plan, missing = claim(plan, directory, overwrite=overwrite)
        check_temp_space(missing, workers)
        if not missing:
            log(f"{plan.source.name}: {directory} already has all {plan.epochs} epochs")
            return
        writer = ShardWriter(directory, plan.identity)
        pool = pool or LocalPool(source, plan, augmentation, writer, workers, memory)
        write_shards(pool, plan, missing)
        return
    try:
        make_dirs(directory)
        with locked(directory):
            plan, missing = _prepare_directory(plan, directory, workers, overwrite=overwrite)
            writer = ShardWriter(directory, plan.identity)
            write_manifest(plan, directory, writer.token)
            if not missing:
                log(f"{plan.source.name}: {directory} already has all {plan.epochs} epochs, every byte verified")
                return
            pool = pool or LocalPool(source, plan, augmentation, writer, workers, memory)
            with timed_bake(directory):
                write_shards(pool, plan, missing)
    except OSError as error:
        raise out_of_space(error, plan, directory) from None


def write_shards(pool: Pool, plan: Plan, shards: Sequence[Shard]) -> None:
    """Write shards, and show the progress."""
    with Progress(plan.source.name, "bake", shards) as progress:
        for shard in pool(shards):
            progress.update(shard)


def _prepare_directory(plan: Plan, directory: Path, workers: int, *, overwrite: bool) -> tuple[Plan, list[Shard]]:
    """Check the space and what stands there; return the plan with all its epochs, and the shards to write."""
    plan = reconcile(plan, directory, overwrite=overwrite)
    check_space([estimate(plan, directory, overwrite=overwrite)], directory)
    if overwrite and not is_begun(plan, directory):
        remove_shards(files_of(directory))  # their manifest stays until they are gone: shards always have one
    discard_parts(directory)
    discard_damaged(plan, directory, workers, plan.shards())
    check_space([estimate(plan, directory)], directory)  # now with the damaged shards
    there = existing(directory, [shard.index for shard in plan.shards()])
    return plan, [shard for shard in plan.shards() if shard.index not in there]


def has_manifest(plan: Plan, directory: Path) -> bool:
    """Whether the directory holds the manifest of this very plan."""
    manifest = directory / MANIFEST
    return manifest.is_file() and manifest.read_bytes() == plan.to_bytes()


def write_manifest(plan: Plan, directory: Path, token: str) -> None:
    """Write the manifest, unless it is there; `token` is a part of its temporary name. Raises OSError."""
    if not has_manifest(plan, directory):
        try:
            write_atomic(directory / MANIFEST, plan.to_bytes(), token)
        except FileNotFoundError:
            if not has_manifest(plan, directory):  # else another process wrote the same, and removed temporary files
                raise


@contextlib.contextmanager
def timed_bake(directory: Path, token: str = "") -> Iterator[None]:
    """Add the seconds of the block to those of the set; then remove temporary files with `token` in their names.

    A process that was killed leaves such files, even if another one has done its work.
    """
    started = time.monotonic()
    try:
        yield
    except BaseException:
        # The first error is the one to report.
        with contextlib.suppress(OSError):
            discard_parts(directory, token)
        with contextlib.suppress(OSError):
            add_bake_seconds(directory, time.monotonic() - started)
        raise
    discard_parts(directory, token)
    add_bake_seconds(directory, time.monotonic() - started)


@dataclass(frozen=True)
class LocalPool:
    """Writes shards with threads or processes of this machine, in the order of the epochs.

    Attributes:
        source, plan, augmentation: what to bake.
        writer: writes a shard.
        workers: threads or processes.
        memory: as for `bake`.
    """

    source: SourceData
    plan: Plan
    augmentation: Augmentation
    writer: ShardWriter
    workers: int
    memory: int | None

    def __call__(self, shards: Sequence[Shard]) -> Iterator[Shard]:
        """Yield each shard when it is written."""
        groups = itertools.groupby(shards, lambda shard: (shard.split, shard.image_shape))
        return itertools.chain.from_iterable(self._start(list(group)) for _, group in groups)

    def _start(self, shards: Sequence[Shard]) -> Iterator[Shard]:
        """Start to write shards of one split and image size; the memory of the group before is free by now."""
        split, workers = shards[0].split, self.workers
        augmentation = augmentation_of(self.augmentation, split)
        if augmentation.transform is not None:
            if augmentation.transform.is_picklable():
                return self._in_processes(augmentation, self.source.splits[split], shards)
            log("one thread bakes: processes cannot load the transform; define it at the top level of a module")
            workers = 1
        augmenter = augmenter_for(self.source, self.augmentation, self.plan, shards[0], workers, self.memory)
        return imap_threads(functools.partial(self.writer.write, augmenter), shards, workers)

    def _in_processes(self, augmentation: Augmentation, images: Images, shards: Sequence[Shard]) -> Iterator[Shard]:
        directory = self.writer.directory
        with contextlib.nullcontext(directory) if isinstance(directory, Path) else temp_dir() as here:
            shared = SharedImages.write(images, here, self.writer.token)
            write = _ProcessWriter(self.writer, self.plan, augmentation, shared)
            yield from imap_processes(write, shards, self.workers)
            shared.remove()


@dataclass(frozen=True)
class SharedImages:
    """Images and labels in files, which all processes of a machine read."""

    pixels: Path
    shape: tuple[int, ...]
    labels: Path

    @classmethod
    def write(cls, images: Images, directory: Path, token: str) -> "SharedImages":
        """Write the files; raises OSError."""
        shared = cls(
            directory / part_name("pixels", token), images.pixels.shape, directory / part_name("labels", token)
        )
        write_file(shared.pixels)
        file, first = PixelFile.at(shared.pixels, shared.shape, write=True), 0
        for images_NHWC in blocks(images.pixels):
            file.write(first, images_NHWC)
            first += len(images_NHWC)
        write_file(shared.labels, images.labels_N.tobytes())
        return shared

    def open(self) -> Images:
        """Open the files."""
        return Images(PixelFile.at(self.pixels, self.shape), np.fromfile(self.labels, np.int64))

    def remove(self) -> None:
        """Remove the files; raises OSError."""
        remove(self.pixels)
        remove(self.labels)


@dataclass(frozen=True)
class _ProcessWriter:
    """Writes a shard in the process that calls it."""

    writer: ShardWriter
    plan: Plan
    augmentation: Augmentation
    images: SharedImages

    def __call__(self, shard: Shard, stopped: threading.Event) -> Shard:
        augmenter = PipelineAugmenter(self.images.open(), self.augmentation, self.plan)
        return self.writer.write(augmenter, shard, stopped)
