"""The command that bakes a set, as far as its manifest tells; for the end of messages."""

import shlex
from collections.abc import Mapping
from typing import Any

from prebake.storage.files import Location

__all__ = ["bake_again", "bake_more"]

OPTIONS = ("pad", "pad_mode", "flip", "cutout", "resize")


def bake_more(
    directory: Location,
    *,
    name: str,
    augmentation: Mapping[str, Any],
    dtype: str,
    seed: int,
    samples: Mapping[str, int],
    epochs: int,
) -> str:
    """Return the advice to bake more epochs into a set.

    Args:
        directory: of the set.
        name: of the data set.
        augmentation: of the manifest.
        dtype: of the images.
        seed: of the draws.
        samples: by split.
        epochs: as many as the set is to have.
    """
    parent, last = _split(directory)
    try:
        command = _command(parent, name, augmentation, dtype, seed, samples, epochs)
    except (LookupError, ValueError):
        return f"Bake more: run the command that baked it with --epochs {epochs}"
    if last != name:
        command = f"rename {shlex.quote(str(directory))} to {shlex.quote(f'{parent}/{name}')}, and run {command}"
    return f"Bake more: {command} ({_own(augmentation)}; for arrays, call prebake.bake(..., epochs={epochs}) with them)"


def bake_again(content: Mapping[str, Any], directory: Location) -> str:
    """Return the advice to bake a set of format version 1 again, with the command that its manifest tells."""
    try:
        splits, augmentation = content["splits"], content["augmentation"]
        samples = {split: epochs[0][0] for split, epochs in splits.items()}
        name, epochs = content["source"]["name"], len(splits["train"])
        parent, last = _split(directory)
        out = parent if last == name else str(directory)  # in `parent` there may be another set of this name
        command = _command(out, name, augmentation, content["encoding"], content["seed"], samples, epochs)
        own = _own(augmentation)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # it may come from a stranger
        return "Bake it again with --overwrite"
    return f"Bake it again: {command} --overwrite ({own}; for arrays, call prebake.bake(..., overwrite=True) with them)"


def _command(
    out: str,
    name: str,
    augmentation: Mapping[str, Any],
    dtype: str,
    seed: int,
    samples: Mapping[str, int],
    epochs: int,
) -> str:
    """Return the command; raises LookupError or ValueError over an augmentation that no command can name."""
    words = [
        "prebake",
        "precompute",
        "--dataset",
        name,
        "--epochs",
        str(epochs),
        "--augment",
        str(augmentation["name"]),
    ]
    for key in OPTIONS:
        if key in augmentation:
            words += [f"--{key.replace('_', '-')}", str(augmentation[key])]
    words += ["--dtype", dtype, "--seed", str(seed)]
    if "val" in samples:
        words += ["--val-fraction", str(samples["val"] / (samples["val"] + samples["train"]))]
    words += ["--out", out]
    if not all(word.isprintable() for word in words):  # a stranger's control characters reach no terminal
        raise ValueError(f"not printable: {words!r}")
    return shlex.join(words)


def _split(directory: Location) -> tuple[str, str]:
    """Return the parent of a directory, and its own name."""
    parent, slash, last = str(directory).rstrip("/").rpartition("/")
    return parent or slash or ".", last


def _own(augmentation: Mapping[str, Any]) -> str:
    """Return the words about options that the manifest does not tell."""
    transform = "with --transform, if the first bake had it; " if "transform" in augmentation else ""
    return f"{transform}for a data set of your own, with the --dataset and --image-size of the first bake"
