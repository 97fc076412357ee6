"""`prebake predict RUN IMAGE ...`: classify image files with a run's weights."""

import argparse
import json

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser, add_model_option
from prebake.errors import DataError, UsageError, listed, quote
from prebake.train.predict import classify, read_image
from prebake.train.weights import load_weights

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake predict", description="Classify image files with the model of a finished run."
    )
    options.add_argument("run", type=user_path, help="directory of a finished run")
    options.add_argument("images", type=user_path, nargs="+", metavar="IMAGE", help="image files, of any size")
    options.add_argument("--top", type=int, default=3, help="number of classes to print per image; default 3")
    options.add_argument("--json", action="store_true", help="print one JSON object per image")
    add_model_option(options)
    return options


def main() -> None:
    """Print the most probable classes of each image."""
    chosen = parser().parse_args()
    if chosen.top < 1:
        raise UsageError(f"--top: expected at least 1, found {chosen.top}")
    trained = load_weights(chosen.run / "weights.safetensors", chosen.model)
    unreadable = []
    for path in chosen.images:
        try:
            image = read_image(path, trained)
        except DataError as error:
            unreadable.append(str(error))
            continue
        (probabilities,) = classify(trained, image[None])
        best = probabilities.argsort(descending=True)[: chosen.top].tolist()
        named = {trained.classes[label]: round(probabilities[label].item(), 4) for label in best}
        if chosen.json:
            print(json.dumps({"image": str(path), "classes": named}))
        else:
            print(f"{path}: " + ", ".join(f"{quote(name)[1:-1]} {100 * p:.1f} %" for name, p in named.items()))
    if unreadable:
        raise DataError(listed(unreadable))
