"""Write the report of a run."""

from pathlib import Path

from torch import nn

from prebake.console import log
from prebake.errors import MachineError
from prebake.loader.shard_set import ShardSet
from prebake.optional import import_optional
from prebake.storage.atomic import write_atomic
from prebake.train.evaluate import Predictions
from prebake.train.report import page, sections
from prebake.train.report.hints import Facts, hints
from prebake.train.report.samples import input_statistics
from prebake.train.report.scores import ClassScore, Confusion, class_scores
from prebake.train.run_record import RunRecord

__all__ = ["write_report"]


def write_report(record: RunRecord, data: ShardSet, model: nn.Module, predictions: Predictions | None) -> None:
    """Write `report.html` into the run's directory, and its pictures into `pictures/` there.

    Without matplotlib, leave out the drawings and log the command that installs it.

    Args:
        record: the run, with its summary.
        data: its shards.
        model: the trained model.
        predictions: of that model on the final split; None if the shards have no un-augmented split.

    Raises:
        DataError: shards are missing or damaged, or the log lacks an epoch.
        OSError: no space, no permission.
    """
    record.check_epochs()
    drawn = _can_draw(record.path / "report.html")
    files: sections.Files = {}
    confusion = Confusion.of(predictions) if predictions else None
    scores = class_scores(confusion) if confusion else []
    parts = [sections.top(record, hints(_facts(record, data, scores)))]
    if drawn:
        steps = data.samples("train") // record.settings["recipe"]["batch_size"] * len(record.epochs)
        parts.append(sections.curves(record, steps, files))
    parts.append(sections.augmentation(record, data, predictions, files))
    if predictions is None or confusion is None:
        parts.append(
            page.section("Classes", page.paragraph("The shards have no test split, so nothing was evaluated."))
        )
    else:
        parts += [
            sections.classes(data.classes, confusion, scores, predictions.split, files, drawn=drawn),
            sections.mistakes(data, predictions, files),
            sections.heat_maps(data, model, predictions, scores, files),
        ]
    parts += [sections.time_and_data(record, data), sections.settings(record, data)]
    pictures = record.path / "pictures"
    pictures.mkdir(exist_ok=True)
    for name, content in files.items():
        write_atomic(pictures / name, content)
    write_atomic(record.path / "report.html", page.page(f"{data.name}: {record.path.name}", parts).encode())


def _can_draw(page: Path) -> bool:
    try:
        import_optional("matplotlib.figure", "report", "a drawing")
    except MachineError as error:
        log(f"{page} lacks the curves, the schedule and the confusion matrix: {error}")
        return False
    return True


def _facts(record: RunRecord, data: ShardSet, scores: list[ClassScore]) -> Facts:
    epochs = record.epochs
    held_out = record.held_out
    mean, std = input_statistics(data) or (None, None)
    return Facts(
        classes=data.classes,
        first_loss=record.summary["first_loss"],
        train_accuracy=[epoch.train_accuracy for epoch in epochs],
        held_out=held_out,
        held_out_images=data.samples(held_out) if held_out else 0,
        held_out_loss=[epoch.held_out_loss for epoch in epochs if epoch.held_out_loss is not None],
        held_out_accuracy=record.held_out_accuracy,
        utilization=record.summary["utilization"],
        mean=mean,
        std=std,
        scores=scores,
    )
