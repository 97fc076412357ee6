"""The training loop."""

import contextlib
import itertools
import math
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from shards import ShardSet
from shards.errors import DivergedError
from shards.follow import wait_for_epoch
from train.compile import compile_errors, compiled
from train.device import PRECISIONS, autocast, synchronize
from train.evaluate import Score, evaluate
from train.feed import Converter, feed
from train.models import build
from train.recipes import Recipe, one_cycle
from train.stream import Stream
from train.waits import Waits

__all__ = ["EpochReport", "Settings", "Trainer"]

# CUDA graphs run eagerly once, are recorded, and then replayed: the third pass is the first as all others are.
WARM_UP_PASSES = 3


@dataclass(frozen=True)
class Settings:
    """All that a run's outcome depends on, besides the shards."""

    recipe: Recipe
    seed: int
    device: str
    precision: str
    compiled: bool = False
    order_seed: int | None = None


@dataclass(frozen=True)
class EpochReport:
    """What one epoch was: losses in nats, accuracies 0 to 1, rate of images, seconds of each activity.

    `train_loss` is what was minimized, with label smoothing where the recipe has it; `held_out_loss` is
    without. `lr` is what the schedule has come to.
    `held_out` names the split that was scored, or is None where the shards hold none.
    `train_seconds` is synchronized and contains `wait_seconds`; evaluation is apart from both.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    held_out: str | None
    held_out_loss: float | None
    held_out_accuracy: float | None
    lr: float
    images_per_second: float
    train_seconds: float
    wait_seconds: float
    evaluate_seconds: float


@dataclass
class State:
    """What a checkpoint holds besides weights and optimizer."""

    epoch: int = 0
    first_loss: float = 0.0
    compile_seconds: float = 0.0
    reports: list[EpochReport] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


class Trainer:
    """Trains one model on one shard set, epoch by epoch.

    Args:
        data: the shards.
        settings: all that the outcome depends on.
        follow: wait for shards that another process is still baking.

    Attributes:
        model: on its device, in channels_last memory.
        state: the epochs done.
    """

    def __init__(self, data: ShardSet, settings: Settings, *, follow: bool = False) -> None:
        self.data, self.settings, self._follow = data, settings, follow
        self.device = torch.device(settings.device)
        recipe = settings.recipe
        # Shapes don't change, so it pays to let cuDNN try which of its kernels are the fastest.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.manual_seed(settings.seed)
        model = build(recipe, len(data.plan.source.mean), len(data.classes))
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this form
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.peak_lr,
            momentum=recipe.momentum,
            nesterov=True,
            weight_decay=recipe.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.steps_per_epoch = data.samples("train") // recipe.batch_size
        self.steps = self.steps_per_epoch * settings.recipe.epochs
        self.scheduler = one_cycle(recipe, self.optimizer, self.steps)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.held_out = next((split for split in ("val", "test") if split in data.splits), None)
        self.state = State()
        self._forward = compiled(self._eager_forward, self.device) if settings.compiled else self._eager_forward

    def run(self) -> Iterator[EpochReport]:
        """Train the epochs that are left, yielding a report after each.

        Raises:
            DataError: shards missing or damaged.
            DivergedError: the loss is not finite.
            MachineError: torch.compile failed.
        """
        variants = [epoch % self.data.epochs for epoch in range(self.state.epoch, self.settings.recipe.epochs)]
        convert = Converter(self.data.plan, self.device, PRECISIONS[self.settings.precision])
        batch_size = self.settings.recipe.batch_size
        if self._follow:
            for split in self.data.splits:
                if split != "train":
                    wait_for_epoch(self.data, split, 0, threading.Event())
        with Stream(
            self.data,
            "train",
            variants,
            batch_size,
            drop_last=True,
            pin=self.device.type == "cuda",
            follow=self._follow,
            order_seed=self.settings.order_seed,
            first_epoch=self.state.epoch,
        ) as stream:
            if self.settings.compiled or self.device.type == "cuda":
                self.warm_up()
            waits = Waits(self.device)
            batches = feed(stream, convert, self.device, waits)
            while self.state.epoch < self.settings.recipe.epochs:
                report = self._epoch(batches, waits)
                self.state.reports.append(report)
                self.state.epoch += 1
                yield report

    def warm_up(self) -> None:
        """Do before the first step what it would else be slow for: compile, load kernels, let cuDNN choose.

        Forward and backward passes on a batch of zeros; weights, running statistics, random numbers, optimizer
        and schedule stay as they are. Their seconds are the state's `compile_seconds`.

        Raises:
            MachineError: torch.compile failed.
        """
        started = time.perf_counter()
        cuda = self.device.type == "cuda"
        shape = (self.settings.recipe.batch_size, *self.data.image_shape("train"))
        images_NHWC = torch.zeros(shape, dtype=PRECISIONS[self.settings.precision], device=self.device)
        labels = torch.zeros(shape[0], dtype=torch.int64, device=self.device)
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        saying = compile_errors() if self.settings.compiled else contextlib.nullcontext()
        with torch.random.fork_rng([self.device] if cuda else []), saying:
            for _ in range(WARM_UP_PASSES if cuda else 1):
                self._forward(images_NHWC.permute(0, 3, 1, 2), labels)[0].backward()
                self.optimizer.zero_grad(set_to_none=True)
        for buffer, saved in zip(self.model.buffers(), statistics, strict=True):
            buffer.copy_(saved)
        synchronize(self.device)
        self.state.compile_seconds += time.perf_counter() - started

    def _epoch(self, batches: Iterator[tuple[Tensor, Tensor]], waits: Waits) -> EpochReport:
        started = time.perf_counter()
        loss, accuracy = self._steps(batches)
        synchronize(self.device)
        seconds = time.perf_counter() - started
        waited = waits.take()
        self.state.waits += waited
        rate = self.optimizer.param_groups[0]["lr"]
        evaluated = time.perf_counter()
        score = self.evaluate(self.held_out) if self.held_out else None
        for value in (loss, score.loss if score else 0.0):
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.data.name}: the loss of epoch {self.state.epoch} is {value}; "
                    f"a lower --lr than {self.settings.recipe.peak_lr} may help"
                )
        return EpochReport(
            epoch=self.state.epoch,
            train_loss=loss,
            train_accuracy=accuracy,
            held_out=self.held_out,
            held_out_loss=score.loss if score else None,
            held_out_accuracy=score.accuracy if score else None,
            lr=float(rate),
            images_per_second=self.steps_per_epoch * self.settings.recipe.batch_size / seconds,
            train_seconds=seconds,
            wait_seconds=sum(waited),
            evaluate_seconds=time.perf_counter() - evaluated,
        )

    def _steps(self, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Take an epoch's steps; return mean loss and accuracy, fetched from the device once, at the end."""
        total, right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        first: Tensor | None = None
        bar = tqdm(
            itertools.islice(batches, self.steps_per_epoch),
            total=self.steps_per_epoch,
            desc=f"{self.data.name} epoch {self.state.epoch + 1}/{self.settings.recipe.epochs}",
            unit=" steps",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        for images, labels in bar:
            loss, right_here = self.step(images, labels)
            total += loss
            right += right_here
            first = loss.clone() if first is None else first
        if self.state.epoch == 0 and first is not None:
            self.state.first_loss = first.item()
        return total.item() / self.steps_per_epoch, right.item() / (
            self.steps_per_epoch * self.settings.recipe.batch_size
        )

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step; return the loss and the number of right answers, on the device, valid until the next step.

        Args:
            images: (N, C, H, W), normalized, on the device, in the precision's dtype.
            labels: (N,), on the device.
        """
        loss, right = self._forward(images, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.scheduler.last_epoch + 1 < self.steps:
            self.scheduler.step()
        return loss.detach(), right

    def _eager_forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.settings.precision):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.recipe.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def evaluate(self, split: str, *, tta: bool = False) -> Score:
        """Score the model as it is."""
        return evaluate(self.model, self.data, split, self.device, self.settings.precision, tta=tta)

    def save(self) -> dict[str, Any]:
        """Return everything needed to go on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": asdict(self.state),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `save` returned."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        reports = [EpochReport(**report) for report in saved["state"]["reports"]]
        self.state = State(**{**saved["state"], "reports": reports})
