"""Options that commands share which read a data set: where it is, how it is decoded, how much memory it takes."""

import argparse
from pathlib import Path

from prebake.precompute.sources.registry import Decoding
from prebake.sizes import size_bytes

__all__ = ["add_memory_option", "add_source_options", "decoding", "given_source", "memory_of"]

DATA_DIR = Path("data")


def add_source_options(options: argparse.ArgumentParser) -> None:
    """Add what says where the source is and how it is decoded."""
    add = options.add_argument
    add("--data-dir", type=Path, default=DATA_DIR, help="torchvision root, filled where empty; default data")
    add("--image-size", type=int, metavar="SIDE", help="resize and crop a user's own pictures to squares of that side")
    add("--skip-unreadable", action="store_true", help="leave out pictures that can't be read, where else all stops")


def given_source(chosen: argparse.Namespace) -> list[str]:
    """Return the options that say where the source is and how it is decoded, as another command takes them."""
    given: list[str] = []
    if chosen.dataset is not None:
        given += ["--dataset", chosen.dataset]
    if chosen.data_dir != DATA_DIR:
        given += ["--data-dir", str(chosen.data_dir)]
    if chosen.image_size is not None:
        given += ["--image-size", str(chosen.image_size)]
    return given + ["--skip-unreadable"] * chosen.skip_unreadable


def add_memory_option(options: argparse.ArgumentParser) -> None:
    """Add what says how much memory baking takes."""
    options.add_argument("--memory", metavar="SIZE", help="most to hold, such as 4GB; default half of the machine's")


def decoding(chosen: argparse.Namespace, scratch: Path | None) -> Decoding:
    """Return how pictures are to be decoded; `scratch` as there."""
    return Decoding(chosen.image_size, chosen.skip_unreadable, getattr(chosen, "workers", None), scratch)


def memory_of(chosen: argparse.Namespace) -> int | None:
    """Return the bytes of --memory where it was given; raises UsageError."""
    return None if chosen.memory is None else size_bytes(chosen.memory, "--memory")
