"""Jobs: what a command is to train, all of it checked before the first step is taken."""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prebake.console import log
from prebake.errors import DataError, MachineError, UsageError, listed
from prebake.format.manifest import MAX_SEED
from prebake.loader.shard_set import ShardSet
from prebake.sizes import size_bytes
from prebake.storage.cache import Cache
from prebake.storage.files import Location
from prebake.storage.remote import Remote
from prebake.train.compile import check_compiler
from prebake.train.device import choose_device, choose_precision
from prebake.train.discovery import find, wait_for_manifest
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.models import HEEDED, MODELS, SMALLEST_SIDE, foreign
from prebake.train.recipes import Recipe, changes_from, recipe_for, recipe_from
from prebake.train.repeats import repeated
from prebake.train.run_dir import RunDir
from prebake.train.state import Settings

__all__ = ["Job", "job_of", "jobs"]

RUNS = Path("runs")


@dataclass(frozen=True)
class Job:
    """One run to be trained, from its beginning or from where it stands."""

    data: ShardSet
    settings: Settings
    run: RunDir


def jobs(arguments: argparse.Namespace, processes: ProcessGroup = SINGLE_PROCESS) -> list[Job]:
    """Return what the command's options ask for, a job for every data set found.

    Raises:
        UsageError: options that can't be, or a run that is there already.
        DataError: no usable shards.
        DivergedError: a run to be resumed has diverged.
        MachineError: no such device or compiler.
    """
    if arguments.follow:
        if isinstance(arguments.shards, Remote):
            raise UsageError(
                f"--follow: a bake can be followed on one machine alone, and {arguments.shards} is elsewhere"
            )
        wait_for_manifest(arguments.shards, arguments.dataset)
    found = []
    for data in find(arguments.shards, arguments.dataset, _cache(arguments, arguments.shards)):
        for settings in repeated(_settings(data, arguments), arguments.runs):
            run = RunDir.named(arguments.out or RUNS, _fixed(data, settings))
            if arguments.resume:
                run.refuse_diverged()
            elif not arguments.overwrite:
                run.refuse_existing()
            processes.check(settings, data.samples("train"))
            found.append(Job(data, settings, run))
    return found


def _cache(arguments: argparse.Namespace, root: Location) -> Cache | None:
    """Return the cache that the options ask for; shards that are here need none, nor a home where it could be."""
    size = None if arguments.cache_size is None else size_bytes(arguments.cache_size, "--cache-size")
    return Cache.default(arguments.cache, size) if isinstance(root, Remote) else None


def job_of(
    run: RunDir, shards: Location, arguments: argparse.Namespace, processes: ProcessGroup = SINGLE_PROCESS
) -> Job:
    """Return the job of going on with a run, all settings being its own.

    Args:
        run: that was begun.
        shards: where its shards were; `--shards` says where they are now.
        arguments: the command's options.
        world: the processes that are to go on with it, which may be others than those that began it.

    Raises:
        UsageError: an option contradicts the run's settings, or the run is not for so many processes.
        DataError: its shards are not there, or its books can't be read.
        DivergedError: it has diverged.
        MachineError: its device or compiler is not there.
    """
    settings = _noted(run)
    _refuse_other_options(run, settings, arguments)
    run.refuse_diverged()
    root = arguments.shards or shards
    (data,) = find(root, [str(run.settings.get("dataset"))], _cache(arguments, root))
    _check(data, settings, follow=arguments.follow)
    processes.check(settings, data.samples("train"))
    there = _fixed(data, settings)
    if there["shards"] != run.settings.get("shards"):
        raise DataError(
            f"{data.location}: other shards than {run.path} was begun with (identity {run.settings.get('shards')} "
            f"expected, {there['shards']} found): source, augmentation, encoding or seed differ; --shards names others"
        )
    if there != run.settings:
        raise DataError(
            f"{data.location}: {run.path} plays {run.settings.get('views')} views, found {there['views']}; "
            f"bake as many epochs as there were. {data.plan.remedy(data.location)}"
        )
    return Job(data, settings, run)


def _fixed(data: ShardSet, settings: Settings) -> dict[str, Any]:
    """Return all that a run's outcome depends on, as its books hold it."""
    views = min(settings.recipe.epochs, data.epochs)
    # What is None was not asked for: a setting that is new leaves the names of older runs as they are.
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    return {"dataset": data.name, "shards": data.plan.identity, "views": views, **chosen}


def _noted(run: RunDir) -> Settings:
    noted = run.settings
    try:
        settings = Settings(
            recipe_from(dict(noted["recipe"])),
            noted["seed"],
            noted["device"],
            noted["precision"],
            noted["compiled"],
            noted.get("shuffle_seed"),
            noted.get("sync_batchnorm"),
        )
        if (
            type(settings.seed) is not int
            or type(noted.get("shuffle_seed", 0)) is not int
            or not isinstance(noted.get("sync_batchnorm", True), bool)
            or not isinstance(settings.compiled, bool)
        ):
            raise ValueError("seed, compiled or sync_batchnorm is of another type")
        choose_precision(settings.precision, choose_device(settings.device))
    except MachineError as error:
        raise MachineError(f"{run.path} was begun on {noted['device']}, and goes on there only ({error})") from None
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise DataError(f"{run.path}: log.jsonl holds no usable settings ({error}); train again") from None
    return settings


def _refuse_other_options(run: RunDir, settings: Settings, arguments: argparse.Namespace) -> None:
    recipe = settings.recipe
    asked_and_noted = {
        "--dataset": (arguments.dataset, [run.settings.get("dataset")]),
        "--recipe": (arguments.recipe, recipe.name),
        "--model": (arguments.model, recipe.model),
        "--epochs": (arguments.epochs, recipe.epochs),
        "--batch-size": (arguments.batch_size, recipe.batch_size),
        "--lr": (arguments.lr, recipe.peak_lr),
        "--seed": (arguments.seed, settings.seed),
        "--shuffle-seed": (arguments.shuffle_seed, settings.shuffle_seed),
        "--runs": (None if arguments.runs == 1 else arguments.runs, 1),
        "--device": (None if arguments.device == "auto" else arguments.device, settings.device),
        "--precision": (None if arguments.precision == "auto" else arguments.precision, settings.precision),
        "--compile": (arguments.compile or None, settings.compiled),
        "--sync-batchnorm": (arguments.sync_batchnorm or None, settings.sync_batchnorm),
        "--out": (arguments.out and arguments.out.resolve(), run.path.resolve().parent),
    }
    asked_and_noted |= {
        f"--set {name}": (value, getattr(recipe, name)) for name, value in changes_from(arguments.set).items()
    }
    for option, (asked, noted) in asked_and_noted.items():
        if asked is not None and asked != noted:
            raise UsageError(
                f"{option}: {run.path} was begun with {noted}, found {asked}; leave it out to go on with that run, "
                "or leave --resume out for another run"
            )


def _settings(data: ShardSet, arguments: argparse.Namespace) -> Settings:
    seed = arguments.seed or 0
    for option, asked in (("--seed", seed), ("--shuffle-seed", arguments.shuffle_seed)):
        if asked is not None and not 0 <= asked <= MAX_SEED:
            raise UsageError(f"{option}: expected 0 to 2^63 - 1, found {asked}")
    device = choose_device(arguments.device)
    recipe = recipe_for(
        arguments.recipe or data.plan.source.recipe,
        model=arguments.model,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        peak_lr=arguments.lr,
    )
    if recipe.model not in MODELS:
        raise UsageError(f"--model: no model named {recipe.model!r}; there are {', '.join(MODELS)}")
    changes = changes_from(arguments.set)
    for name in changes:
        if name in foreign(recipe.model):
            knows = ", ".join(HEEDED.get(recipe.model, ())) or "what all models have"
            raise UsageError(f"--set: {recipe.model} knows no {name}, only {knows}")
    recipe = replace(recipe, **changes)
    recipe = replace(recipe, epochs=_epochs(data, recipe, arguments))
    precision = choose_precision(arguments.precision, device)
    settings = Settings(
        recipe,
        seed,
        str(device),
        precision,
        arguments.compile,
        arguments.shuffle_seed,
        arguments.sync_batchnorm or None,
    )
    _check(data, settings, follow=arguments.follow)
    return settings


def _epochs(data: ShardSet, recipe: Recipe, arguments: argparse.Namespace) -> int:
    asked: int | None = arguments.epochs
    if asked is None:
        epochs = recipe.epochs if arguments.replay else min(recipe.epochs, data.epochs)
        log(f"{data.name}: {epochs} epochs (recipe {recipe.name}: {recipe.epochs}, shards: {data.epochs})")
        return epochs
    if asked > data.epochs and not arguments.replay:
        raise DataError(
            f"{data.location}: {asked} epochs asked for, the shards hold {data.epochs}. "
            f"Bake more: python -m precompute "
            f"--dataset {data.name} --epochs {asked}; or --replay, which plays view e mod {data.epochs} in epoch e"
        )
    return asked


def _smallest(data: ShardSet) -> tuple[int, int, int]:
    """Return the smallest shape that images have in any epoch."""
    return min({data.image_shape("train", epoch) for epoch in range(data.epochs)}, key=lambda shape: min(shape[:2]))


def _check(data: ShardSet, settings: Settings, *, follow: bool) -> None:
    """Raise what stands in the way of training these shards so."""
    if data.cache:
        data.cache.check(data.plan)
    recipe, samples, shape = settings.recipe, data.samples("train"), _smallest(data)
    missing = [name for epoch in range(min(recipe.epochs, data.epochs)) for name in data.missing("train", epoch)]
    missing += [name for split in data.splits if split != "train" for name in data.missing(split)]
    if missing and not follow:
        raise DataError(
            f"{data.location}: unfinished, {len(missing)} shards are missing ({listed(missing, 3)}). "
            f"{data.plan.remedy(data.location)}"
        )
    if samples < 2:
        raise UsageError(f"{data.location}: 1 training image; batch norm needs at least 2 in a batch")
    if recipe.batch_size > samples:
        raise UsageError(
            f"{data.location}: batches of {recipe.batch_size} are larger than the {samples} training images; "
            "take a smaller --batch-size"
        )
    if min(shape[:2]) < SMALLEST_SIDE:
        raise UsageError(
            f"{data.location}: {recipe.model} needs images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, found {shape}"
        )
    last = data.image_shape("train", (recipe.epochs - 1) % data.epochs)
    others = {split: data.image_shape(split) for split in data.splits if split != "train"}
    for split, shape in others.items():
        if shape != last:
            log(f"{data.name}: the last epoch has images of {last[0]}x{last[1]}, {split} of {shape[0]}x{shape[1]}")
    if settings.compiled:
        check_compiler(choose_device(settings.device))
