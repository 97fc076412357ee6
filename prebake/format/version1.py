"""Format version 1, which is no longer read: the command that bakes such a set again."""

import shlex
from collections.abc import Mapping
from typing import Any

from prebake.storage.files import Location

__all__ = ["bake_again"]

OPTIONS = ("pad", "pad_mode", "flip", "cutout", "resize")


def bake_again(content: Mapping[str, Any], directory: Location) -> str:
    """Return the advice to bake a set again, with the command that its manifest of version 1 tells."""
    try:
        command = shlex.join(_command(content, directory))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # it may come from a stranger
        return "Bake it again with --overwrite"
    return (
        f"Bake it again: {command} (for a data set of your own, with the --dataset and --image-size of the first bake; "
        "for arrays, call prebake.bake(..., overwrite=True) with them)"
    )


def _command(content: Mapping[str, Any], directory: Location) -> list[str]:
    name, splits, augmentation = content["source"]["name"], content["splits"], content["augmentation"]
    words = ["prebake", "precompute", "--dataset", name, "--epochs", str(len(splits["train"]))]
    words += ["--augment", augmentation["name"]]
    for key in OPTIONS:
        if key in augmentation:
            words += [f"--{key.replace('_', '-')}", str(augmentation[key])]
    words += ["--dtype", content["encoding"], "--seed", str(content["seed"])]
    if "val" in splits:
        held_out = splits["val"][0][0]
        words += ["--val-fraction", str(held_out / (held_out + splits["train"][0][0]))]
    # `prebake precompute` puts a set into a directory of its name.
    parent, _, last = str(directory).rstrip("/").rpartition("/")
    words += ["--out", (parent or ".") if last == name else str(directory), "--overwrite"]
    return words
