"""Plan a bake: what to write, and whether the disk has space for it."""

import errno
import math
import operator
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prebake.errors import MachineError, UsageError
from prebake.format.columns import IMAGE_DTYPES
from prebake.format.manifest import MAX_EPOCHS, MAX_SEED, NAME, Epoch, Plan, Shard, Source
from prebake.precompute.augment import Augmentation, at_side, sides
from prebake.precompute.images import SourceData, channel_statistics, sha256
from prebake.precompute.progress import gigabytes
from prebake.precompute.resume import files_of, is_begun
from prebake.precompute.try_transforms import try_transforms
from prebake.storage.files import Location, existing

__all__ = ["Estimate", "check_choices", "check_space", "estimate", "make_plan", "out_of_space"]


@dataclass(frozen=True)
class Estimate:
    """What a bake still has to write; sizes in bytes.

    Attributes:
        shards, size_bytes: what is missing.
        planned_shards, planned_bytes: the whole set.
        epoch_bytes: one more epoch; epochs that `train --replay` repeats take nothing.
        free_bytes: free space on the disk; None for a remote set.
    """

    shards: int
    size_bytes: int
    planned_shards: int
    planned_bytes: int
    epoch_bytes: int
    free_bytes: int | None


def check_choices(epochs: int, dtype: str, seed: int) -> None:
    """Raise UsageError if one of them is outside its range."""
    if epochs < 1:
        raise UsageError(f"--epochs: expected at least 1, found {epochs}")
    if epochs > MAX_EPOCHS:
        raise UsageError(f"--epochs: expected at most {MAX_EPOCHS}, found {epochs}")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    if dtype not in IMAGE_DTYPES:
        raise UsageError(f"--dtype: expected one of {', '.join(IMAGE_DTYPES)}, found {dtype!r}")


def make_plan(source: SourceData, augmentation: Augmentation, epochs: int, dtype: str, seed: int) -> Plan:
    """Plan the shard set of a source. A transform is tried on a few images, twice.

    Raises:
        UsageError: a value outside its range, more of something than readers accept, or an unusable transform.
    """
    epochs, seed = _whole("--epochs", epochs), _whole("--seed", seed)
    check_choices(epochs, dtype, seed)
    if not NAME.fullmatch(source.name):
        raise UsageError(f"name: expected {NAME.pattern}, since it becomes a part of file names, found {source.name!r}")
    if not all(isinstance(name, str) for name in source.classes):
        raise UsageError(f"classes: expected strings, found {source.classes!r}")
    train = source.splits["train"].pixels
    mean, std = channel_statistics(train)
    shape, floats = try_transforms(source, augmentation, mean, std, dtype, seed)
    if augmentation.transform is None:
        held_out, *shapes = _shapes(shape, augmentation, epochs)
    else:
        held_out, shapes = shape, [shape] * epochs
    plan = Plan(
        source=Source(
            name=source.name,
            classes=source.classes,
            mean=mean,
            std=std,
            sha256={name: sha256(split) for name, split in source.splits.items()},
            recipe=augmentation.recipe or source.recipe,
        ),
        augmentation=augmentation.to_json(),
        dtype=dtype,
        seed=seed,
        by_pipeline=floats,
        splits={
            name: tuple(Epoch(len(split.labels_N), shape) for shape in (shapes if name == "train" else [held_out]))
            for name, split in source.splits.items()
        },
    )
    plan.to_bytes()  # which refuses what is too large
    return plan


def _shapes(shape: tuple[int, ...], augmentation: Augmentation, epochs: int) -> list[tuple[int, int, int]]:
    """Return the shape of the held-out images, which is that of the last side, and then the shape of each epoch."""
    *planned, last = sides(augmentation.resize, epochs, min(shape[:2]))
    found = {}
    for side in dict.fromkeys([last, *planned]):
        scaled, found[side] = at_side(augmentation, shape, side)
        scaled.check(*found[side][:2])
    return [found[side] for side in (last, *planned)]


def estimate(
    plan: Plan, directory: Location, *, overwrite: bool = False, share: Sequence[Shard] | None = None
) -> Estimate:
    """Estimate what is missing from the indexes that exist; with `overwrite`, those of another plan do not count.

    `share` is what this bake has to write of the plan; by default all.
    """
    shards = plan.shards()
    overwrite = overwrite and not is_begun(plan, directory)
    mine = shards if share is None else share
    there = set() if overwrite else existing(directory, [shard.index for shard in mine])
    todo = [shard for shard in mine if shard.index not in there]
    return Estimate(
        shards=len(todo),
        size_bytes=sum(shard.size_bytes for shard in todo),
        planned_shards=len(shards),
        planned_bytes=sum(shard.size_bytes for shard in shards),
        epoch_bytes=sum(shard.size_bytes for shard in plan.shards("train", plan.epochs - 1)),
        free_bytes=_free_bytes(plan, directory, bool(todo), overwrite) if isinstance(directory, Path) else None,
    )


def _free_bytes(plan: Plan, directory: Path, todo: bool, overwrite: bool) -> int:
    existing = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists())
    # The processes of a transform share the source in files: one byte per pixel value, eight per label.
    first = plan.splits["train"][0]
    shared = first.samples * (math.prod(first.image_shape) + 8) if todo and "transform" in plan.augmentation else 0
    reclaimed = sum(path.stat().st_size for path in files_of(directory)) if overwrite else 0
    return shutil.disk_usage(existing).free + reclaimed - shared


def check_space(estimates: Sequence[Estimate], directory: Location) -> None:
    """Raise MachineError if all that is missing does not fit on the disk of `directory`."""
    needed = sum(estimate.size_bytes for estimate in estimates)
    known = [estimate.free_bytes for estimate in estimates if estimate.free_bytes is not None]
    if not known:
        return
    free = max(known)
    if needed > free:
        raise MachineError(
            f"{directory}: {gigabytes(needed)} are to be written, {gigabytes(free)} are free; "
            "free some space, bake fewer --epochs or --dtype uint8, or name another --out"
        )


def out_of_space(error: OSError, plan: Plan, directory: Path) -> OSError | MachineError:
    """Return the error to raise for an OSError: if the disk is full, one that tells the space."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    left = estimate(plan, directory)
    return MachineError(
        f"{error.filename or directory}: {error.strerror}; {gigabytes(left.size_bytes)} are still to be written, "
        f"{gigabytes(max(0, left.free_bytes or 0))} are free. Free some space; then the same command "
        "resumes the bake"
    )


def _whole(option: str, value: object) -> int:
    """Return an int, as a manifest holds it, also for a number of NumPy."""
    try:
        return int(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{option}: expected a whole number, found {value!r}") from None
