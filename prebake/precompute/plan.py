"""Planning a bake: pure, but for a look at the free space."""

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
from prebake.precompute.augment import BY_RECIPE, Augmentation, at_side, sides
from prebake.precompute.images import SourceData, channel_statistics, sha256
from prebake.precompute.progress import gigabytes
from prebake.precompute.resume import files_of, is_begun
from prebake.storage.files import Location, present

__all__ = ["Estimate", "check_choices", "check_space", "estimate", "make_plan", "out_of_space"]


@dataclass(frozen=True)
class Estimate:
    """What a bake has still to write, of how much in all, and the space for it; sizes in bytes.

    `epoch_bytes` is what one more epoch would take; what `train --replay` plays again takes nothing.
    What lies elsewhere has no end of space that we know of: None.
    """

    shards: int
    size_bytes: int
    planned_shards: int
    planned_bytes: int
    epoch_bytes: int
    free_bytes: int | None


def check_choices(epochs: int, dtype: str, seed: int) -> None:
    """Raise UsageError where one of them is outside its range, whatever the source."""
    if epochs < 1:
        raise UsageError(f"--epochs: expected at least 1, found {epochs}")
    if epochs > MAX_EPOCHS:
        raise UsageError(f"--epochs: expected at most {MAX_EPOCHS}, found {epochs}")
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0 to 2^63 - 1, found {seed}")
    if dtype not in IMAGE_DTYPES:
        raise UsageError(f"--dtype: expected one of {', '.join(IMAGE_DTYPES)}, found {dtype!r}")


def make_plan(source: SourceData, augmentation: Augmentation, epochs: int, dtype: str, seed: int) -> Plan:
    """Plan the shard set of a source.

    Raises:
        UsageError: a value outside its range, or more of something than readers take.
    """
    epochs, seed = _whole("--epochs", epochs), _whole("--seed", seed)
    check_choices(epochs, dtype, seed)
    if not NAME.fullmatch(source.name):
        raise UsageError(f"name: expected {NAME.pattern}, since it becomes a part of file names, found {source.name!r}")
    if not all(isinstance(name, str) for name in source.classes):
        raise UsageError(f"classes: expected strings, found {source.classes!r}")
    train = source.splits["train"].pixels
    held_out, *shapes = _shapes(train.shape[1:], augmentation, epochs)
    if augmentation.transform != "none" and train.shape[3] not in (1, 3):
        raise UsageError(
            f"transform: {augmentation.transform} is for images of 1 or 3 channels, found {train.shape[3]}; "
            "take an augmentation without one"
        )
    mean, std = channel_statistics(train)
    plan = Plan(
        source=Source(
            name=source.name,
            classes=source.classes,
            mean=mean,
            std=std,
            sha256={name: sha256(split) for name, split in source.splits.items()},
            recipe=_recipe(source.name, augmentation.name),
        ),
        augmentation=augmentation.to_json(),
        dtype=dtype,
        seed=seed,
        splits={
            name: tuple(Epoch(len(split.labels_N), shape) for shape in (shapes if name == "train" else [held_out]))
            for name, split in source.splits.items()
        },
    )
    plan.to_bytes()  # which refuses what is too large
    return plan


def _shapes(shape: tuple[int, ...], augmentation: Augmentation, epochs: int) -> list[tuple[int, int, int]]:
    """Return the shape of held-out images, which is what the augmentation names last, and then that of each epoch."""
    *planned, last = sides(augmentation.resize, epochs, min(shape[:2]))
    found = {}
    for side in dict.fromkeys([last, *planned]):
        scaled, found[side] = at_side(augmentation, shape, side)
        scaled.check(*found[side][:2])
    return [found[side] for side in (last, *planned)]


def estimate(
    plan: Plan, directory: Location, *, overwrite: bool = False, share: Sequence[Shard] | None = None
) -> Estimate:
    """Say what is still to be written, judging by which indexes are there; with `overwrite`, all of another plan.

    `share` is what this bake is to write of the plan; by default all.
    """
    shards = plan.shards()
    overwrite = overwrite and not is_begun(plan, directory)
    mine = shards if share is None else share
    there = set() if overwrite else present(directory, [shard.index for shard in mine])
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
    # A transform's processes share the source through files, of one byte a pixel value and eight a label.
    first = plan.splits["train"][0]
    shared = first.samples * (math.prod(first.image_shape) + 8) if todo and "transform" in plan.augmentation else 0
    reclaimed = sum(path.stat().st_size for path in files_of(directory)) if overwrite else 0
    return shutil.disk_usage(existing).free + reclaimed - shared


def check_space(estimates: Sequence[Estimate], directory: Location) -> None:
    """Raise MachineError where what is to be written under `directory`, all together, does not fit."""
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
    """Return what to raise for an error of the system: one that tells of the space, where that ran out."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    left = estimate(plan, directory)
    return MachineError(
        f"{error.filename or directory}: {error.strerror}; {gigabytes(left.size_bytes)} are still to be written, "
        f"{gigabytes(max(0, left.free_bytes or 0))} are free. Free some space; then the same command goes on where "
        "this one ended"
    )


def _whole(option: str, value: object) -> int:
    """Take any whole number, NumPy's too, as the int that a manifest holds."""
    try:
        return int(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{option}: expected a whole number, found {value!r}") from None


def _recipe(dataset: str, augmentation: str) -> str:
    if augmentation in BY_RECIPE:
        return augmentation
    return "digits" if dataset == "digits" else "default"
