"""Reports of small models on small random shard sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import prebake
from prebake.loader.shard_set import ShardSet
from prebake.precompute.augment import Augmentation
from prebake.train.evaluate import final_split, predict
from prebake.train.report import write_report
from prebake.train.run_record import RunRecord
from tests.helpers.html import Page


def page_of(run: Path) -> Page:
    """Parse the report of a run."""
    return Page((run / "report.html").read_text(encoding="utf-8"))


def bake_random(out: Path, classes: list[str], **changes: Any) -> ShardSet:
    """Bake random 8x10 colour images of those classes: 60 to train, 40 to test."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (100, 8, 10, 3), dtype=np.uint8)
    labels = rng.integers(0, len(classes), 100)
    if len(classes) > 60:
        labels[60:] = labels[:40]  # a class of the test split must be in train, too
    options: dict[str, Any] = {"test": (images[60:], labels[60:])}
    augment = Augmentation("standard", pad=1, pad_mode="reflect", flip="random", cutout=2)
    prebake.bake(
        images[:60], labels[:60], classes=classes, augment=augment, name="mine", epochs=2, out=out, **options | changes
    )
    return ShardSet(out)


def small_model(data: ShardSet) -> nn.Module:
    """Build an untrained classifier with one convolution."""
    torch.manual_seed(1)
    channels = data.image_shape("train")[2]
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, len(data.classes)),
    )


def write_report_of(run: Path, data: ShardSet, model: nn.Module) -> Page:
    """Write the report of a model on a set into the directory of another run, with that run's curves."""
    split = final_split(data)
    predictions = predict(model, data, split, torch.device("cpu"), "fp32", tta=True) if split else None
    scores: dict[str, Any] = {"held_out": split}
    if split is None:
        scores |= {"held_out_loss": None, "held_out_accuracy": None}
    record = RunRecord.read_finished(run)
    write_report(
        replace(record, epochs=[replace(epoch, **scores) for epoch in record.epochs]), data, model, predictions
    )
    return page_of(run)
