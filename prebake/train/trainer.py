"""The training loop."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from prebake.errors import DataError
from prebake.loader.data_wait import DataWaitMeter
from prebake.loader.follow import wait_for_epoch
from prebake.loader.loader import Loader
from prebake.loader.shard_set import ShardSet
from prebake.signals import defer_signals
from prebake.train.compile import compile_errors, compiled, rehearse
from prebake.train.device import PRECISIONS, autocast, random_state, restore_random_state, synchronize
from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.divergence import not_finite, of_held_out, of_step, of_weights
from prebake.train.evaluate import Score, evaluate, final_shape
from prebake.train.metrics import EpochMetrics
from prebake.train.models import Model, find_model
from prebake.train.optim import Learner
from prebake.train.progress_bar import progress
from prebake.train.state import EpochReport, Saved, Settings, State

__all__ = ["Trainer"]

INITIAL_IMAGES = 1000  # that a model may be initialized from


class Trainer:
    """Trains one model on one shard set, step by step and epoch by epoch.

    Args:
        data: the shards.
        settings: everything but the data that the outcome depends on.
        model: the model of `settings.recipe`, if its name alone does not lead to it.
        follow: wait for shards that another process is still baking.
        processes: the processes that train it together, each on a part of each batch; all call all methods in step.

    Attributes:
        learner: model and optimizer.
        state: progress and measurements; it changes between steps only, as the learner does.
        steps: of the whole run.
    """

    def __init__(
        self,
        data: ShardSet,
        settings: Settings,
        *,
        model: Model | None = None,
        follow: bool = False,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.data, self.settings, self._follow, self.processes = data, settings, follow, processes
        self.device = torch.device(settings.device)
        recipe = settings.recipe
        # Shapes do not change, so cuDNN may measure once which of its kernels are the fastest.
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        torch.manual_seed(settings.seed)
        self.steps_per_epoch = data.samples("train") // recipe.batch_size
        self.steps = self.steps_per_epoch * settings.recipe.epochs
        *image_size, channels = final_shape(data)
        model = model or find_model(recipe.model)
        self.learner = Learner(
            model.build(channels, len(data.classes), (image_size[0], image_size[1]), recipe.model_options),
            recipe,
            steps=self.steps,
            device=self.device,
            scaled=settings.precision == "fp16",
            processes=processes,
            sync_batchnorm=bool(settings.sync_batchnorm),
        )
        self.held_out = next((split for split in ("val", "test") if split in data.splits), None)
        self.state = State()
        self._metrics = EpochMetrics(self.steps_per_epoch, self.device, processes)
        self._waits = DataWaitMeter(self.device)
        self._started: float | None = None
        self._forward = compiled(self._eager_forward, self.device) if settings.compiled else self._eager_forward

    def run(self, between_steps: Callable[[], None] | None = None) -> Iterator[EpochReport]:
        """Train the remaining epochs, and yield a report after each.

        Signals are handled and shards are read between two steps only. So after an interruption or a DataError, `save`
        returns a consistent state.

        Args:
            between_steps: called after each step.

        Raises:
            DataError: shards missing or damaged.
            DivergedError: a loss is not finite.
            MachineError: torch.compile failed.
        """
        epochs, state = self.settings.recipe.epochs, self.state
        if state.world_sizes[-1:] != [self.processes.size]:
            state.world_sizes.append(self.processes.size)
        if self._follow:
            for split in self.data.splits:
                if split != "train":
                    wait_for_epoch(self.data, split, 0, threading.Event())
        if hasattr(self.learner.model, "initialize_from") and not self.steps_done:
            self.learner.initialize_from(self._initial_images())
        with self._loader() as loader:
            if self.settings.compiled or self.device.type == "cuda":
                self.warm_up()
            while state.epoch < epochs:
                self._steps(loader, between_steps)
                report = self._report()
                with defer_signals():
                    state.reports.append(report)
                    state.epoch, state.step, state.train_seconds = state.epoch + 1, 0, 0.0
                    self._metrics.clear()
                yield report

    def _loader(self) -> Loader:
        """Return a loader of the training batches, at the run's next step."""
        recipe, processes = self.settings.recipe, self.processes
        loader = Loader(
            self.data,
            "train",
            batch_size=recipe.batch_size // processes.size,
            device=self.device,
            dtype=PRECISIONS[self.settings.precision],
            drop_last=True,
            shuffle_seed=self.settings.shuffle_seed,
            rank=processes.rank,
            world_size=processes.size,
            epochs=recipe.epochs,
            replay=True,
            reuse_buffers=True,
            follow=self._follow,
            data_wait=self._waits,
        )
        position = {"epoch": self.state.epoch, "sample": self.state.step * recipe.batch_size}
        loader.load_state_dict(loader.state_dict() | position)
        return loader

    def _initial_images(self) -> Tensor:
        """Return the first images that are trained on: (N, C, H, W) float32, normalized, on the CPU."""
        if self._follow:
            wait_for_epoch(self.data, "train", 0, threading.Event())
        count = min(INITIAL_IMAGES, self.data.samples("train"))
        images_NHWC, _ = next(self.data.batches("train", 0, batch_size=count))
        return torch.from_numpy(self.data.normalize(images_NHWC)).permute(0, 3, 1, 2)

    def warm_up(self) -> None:
        """Compile, load kernels and let cuDNN choose its algorithms, so that the first step is not slow.

        Weights, running statistics, random numbers, optimizer and schedule do not change. The time is added to the
        state's `compile_seconds`.

        Raises:
            MachineError: torch.compile failed.
        """
        started = time.perf_counter()
        size = self.settings.recipe.batch_size // self.processes.size
        shape = self.data.image_shape("train", self.state.epoch % self.data.epochs)
        images_NHWC = torch.zeros((size, *shape), dtype=PRECISIONS[self.settings.precision], device=self.device)
        labels = torch.zeros(size, dtype=torch.int64, device=self.device)
        with compile_errors() if self.settings.compiled else contextlib.nullcontext():
            rehearse(lambda: self._forward(images_NHWC.permute(0, 3, 1, 2), labels), self.learner.model, self.device)
        synchronize(self.device)
        self.state.compile_seconds += time.perf_counter() - started

    def _steps(self, loader: Loader, between_steps: Callable[[], None] | None) -> None:
        """Take the remaining steps of this epoch."""
        state = self.state
        title = f"{self.data.name} epoch {state.epoch + 1}/{self.settings.recipe.epochs}"
        on_cpu = self.device.type == "cpu"
        self._started = time.perf_counter()
        for images, labels in progress(loader, title, state.step, self.steps_per_epoch):
            with defer_signals():
                loss, correct = self.step(images, labels)
                self._metrics.add(state.step, loss, correct)
                state.step += 1
            if on_cpu and not math.isfinite(self.processes.all_reduce_mean(loss).item()):
                self.check_losses()
            if between_steps is not None:
                between_steps()
        with defer_signals():
            self._stop_clock()

    def _report(self) -> EpochReport:
        """Evaluate the model after an epoch's steps, and return the epoch's report."""
        losses = self.check_losses()
        self.learner.sync_buffers()
        state, steps = self.state, self.steps_per_epoch
        images = steps * self.settings.recipe.batch_size
        if state.epoch == 0:
            state.first_loss = losses[0]
        evaluated = time.perf_counter()
        score = self.evaluate(self.held_out) if self.held_out else None
        if self.held_out and score and not math.isfinite(score.loss):
            raise of_held_out(self.data, self.settings, state.epoch, self.held_out, score.loss)
        return EpochReport(
            epoch=state.epoch,
            train_loss=math.fsum(losses) / steps,
            train_accuracy=self._metrics.correct() / images,
            held_out=self.held_out,
            held_out_loss=score.loss if score else None,
            held_out_accuracy=score.accuracy if score else None,
            lr=self.learner.lr,
            images_per_second=images / state.train_seconds,
            train_seconds=state.train_seconds,
            wait_seconds=sum(state.waits[state.epoch * steps :]),
            evaluate_seconds=time.perf_counter() - evaluated,
        )

    def check_losses(self) -> list[float]:
        """Return this epoch's losses; raise DivergedError if one is not finite; waits for the device."""
        epoch, losses = self.state.epoch, self._metrics.losses()
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise of_step(self.data, self.settings, epoch, step, loss, epoch % self.data.epochs)
        return losses

    @contextlib.contextmanager
    def pause_clock(self) -> Iterator[None]:
        """Do not count the time of the block, between two steps, as training."""
        running = self._started is not None
        self._stop_clock()
        yield
        self._started = time.perf_counter() if running else None

    def _stop_clock(self) -> None:
        if self._started is not None:
            synchronize(self.device)
            self.state.train_seconds += time.perf_counter() - self._started
            self._started = None
            self.state.waits += self.processes.all_reduce_max(self._waits.take())
            del self.state.waits[self.steps_done :]  # of a batch that was read and not used

    @property
    def steps_done(self) -> int:
        """Number of steps that the run has taken."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step; return the loss and the number of correct answers, on the device, valid until the next step.

        Args:
            images: (N, C, H, W), this process's part of the batch, normalized, on the device, in the precision's dtype.
            labels: (N,), on the device.
        """
        loss, correct = self._forward(images, labels)
        self.learner.step(loss)
        return loss.detach(), correct

    def _eager_forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.device, self.settings.precision):
            logits = self.learner.net(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.recipe.label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def evaluate(self, split: str, *, tta: bool = False) -> Score:
        """Score the model as it stands."""
        return evaluate(
            self.learner.eval_model,
            self.data,
            split,
            self.device,
            self.settings.precision,
            tta=tta,
            processes=self.processes,
        )

    def save(self) -> Saved:
        """Return all state; a run resumed from it equals an uninterrupted one. Waits for the device.

        The tensors are not copies: write them before the next step.

        Raises:
            DivergedError: a loss, a weight or a momentum is not finite.
        """
        self._stop_clock()
        losses = self.check_losses()
        self.learner.sync_buffers()
        state = self.state
        if state.epoch == 0 and state.step:
            state.first_loss = losses[0]
        tensors = self.learner.tensors()
        if bad := not_finite(tensors):
            raise of_weights(self.data, self.settings, self.steps_done, bad)
        tensors |= {f"random.{name}": tensor for name, tensor in random_state(self.device).items()}
        tensors |= self._metrics.tensors()
        tensors["waits"] = torch.tensor(state.waits, dtype=torch.float64)
        return Saved(tensors, {"state": state.to_json(), **self.learner.values()})

    def restore(self, saved: Saved) -> None:
        """Restore what `save` returned.

        Raises:
            DataError: it is of another model, or of another release.
        """
        try:
            self._restore(saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{self.data.name}: the checkpoint does not fit ({error}); --overwrite (overwrite=True) "
                "starts the run anew"
            ) from None

    def _restore(self, saved: Saved) -> None:
        tensors, values = saved.tensors, saved.values
        self.learner.restore(tensors, values)
        self.state = State.from_json(values["state"], tensors["waits"].tolist())
        self._metrics.restore(tensors)
        random = {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("random.")}
        restore_random_state(self.device, random)
