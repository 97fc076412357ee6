"""Find the source that a shard set was baked from, and check that it is the same."""

from dataclasses import dataclass, replace
from pathlib import Path

from prebake.errors import DataError, UsageError
from prebake.format.manifest import MANIFEST, Plan, differences
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation, Pipeline
from prebake.precompute.images import SourceData, cut_off
from prebake.precompute.plan import make_plan
from prebake.precompute.sources import dataset_names, load, sources
from prebake.precompute.sources.registry import Decoding
from prebake.storage.files import Location

__all__ = ["Provenance", "find_provenance", "match_provenance"]


@dataclass(frozen=True)
class Provenance:
    """The source with the splits of the plan, and the augmentation."""

    source: SourceData
    augmentation: Augmentation


def find_provenance(
    data: ShardSet,
    dataset: str | None,
    data_dir: Path,
    how: Decoding,
    transform: Pipeline | None = None,
    test_transform: Pipeline | None = None,
) -> Provenance:
    """Load the data set that a shard set was baked from, and match it.

    Args:
        data: the shard set.
        dataset: as `load` takes it; None: the name in the manifest, which holds no paths.
        data_dir: torchvision root.
        how: how pictures are decoded.
        transform, test_transform: the user's, if the set was baked with them.

    Raises:
        UsageError: as `load`.
        DataError: `dataset` is needed and None, the data is missing, or as `match_provenance`.
        MachineError: as `load`.
    """
    if dataset is None and data.name not in dataset_names():
        own = " or ".join(f"--dataset {source}" for source in sources().values() if source.argument)
        raise DataError(
            f"{data.path}: baked from pictures or arrays named {data.name!r}, which the manifest does not locate. Say "
            f"where the data set is with {own}, and --image-size as it was baked. For arrays, call prebake.bake() with "
            "the same ones to repair the shards, or prebake.audit() to audit them"
        )
    source = load(dataset or data.name, data_dir, how)
    source = replace(source, name=data.name)  # a folder may have been renamed
    return match_provenance(data.location, data.plan, source, transform, test_transform)


def match_provenance(
    directory: Location,
    plan: Plan,
    source: SourceData,
    transform: Pipeline | None = None,
    test_transform: Pipeline | None = None,
) -> Provenance:
    """Plan a source as the manifest in a directory says, and compare both plans.

    Raises:
        DataError: the plans differ, or this release cannot make the manifest's; the message names the fields.
    """
    manifest = directory / MANIFEST
    augmentation = Augmentation.from_json(
        plan.augmentation,
        f"{manifest}: augmentation",
        recipe=plan.source.recipe,
        transform=transform,
        test_transform=test_transform,
    )
    held_out = plan.splits["val"][0].samples if "val" in plan.splits else 0
    images = len(source.splits["train"].labels_N)
    if held_out >= images and "val" not in source.splits:
        raise DataError(
            f"{manifest}: {held_out} validation images were held out, and {source.name} has only {images} images"
        )
    if held_out and "val" not in source.splits:
        source = cut_off(source, held_out)
    try:
        anew = make_plan(source, augmentation, plan.epochs, plan.dtype, plan.seed)
    except UsageError as error:
        raise DataError(f"{manifest}: {error}") from None
    found = differences(plan, anew)
    found += [
        f"the epochs of {split} are not those of {source.name}'s {split} images"
        for split in sorted({*plan.splits, *anew.splits})
        if plan.splits.get(split) != anew.splits.get(split)
    ]
    if found:
        raise DataError(
            f"{manifest}: does not match the data set {source.name} as it is here ({'; '.join(found)}). "
            "If it was baked from arrays of your own, use prebake.audit() and prebake.bake() with them"
        )
    return Provenance(source, augmentation)
