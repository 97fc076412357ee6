"""Sections of the report. Each function returns HTML, and adds its pictures to `files` under their names."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from torch import nn

from prebake.loader.describe import describe
from prebake.loader.grid import to_pixels
from prebake.loader.shard_set import ShardSet
from prebake.train.evaluate import Predictions
from prebake.train.gradcam import grad_cam
from prebake.train.recipes import Recipe
from prebake.train.report import page, text
from prebake.train.report.drawings import draw_accuracy, draw_confusion, draw_loss, draw_schedule
from prebake.train.report.samples import at_positions, view_grid
from prebake.train.report.scores import ClassScore, Confusion, confident_mistakes, confusions
from prebake.train.report.tiles import Tile, overlay, sheet, tile
from prebake.train.run_record import RunRecord

__all__ = [
    "MAX_MAPPED",
    "Files",
    "augmentation",
    "classes",
    "curves",
    "heat_map_pairs",
    "heat_maps",
    "mistakes",
    "settings",
    "time_and_data",
    "top",
]

Files = dict[str, bytes]

RAW = 16  # un-augmented images, each of a different class
IMAGES, EPOCHS = 6, 6  # rows and columns of the grid of views
MISTAKES, CONFUSIONS = 24, 10
ALL_CLASSES, WORST, BEST = 30, 20, 5  # rows of the table of classes
FEW_CLASSES, EXAMPLES = 10, 3  # heat maps of a class: three if there are few classes, else one
MAX_MAPPED = 100  # classes with heat maps
MAX_CELLS = 1000  # rows of the drawn matrix, which has fewer pixels than that


def top(record: RunRecord, hints: Sequence[str]) -> str:
    """Show title, results and hints."""
    summary = record.summary
    last = record.epochs[-1]
    figures = [
        ("test accuracy", text.percent(summary.get("test_accuracy"))),
        ("with flip TTA", text.percent(summary.get("test_accuracy_tta"))),
        ("with shift TTA", text.percent(summary.get("test_accuracy_shift_tta"))),
        ("validation accuracy", text.percent(summary.get("val_accuracy"))),
        ("training accuracy", text.percent(last.train_accuracy)),
        ("epochs", str(len(record.epochs))),
        ("training", text.seconds(summary["seconds"]["train"])),
        ("utilization", text.percent(summary["utilization"])),
    ]
    boxes = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures if value)
    lines = "".join(f"<p>{escape(hint)}</p>" for hint in hints) or "<p>No problems found.</p>"
    kind = "hints" if hints else "hints none"
    title = f"{summary['dataset']}: {summary['recipe']} ({summary['model']}), seed {summary['seed']}"
    return (
        f'<h1>{escape(title)}</h1>\n<p class="faint">{escape(record.path.name)}</p>\n'
        f'<div class="figures">{boxes}</div>\n<div class="{kind}">{lines}</div>'
    )


def curves(record: RunRecord, steps: int, files: Files) -> str:
    """Draw loss, accuracy and learning rate schedule."""
    recipe = Recipe(**record.settings["recipe"])
    files["loss.png"] = draw_loss(recipe, record.epochs)
    files["accuracy.png"] = draw_accuracy(record.epochs)
    files["schedule.png"] = draw_schedule(recipe, steps)
    about = ("loss by epoch", "accuracy by epoch", "learning rate and momentum by step")
    images = (
        page.image(files[name], alt)
        for name, alt in zip(("loss.png", "accuracy.png", "schedule.png"), about, strict=True)
    )
    note = page.paragraph(
        "Training loss and accuracy are measured on augmented images, during the epoch. "
        "They can be worse than the held-out values."
    )
    return page.section("Curves", f'<div class="side">{"".join(images)}</div>', note)


def augmentation(record: RunRecord, data: ShardSet, predictions: Predictions | None, files: Files) -> str:
    """Show un-augmented images, and views of training images in several epochs."""
    played = min(len(record.epochs), data.epochs)
    found = view_grid(data, played, IMAGES, EPOCHS)
    raw = _raw(data, predictions, files)
    if found is None:
        return page.section("Images", raw, page.paragraph("The training shards were removed."))
    tiles = [
        tile(pixels, f"{data.classes[label]}\nepoch {epoch + 1}")
        for label, row in zip(found.labels, found.pixels, strict=True)
        for epoch, pixels in zip(found.epochs, row, strict=True)
    ]
    columns = len(found.epochs)
    files["augmentation.png"] = sheet(tiles, columns)
    rows = (
        page.group(tiles[row * columns : (row + 1) * columns], columns, 64, data.classes[label])
        for row, label in enumerate(found.labels)
    )
    about = ", ".join(f"{key} {value}" for key, value in text.flat(data.plan.augmentation).items() if key != "name")
    first, last = found.epochs[0] + 1, found.epochs[-1] + 1
    seen = f"epochs {first} to {last}" if columns > 1 else f"epoch {first}"
    note = f"Views of training images in {seen}, one row for each image ({about})."
    return page.section("Images", raw, page.paragraph(note), page.groups(list(rows)))


def _raw(data: ShardSet, predictions: Predictions | None, files: Files) -> str:
    if predictions is None:
        return ""
    labels = predictions.labels_N.numpy()
    positions = np.unique(labels, return_index=True)[1][:RAW].tolist()
    images = at_positions(data, predictions.split, positions)
    tiles = [tile(to_pixels(data, images[position]), data.classes[labels[position]]) for position in positions]
    files["raw.png"] = sheet(tiles, min(len(tiles), 8))
    note = page.paragraph(f"Images of the {predictions.split} split, without augmentation.")
    return note + page.groups([page.group([each], 1, 76, captions=True) for each in tiles])


def classes(
    names: Sequence[str],
    confusion: Confusion,
    scores: Sequence[ClassScore],
    split: str,
    files: Files,
    *,
    drawn: bool,
) -> str:
    """Show the scores of each class and the confusion matrix."""
    known = sorted((score for score in scores if score.recall is not None), key=lambda score: score.recall or 0.0)
    note = f"Measured on the {split} split, without test-time augmentation."
    if len(known) > ALL_CLASSES:
        note += f" The table shows the worst {WORST} and the best {BEST} of {len(known)} classes."
        known = known[:WORST] + known[-BEST:]
    rows: list[list[str | float | None]] = [
        [
            names[score.label],
            f"{score.images:,}",
            score.recall,
            score.precision,
            f"{names[score.mistaken_for[0]]} ({score.mistaken_for[1]:,})" if score.mistaken_for else None,
        ]
        for score in known
    ]
    table = page.table(["class", "images", "recall", "precision", "most frequent mistake"], rows)
    often: list[list[str | float | None]] = [
        [names[true], names[predicted], f"{count:,}"] for true, predicted, count in confusions(confusion, CONFUSIONS)
    ]
    matrix_side = ""
    if drawn:
        each = -(-len(names) // MAX_CELLS)
        files["confusion.png"] = draw_confusion(confusion.matrix(each), names, each)
        matrix_side = page.image(
            files["confusion.png"], "confusion matrix; the table beside it lists the most frequent confusions"
        )
        if each > 1:
            matrix_side += page.paragraph(f"Each cell of the picture sums up {each} x {each} classes.")
    frequent = f"<h3>Most frequent confusions</h3>{page.table(['true', 'predicted', 'images'], often)}" if often else ""
    return page.section("Classes", page.paragraph(note), table) + page.section(
        "Confusion matrix", f'<div class="side"><div>{matrix_side}</div><div>{frequent}</div></div>'
    )


def mistakes(data: ShardSet, predictions: Predictions, files: Files) -> str:
    """Show the wrong predictions with the highest probability."""
    found = confident_mistakes(predictions, MISTAKES)
    if not found:
        return page.section("Most confident mistakes", page.paragraph("The model made no mistakes."))
    images = at_positions(data, predictions.split, [position for position, *_ in found])
    names = data.classes
    tiles = [
        tile(
            to_pixels(data, images[position]), f"{names[true]}, predicted\n{names[predicted]} {100 * confidence:.0f} %"
        )
        for position, true, predicted, confidence in found
    ]
    files["mistakes.png"] = sheet(tiles, 8)
    note = page.paragraph("True class, predicted class and its probability.")
    return page.section(
        "Most confident mistakes", note, page.groups([page.group([t], 1, 104, captions=True) for t in tiles])
    )


def heat_maps(
    data: ShardSet, model: nn.Module, predictions: Predictions, scores: Sequence[ClassScore], files: Files
) -> str:
    """Show Grad-CAM heat maps of images of each class."""
    tested = sorted((score for score in scores if score.images), key=lambda score: score.recall or 0.0)
    shown = sorted(score.label for score in tested[:MAX_MAPPED])
    each = EXAMPLES if len(data.classes) <= FEW_CLASSES else 1
    of_class = {label: (predictions.labels_N == label).nonzero()[:each, 0].tolist() for label in shown}
    positions = [position for label in shown for position in of_class[label]]
    pairs = heat_map_pairs(data, model, predictions, positions)
    if pairs is None:
        return page.section("Heat maps", page.paragraph("This model has no feature maps."))
    columns = 2 * each
    files["gradcam.png"] = sheet([tile for position in positions for tile in pairs[position]], 2 * columns)
    parts = [
        page.group([tile for position in of_class[label] for tile in pairs[position]], columns, 60, data.classes[label])
        for label in shown
    ]
    note = (
        f"Images of the {predictions.split} split, each beside its Grad-CAM heat map: red marks the strongest evidence "
        "for the true class. A red frame marks a wrong prediction."
    )
    if len(shown) < len(data.classes):
        note += f" These are the {len(shown)} of {len(data.classes)} classes with the lowest recall."
    return page.section("Heat maps", page.paragraph(note), page.groups(parts))


def heat_map_pairs(
    data: ShardSet, model: nn.Module, predictions: Predictions, positions: Sequence[int]
) -> dict[int, tuple[Tile, Tile]] | None:
    """Return each image and the heat map of its true class, by position; None if the model has no feature maps."""
    stored = at_positions(data, predictions.split, positions)
    images_NHWC = np.stack([stored[position] for position in positions])
    device = next(model.parameters()).device
    images = torch.from_numpy(data.normalize(images_NHWC)).permute(0, 3, 1, 2).to(device)
    maps = grad_cam(model, images, predictions.labels_N[list(positions)].to(device))
    if maps is None:
        return None
    pairs = {}
    for position, image, heat_HW in zip(positions, images_NHWC, maps.numpy(), strict=True):
        true = int(predictions.labels_N[position])
        confidence, predicted = predictions.logits_NK[position].softmax(0).max(0)
        name = data.classes[int(predicted)]
        plain = tile(to_pixels(data, image), data.classes[true], wrong=int(predicted) != true)
        pairs[position] = plain, overlay(plain, heat_HW, f"predicted {name}\n{100 * confidence:.0f} %")
    return pairs


def time_and_data(record: RunRecord, data: ShardSet) -> str:
    """List times, rates, bytes and the other values of the summary."""
    summary = record.summary
    about = describe(data)
    read = [shard for epoch in range(len(record.epochs)) for shard in data.plan.shards("train", epoch % data.epochs)]
    titles = {
        "precompute": "baking",
        "compile": "compiling, or loading kernels",
        "train": "training, with waiting",
        "wait": "waiting for data",
        "evaluate": "evaluating",
    }
    named: dict[str, str | None] = {
        titles.get(key, key): text.seconds(value) for key, value in summary["seconds"].items()
    }
    named |= {
        "images per second": f"{summary['images_per_second']:,.0f}",
        "utilization": text.percent(summary["utilization"]),
        "stalls (waits over 1 ms)": str(summary["stalls"]),
        "99 % of waits under": f"{1000 * summary['wait_p99_seconds']:.2g} ms",
        "size of the shards": text.size(about["bytes"]),
        "data read for training": text.size(sum(shard.size_bytes for shard in read)),
    }
    if "cost" in summary:
        price = f"{summary['cost']['usd']:.4f} USD at {summary['cost']['usd_per_hour']:g} USD an hour"
        named["cost of baking, compiling, training and evaluating"] = price
    shown = {"seconds", "images_per_second", "utilization", "stalls", "wait_p99_seconds", "cost", "run"}
    named |= text.flat({key: value for key, value in summary.items() if key not in shown})
    return page.section("Time and data", page.table([], [[key, value] for key, value in named.items() if value]))


def settings(record: RunRecord, data: ShardSet) -> str:
    """List all settings and versions."""
    plan = data.plan
    baked = {
        "augmentation": dict(plan.augmentation),
        "dtype": plan.dtype,
        "seed": plan.seed,
        "epochs": plan.epochs,
        "samples": {split: data.samples(split) for split in data.splits},
        "image shape": list(data.image_shape("train")),
        "classes": len(data.classes),
        "mean": list(plan.source.mean),
        "std": list(plan.source.std),
    }
    parts = (("Run", record.settings), ("Shards", baked), ("Versions", record.versions))
    tables = "".join(
        f"<div><h3>{title}</h3>{page.table([], [[key, value] for key, value in text.flat(values).items()])}</div>"
        for title, values in parts
    )
    return page.section("Settings", f'<div class="side">{tables}</div>')
