"""Options that several commands share: the source, how it is decoded, and the memory that baking takes."""

import argparse
from pathlib import Path

from prebake.precompute.augment import Pipeline, user_transform
from prebake.precompute.sources.registry import Decoding
from prebake.sizes import size_bytes
from prebake.storage.files import expand_user

__all__ = [
    "add_memory_option",
    "add_source_options",
    "add_transform_options",
    "decoding",
    "given_source",
    "memory_of",
    "transforms_of",
    "user_path",
]

DATA_DIR = Path("data")


def user_path(text: str) -> Path:
    """Return the path that a user typed; `~` is the home directory, as in `--data-dir=~/data`."""
    return expand_user(Path(text))


def add_source_options(options: argparse.ArgumentParser) -> None:
    """Add the options that locate the source and say how it is decoded."""
    add = options.add_argument
    add(
        "--data-dir",
        type=user_path,
        default=DATA_DIR,
        metavar="DIR",
        help="torchvision root, where data sets are read and downloaded; default data",
    )
    add(
        "--image-size",
        type=int,
        metavar="SIDE",
        help="resize and crop images of your own data to squares of SIDE pixels",
    )
    add("--skip-unreadable", action="store_true", help="skip unreadable images instead of stopping")


def given_source(chosen: argparse.Namespace) -> list[str]:
    """Return the options of the source that were given, in the form that other commands take them."""
    given: list[str] = []
    if chosen.dataset is not None:
        given += ["--dataset", chosen.dataset]
    if chosen.data_dir != DATA_DIR:
        given += ["--data-dir", str(chosen.data_dir)]
    if chosen.image_size is not None:
        given += ["--image-size", str(chosen.image_size)]
    for option in ("transform", "test_transform"):
        if getattr(chosen, option) is not None:
            given += [f"--{option.replace('_', '-')}", getattr(chosen, option)]
    return given + ["--skip-unreadable"] * chosen.skip_unreadable


def add_memory_option(options: argparse.ArgumentParser) -> None:
    """Add `--memory`."""
    options.add_argument(
        "--memory", metavar="SIZE", help="memory limit, such as 4GB; default half of the machine's memory"
    )


def add_transform_options(options: argparse.ArgumentParser) -> None:
    """Add the options that name a user's transforms."""
    add = options.add_argument
    add("--transform", metavar="FILE.py:NAME", help="callable that augments a training image")
    add("--test-transform", metavar="FILE.py:NAME", help="callable that transforms a held-out image")


def transforms_of(chosen: argparse.Namespace) -> tuple[Pipeline | None, Pipeline | None]:
    """Return the transforms of --transform and --test-transform; raises UsageError when they are imported."""
    given = ((chosen.transform, "--transform"), (chosen.test_transform, "--test-transform"))
    transform, test_transform = (None if text is None else user_transform(text, option) for text, option in given)
    return transform, test_transform


def decoding(chosen: argparse.Namespace, scratch: Path | None) -> Decoding:
    """Return how pictures are decoded; `scratch` is the directory of the temporary file of pixels."""
    return Decoding(chosen.image_size, chosen.skip_unreadable, getattr(chosen, "workers", None), scratch)


def memory_of(chosen: argparse.Namespace) -> int | None:
    """Return `--memory` in bytes, or None where it was not given; raises UsageError."""
    return None if chosen.memory is None else size_bytes(chosen.memory, "--memory")
