"""Options that commands share which read a data set: where it is, how it is decoded, how much memory it takes."""

import argparse
from pathlib import Path

from precompute.decode import Decoding
from precompute.memory import memory_bytes

__all__ = ["add_memory_option", "add_source_options", "decoding", "memory_of"]


def add_source_options(options: argparse.ArgumentParser) -> None:
    """Add what says where the source is and how it is decoded."""
    add = options.add_argument
    add("--data-dir", type=Path, default=Path("data"), help="torchvision root, filled where empty; default data")
    add("--image-size", type=int, metavar="SIDE", help="resize and crop a user's own pictures to squares of that side")
    add("--skip-unreadable", action="store_true", help="leave out pictures that can't be read, where else all stops")


def add_memory_option(options: argparse.ArgumentParser) -> None:
    """Add what says how much memory baking takes."""
    options.add_argument("--memory", metavar="SIZE", help="most to hold, such as 4GB; default half of the machine's")


def decoding(chosen: argparse.Namespace, scratch: Path | None) -> Decoding:
    """Return how pictures are to be decoded; `scratch` as there."""
    return Decoding(chosen.image_size, chosen.skip_unreadable, getattr(chosen, "workers", None), scratch)


def memory_of(chosen: argparse.Namespace) -> int | None:
    """Return the bytes of --memory where it was given; raises UsageError."""
    return None if chosen.memory is None else memory_bytes(chosen.memory)
