"""prebake heatmap RUN: Grad-CAM heat maps of one model, or of two side by side."""

import argparse
from pathlib import Path

from prebake.cli.options import user_path
from prebake.cli.parser import CommandParser, add_model_option
from prebake.cli.report import open_shards
from prebake.errors import DataError, UsageError
from prebake.loader.shard_set import ShardSet
from prebake.storage.atomic import write_atomic
from prebake.storage.files import parse_path
from prebake.train.device import choose_device, choose_precision
from prebake.train.evaluate import final_split, predict
from prebake.train.report.sections import MAX_MAPPED, heat_map_pairs
from prebake.train.report.tiles import Tile, sheet
from prebake.train.run_record import RunRecord
from prebake.train.weights import Trained, load_weights

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = CommandParser(
        prog="prebake heatmap",
        description="Draw Grad-CAM heat maps of test images for the model of one run, or for two runs side by side.",
    )
    options.add_argument("run", type=user_path, metavar="RUN", help="directory of a finished run")
    options.add_argument(
        "--against", type=user_path, metavar="RUN", help="directory of a second run, such as one without augmentation"
    )
    options.add_argument(
        "--shards", type=parse_path, help="shard set with the test images, or its root; default the one of the run"
    )
    options.add_argument("--images", type=int, default=2, help="images per class, for the first 100 classes; default 2")
    options.add_argument("--out", type=user_path, default=Path("heatmap.png"), help="PNG file; default heatmap.png")
    options.add_argument("--device", default="auto", help="auto, cuda, mps or cpu; default auto")
    add_model_option(options)
    return options


def main() -> None:
    """Draw one sheet with a row for each class: each image, and its heat map for each model."""
    chosen = parser().parse_args()
    if chosen.images < 1:
        raise UsageError(f"--images: expected at least 1, found {chosen.images}")
    if chosen.out.is_dir() or not chosen.out.name:
        raise UsageError(f"--out: expected the name of a PNG file, found the directory {chosen.out}")
    data = open_shards(chosen.shards, RunRecord.read_finished(chosen.run))
    split = final_split(data)
    if split is None:
        raise DataError(f"{data.location}: has no test split; heat maps need un-augmented images")
    device = choose_device(chosen.device)
    rows: list[list[Tile]] = []
    for run in [chosen.run, chosen.against] if chosen.against else [chosen.run]:
        trained = load_weights(run / "weights.safetensors", chosen.model)
        _check(trained, data, run)
        model = trained.model.to(device)
        predictions = predict(model, data, split, device, choose_precision("auto", device))
        positions = [
            position
            for label in range(len(data.classes))[:MAX_MAPPED]
            for position in (predictions.labels_N == label).nonzero()[: chosen.images, 0].tolist()
        ]
        pairs = heat_map_pairs(data, model, predictions, positions)
        if pairs is None:
            raise UsageError(f"{run}: this model has no feature maps")
        if not rows:
            rows = [[Tile(pairs[position][0].picture, pairs[position][0].caption)] for position in positions]
        for row, position in zip(rows, positions, strict=True):
            row.append(pairs[position][1])
    columns = len(rows[0]) * chosen.images
    heading = f"left: {chosen.run.name}\nright: {chosen.against.name}" if chosen.against else chosen.run.name
    write_atomic(chosen.out, sheet([tile for row in rows for tile in row], columns, heading))
    print(f"{chosen.out}: {len(rows)} images")


def _check(trained: Trained, data: ShardSet, run: Path) -> None:
    source = data.plan.source
    for what, expected, found in (
        ("classes", source.classes, trained.classes),
        ("mean", source.mean, trained.mean),
        ("std", source.std, trained.std),
    ):
        if expected != found:
            raise DataError(
                f"{run}: trained on other data than {data.location}: {what} differ; name the shards that it was "
                "trained on with --shards"
            )
