"""Learner: what a step changes: model, optimizer, schedule, loss scale, and an average of the weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.models import FastNet, build
from prebake.train.recipes import Recipe, one_cycle

__all__ = ["Learner"]


class Learner:
    """A fresh model of a recipe, and all that is needed to take steps with it.

    Args:
        recipe: which model, and its hyperparameters.
        channels: of the images.
        classes: how many.
        steps: of the whole run, which the schedule is laid out over.
        device: where.
        scaled: whether losses are scaled, as float16 needs it.
        world: the processes that take each step together.
        sync_batchnorm: whether batch norm normalizes by the whole batch, and not each slice by itself.

    Attributes:
        model: that steps change, on the device, in channels_last memory.
        net: what a step calls for its logits: the model, which in several processes then learns from all slices.
    """

    def __init__(
        self,
        recipe: Recipe,
        channels: int,
        classes: int,
        *,
        steps: int,
        device: torch.device,
        scaled: bool,
        processes: ProcessGroup = SINGLE_PROCESS,
        sync_batchnorm: bool = False,
    ) -> None:
        self._recipe, self._steps, self._processes = recipe, steps, processes
        model = build(recipe, channels, classes)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this form
        if sync_batchnorm and processes.size > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        # Each rank's running statistics are of its own slices. Rank 0's are kept, and given to all before each step:
        # what its checkpoint holds is all there is, and a run that goes on from it is the one that was not interrupted.
        self.net: nn.Module = self.model if processes.size == 1 else DistributedDataParallel(self.model)
        self._mix = get_ema_multi_avg_fn(recipe.ema)
        self._average = AveragedModel(self.model, multi_avg_fn=self._mix, use_buffers=True) if recipe.ema else None
        self.optimizer = torch.optim.SGD(
            _groups(self.model, recipe),
            momentum=recipe.momentum,
            nesterov=True,
            fused=device.type in ("cpu", "cuda"),
        )
        self.scheduler = one_cycle(recipe, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        if scaled:
            # Where the very first step overflows, the fused one leaves its momentum as memory happens to be. From zeros
            # the first step is the same.
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and kept: the average where the recipe asks for one."""
        kept: nn.Module = self.model if self._average is None else self._average.module
        return kept

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def whitens(self) -> bool:
        """Whether `whiten` is to be called before the first step."""
        return isinstance(self.model, FastNet) and self._recipe.whiten

    def whiten(self, images: Tensor) -> None:
        """Make the model's stem from some images, (N, C, H, W) float32, normalized."""
        if isinstance(self.model, FastNet):
            self.model.whiten(images)  # on the CPU: MPS has no float64
            self._processes.broadcast([self.model.stem.weight])  # libraries on other machines may choose other signs

    def step(self, loss: Tensor) -> None:
        """Take a step down the loss."""
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._follow(self._average)
        if self.scheduler.last_epoch + 1 < self._steps:
            self.scheduler.step()

    def _follow(self, average: AveragedModel) -> None:
        """Do as `update_parameters` does, which copies its counter to the device in each step, and waits for that."""
        if average.n_averaged == 0:  # it is on the CPU; the first weights are the first average
            average.update_parameters(self.model)
            return
        ours = [*average.module.parameters(), *average.module.buffers()]
        theirs = [*self.model.parameters(), *self.model.buffers()]
        pairs = list(zip(ours, theirs, strict=True))
        for floats in (True, False):
            alike = [pair for pair in pairs if pair[0].is_floating_point() == floats]
            if alike:
                self._mix([mine for mine, _ in alike], [new.detach() for _, new in alike], None)
        average.n_averaged += 1

    def sync_buffers(self) -> None:
        """Take over rank 0's running statistics, as the next step would: then all have one model."""
        self._processes.broadcast(self.model.buffers())
        if self._average is not None:
            self._processes.broadcast(self._average.buffers())

    def tensors(self) -> dict[str, Tensor]:
        """Return what was learnt as `model.NAME`, `momentum.NAME` and `average.NAME`; no copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            if parameter in self.optimizer.state:  # it is not before the first step
                tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        return tensors

    def values(self) -> dict[str, Any]:
        """Return where schedule and scale stand, as plain JSON values."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "rates": [{"lr": group["lr"], "momentum": group["momentum"]} for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Put back what `tensors` and `values` returned; raises KeyError, ValueError and RuntimeError over others."""
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in self.model.state_dict()})
        for name, parameter in self.model.named_parameters():
            if f"momentum.{name}" in tensors:
                # In the parameter's own memory format, as the fused step wants it.
                buffer = torch.empty_like(parameter, requires_grad=False)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{name}"])
        if self._average is not None:
            self._average.load_state_dict({name: tensors[f"average.{name}"] for name in self._average.state_dict()})
        for group, rates in zip(self.optimizer.param_groups, values["rates"], strict=True):
            group.update(rates)
        self.scheduler.load_state_dict(values["scheduler"])
        self.scaler.load_state_dict(values["scaler"])


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the parameters that are trained, with rate and weight decay; batch norm's biases apart."""
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    biases = [module.bias for module in model.modules() if isinstance(module, norms)]
    apart = {id(bias) for bias in biases}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in apart]
    rate, decay, factor = recipe.peak_lr, recipe.weight_decay, recipe.bias_lr
    return [
        {"params": others, "lr": rate, "weight_decay": decay},
        {"params": biases, "lr": rate * factor, "weight_decay": decay / factor},
    ]
