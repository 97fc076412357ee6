"""From the options of `prebake train` to jobs that are checked before the first step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from prebake.console import log
from prebake.errors import DataError, MachineError, UsageError, listed
from prebake.format.manifest import MAX_SEED
from prebake.loader.cache_room import check_cache
from prebake.loader.shard_set import ShardSet
from prebake.sizes import size_bytes
from prebake.storage.cache import Cache
from prebake.storage.files import Location
from prebake.storage.remote import Remote
from prebake.train.compile import check_compiler
from prebake.train.device import choose_device, choose_precision
from prebake.train.discovery import find, wait_for_manifest
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.evaluate import final_shape
from prebake.train.models import BATCH_NORMS, AnyModel, Model, find_model, is_users_own
from prebake.train.recipes import RECIPES, Recipe, changed, hyperparameters, recipe_for, recipe_from
from prebake.train.repeats import repeated
from prebake.train.run_dir import RunDir
from prebake.train.state import Settings

__all__ = ["Job", "TrainOptions", "job_of", "jobs"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of `prebake train`, as its help describes them; None leaves the choice to recipe and shards.

    Attributes:
        datasets: `--dataset`.
        model: a name, or from Python also a network or a builder.
        changes: `--set`, by name; texts are read as the type that the hyperparameter has.
        resume: None, `auto`, or the directory of a run.
    """

    shards: Location | None = None
    datasets: Sequence[str] | None = None
    recipe: str | None = None
    model: AnyModel | None = None
    epochs: int | None = None
    replay: bool = False
    follow: bool = False
    batch_size: int | None = None
    lr: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    shuffle_seed: int | None = None
    runs: int = 1
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    cache: Path | None = None
    cache_size: str | None = None
    sync_batchnorm: bool = False
    out: Path | None = None
    resume: str | None = None
    overwrite: bool = False
    tensorboard: bool = False
    usd_per_hour: float | None = None


@dataclass(frozen=True)
class Job:
    """One run to train, from its beginning or from its checkpoint."""

    data: ShardSet
    settings: Settings
    model: Model
    run: RunDir


def jobs(options: TrainOptions, processes: ProcessGroup = SINGLE_PROCESS) -> list[Job]:
    """Return a job for every data set found and every seed.

    Raises:
        UsageError: options that contradict each other or the data, or a run that exists already.
        DataError: no usable shards.
        DivergedError: a run to be resumed has diverged.
        MachineError: no such device or compiler.
    """
    root = options.shards or Path("shards")
    if options.follow:
        if isinstance(root, Remote):
            raise UsageError(f"--follow: only a bake on this machine can be followed, found {root}")
        wait_for_manifest(root, options.datasets)
    found = []
    for data in find(root, options.datasets, _cache(options, root)):
        settings, model = _settings(data, options, processes)
        for each in repeated(settings, options.runs):
            run = RunDir.named(options.out or Path("runs"), _fixed(data, each))
            if options.resume:
                run.refuse_diverged()
            elif not options.overwrite:
                run.refuse_existing()
            found.append(Job(data, each, model, run))
    return found


def _cache(options: TrainOptions, root: Location) -> Cache | None:
    size = None if options.cache_size is None else size_bytes(options.cache_size, "--cache-size")
    return Cache.default(options.cache, size) if isinstance(root, Remote) else None


def job_of(run: RunDir, shards: Location, options: TrainOptions, processes: ProcessGroup = SINGLE_PROCESS) -> Job:
    """Return the job that resumes a run with its own settings.

    Args:
        run: that was begun.
        shards: where its shards were; `options.shards` says where they are now.
        options: of the command.
        processes: that resume it; the run may have been begun by another number of them.

    Raises:
        UsageError: an option contradicts the run's settings, or the run is not for so many processes.
        DataError: its shards are missing, or its settings can't be read.
        DivergedError: it has diverged.
        MachineError: its device or compiler is missing.
    """
    settings = _recorded_settings(run)
    model = _recorded_model(run, settings, options)
    _refuse_other_options(run, settings, options)
    run.refuse_diverged()
    root = options.shards or shards
    (data,) = find(root, [str(run.settings.get("dataset"))], _cache(options, root))
    _check(data, settings, model, processes, follow=options.follow)
    expected, found = run.settings, _fixed(data, settings)
    if found["shards"] != expected.get("shards"):
        raise DataError(
            f"{data.location}: other shards than {run.path} was begun with (identity {expected.get('shards')} "
            f"expected, {found['shards']} found): source, augmentation, dtype or seed differ; --shards names others"
        )
    if found != expected:
        raise DataError(
            f"{data.location}: {run.path} plays {expected.get('views')} views, found {found['views']}; "
            f"bake as many epochs as there were. {data.plan.more_epochs(data.location, settings.recipe.epochs)}"
        )
    return Job(data, settings, model, run)


def _fixed(data: ShardSet, settings: Settings) -> dict[str, Any]:
    """Return everything that a run's outcome depends on, as its log records it."""
    views = min(settings.recipe.epochs, data.epochs)
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    return {"dataset": data.name, "shards": data.plan.identity, "views": views, **chosen}


def _recorded_settings(run: RunDir) -> Settings:
    recorded = run.settings
    try:
        settings = Settings(
            recipe=recipe_from(recorded["recipe"]),
            seed=recorded["seed"],
            device=recorded["device"],
            precision=recorded["precision"],
            compiled=recorded["compiled"],
            shuffle_seed=recorded.get("shuffle_seed"),
            sync_batchnorm=recorded.get("sync_batchnorm"),
            model_sha256=recorded.get("model_sha256"),
        )
        if (
            type(settings.seed) is not int
            or type(recorded.get("shuffle_seed", 0)) is not int
            or not isinstance(recorded.get("sync_batchnorm", True), bool)
            or not isinstance(settings.compiled, bool)
        ):
            raise ValueError("seed, shuffle_seed, compiled or sync_batchnorm is of another type")
        choose_precision(settings.precision, choose_device(settings.device))
    except MachineError as error:
        raise MachineError(
            f"{run.path} was begun on {recorded['device']} and can be resumed only there ({error})"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise DataError(f"{run.path}: log.jsonl holds no usable settings ({error}); train again") from None
    return settings


def _recorded_model(run: RunDir, settings: Settings, options: TrainOptions) -> Model:
    """Return the model of a run; one of the user's own is imported only where the command names it again."""
    name = settings.recipe.model
    if not is_users_own(name):
        return find_model(name)
    if options.model is None:
        raise UsageError(
            f"--resume: {run.path} trains a model of your own, {name}. prebake imports no code that a run names: "
            f"give --model {name} again"
        )
    model = find_model(options.model)
    if model.source_sha256 != settings.model_sha256:
        raise UsageError(
            f"--model: {model.name} has changed since {run.path} was begun; restore it, or leave --resume out for "
            "another run"
        )
    return replace(model, name=name)


def _refuse_other_options(run: RunDir, settings: Settings, options: TrainOptions) -> None:
    recipe = settings.recipe
    # A model of the user's own has been compared by its source: its file may have been moved.
    model = None if is_users_own(recipe.model) else options.model
    asked_and_recorded = {
        "--dataset": (options.datasets, [run.settings.get("dataset")]),
        "--recipe": (options.recipe, recipe.name),
        "--model": (model, recipe.model),
        "--epochs": (options.epochs, recipe.epochs),
        "--batch-size": (options.batch_size, recipe.batch_size),
        "--lr": (options.lr, recipe.peak_lr),
        "--seed": (options.seed, settings.seed),
        "--shuffle-seed": (options.shuffle_seed, settings.shuffle_seed),
        "--runs": (None if options.runs == 1 else options.runs, 1),
        "--device": (None if options.device == "auto" else options.device, settings.device),
        "--precision": (None if options.precision == "auto" else options.precision, settings.precision),
        "--compile": (options.compile or None, settings.compiled),
        "--sync-batchnorm": (options.sync_batchnorm or None, settings.sync_batchnorm),
        "--out": (options.out and options.out.resolve(), run.path.resolve().parent),
    }
    recorded_parameters = hyperparameters(recipe)
    for name, asked in hyperparameters(changed(recipe, options.changes, recipe.model_options)).items():
        asked_and_recorded[f"--set {name}"] = (asked if name in options.changes else None, recorded_parameters[name])
    for option, (asked, recorded) in asked_and_recorded.items():
        if asked is not None and asked != recorded:
            raise UsageError(
                f"{option}: {run.path} was begun with {recorded}, found {asked}; leave it out to resume that run, "
                "or leave --resume out for another run"
            )


def _settings(data: ShardSet, options: TrainOptions, processes: ProcessGroup) -> tuple[Settings, Model]:
    seed = options.seed or 0
    for option, asked in (("--seed", seed), ("--shuffle-seed", options.shuffle_seed)):
        if asked is not None and not 0 <= asked <= MAX_SEED:
            raise UsageError(f"{option}: expected 0 to 2^63 - 1, found {asked}")
    device = choose_device(options.device)
    recipe = _recipe(data, options)
    model = find_model(options.model or recipe.model)
    recipe = changed(replace(recipe, model=model.name), options.changes, model.options)
    recipe = replace(recipe, epochs=_epochs(data, recipe, options))
    settings = Settings(
        recipe=recipe,
        seed=seed,
        device=str(device),
        precision=choose_precision(options.precision, device),
        compiled=options.compile,
        shuffle_seed=options.shuffle_seed,
        sync_batchnorm=options.sync_batchnorm or None,
        model_sha256=model.source_sha256,
    )
    _check(data, settings, model, processes, follow=options.follow)
    return settings, model


def _recipe(data: ShardSet, options: TrainOptions) -> Recipe:
    name = options.recipe or data.plan.source.recipe
    if options.recipe is None and name not in RECIPES:
        log(f"{data.name}: the shards suggest the recipe {name!r}, which is unknown here; training by default")
        name = "default"
    return recipe_for(
        name,
        model=options.model if isinstance(options.model, str | None) else "a model from Python",
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_lr=options.lr,
    )


def _epochs(data: ShardSet, recipe: Recipe, options: TrainOptions) -> int:
    asked = options.epochs
    if asked is None:
        epochs = recipe.epochs if options.replay else min(recipe.epochs, data.epochs)
        log(f"{data.name}: {epochs} epochs (recipe {recipe.name}: {recipe.epochs}, shards: {data.epochs})")
        return epochs
    if asked > data.epochs and not options.replay:
        raise DataError(
            f"{data.location}: {asked} epochs asked for, the shards hold {data.epochs}. "
            f"{data.plan.more_epochs(data.location, asked)}. Or --replay, which plays view "
            f"e mod {data.epochs} in epoch e"
        )
    return asked


def _check(data: ShardSet, settings: Settings, model: Model, processes: ProcessGroup, *, follow: bool) -> None:
    """Raise an error where these shards cannot be trained on with these settings."""
    if data.cache:
        check_cache(data.cache, data.plan)
    recipe, samples = settings.recipe, data.samples("train")
    missing = [name for epoch in range(min(recipe.epochs, data.epochs)) for name in data.missing("train", epoch)]
    missing += [name for split in data.splits if split != "train" for name in data.missing(split)]
    if missing and not follow:
        raise DataError(
            f"{data.location}: unfinished, {len(missing)} shards are missing ({listed(missing, 3)}). "
            f"{data.plan.remedy(data.location)}"
        )
    if recipe.batch_size > samples:
        raise UsageError(
            f"{data.location}: batches of {recipe.batch_size} are larger than the {samples} training images; "
            "take a smaller --batch-size"
        )
    _check_model(data, settings, model, processes)
    last = data.image_shape("train", (recipe.epochs - 1) % data.epochs)
    others = {split: data.image_shape(split) for split in data.splits if split != "train"}
    for split, shape in others.items():
        if shape != last:
            log(f"{data.name}: the last epoch has images of {last[0]}x{last[1]}, {split} of {shape[0]}x{shape[1]}")
    if settings.compiled:
        check_compiler(choose_device(settings.device))


def _check_model(data: ShardSet, settings: Settings, model: Model, processes: ProcessGroup) -> None:
    *_, channels = final = final_shape(data)
    trained = {data.image_shape("train", epoch) for epoch in range(data.epochs)}
    sizes = [(height, width) for height, width, _ in (*sorted(trained), final)]
    network = model.check(channels, len(data.classes), sizes, settings.recipe.model_options)
    if hint := model.hint(sizes[-1]):
        log(f"{data.name}: {hint}")
    normalizes = any(isinstance(module, BATCH_NORMS) for module in network.modules())
    processes.check(settings, data.samples("train"), least=2 if normalizes else 1)
