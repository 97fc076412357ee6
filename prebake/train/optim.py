"""A model with its optimizer, schedule, loss scale and moving average: all that a step changes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prebake.train.distributed import SINGLE_PROCESS, ProcessGroup
from prebake.train.models import BATCH_NORMS
from prebake.train.recipes import Recipe, one_cycle

__all__ = ["Learner"]


class Learner:
    """A model and all that is needed to take steps with it.

    Args:
        model: with fresh weights.
        recipe: its hyperparameters.
        steps: of the whole run; the schedule ends with them.
        device: to train on.
        scaled: whether to scale losses, as float16 needs it.
        processes: the processes that take each step together.
        sync_batchnorm: whether batch norm normalizes by the whole batch; otherwise each process by its own part.

    Attributes:
        model: on the device, in channels_last memory.
        net: the model as a step calls it; with several processes it is wrapped to average gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        steps: int,
        device: torch.device,
        scaled: bool,
        processes: ProcessGroup = SINGLE_PROCESS,
        sync_batchnorm: bool = False,
    ) -> None:
        self._steps, self._processes = steps, processes
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack this form
        if not recipe.train_scales:
            for module in self.model.modules():
                if isinstance(module, BATCH_NORMS) and module.affine:
                    module.weight.requires_grad = False
        if sync_batchnorm and processes.size > 1:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        # Each process computes running statistics from its own part of a batch. DistributedDataParallel broadcasts
        # rank 0's before each step. So rank 0's checkpoint is complete, and a resumed run equals an uninterrupted one.
        self.net: nn.Module = self.model if processes.size == 1 else DistributedDataParallel(self.model)
        self._update_average = get_ema_multi_avg_fn(recipe.ema)
        self._average = (
            AveragedModel(self.model, multi_avg_fn=self._update_average, use_buffers=True) if recipe.ema else None
        )
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.model, recipe),
            momentum=recipe.momentum,
            nesterov=True,
            fused=device.type in ("cpu", "cuda"),
        )
        self.scheduler = one_cycle(recipe, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        if scaled:
            # If the first step overflows, fused SGD leaves momentum buffers uninitialized. Zeros change no other step.
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average if the recipe asks for one."""
        model: nn.Module = self.model if self._average is None else self._average.module
        return model

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def initialize_from(self, images: Tensor) -> None:
        """Initialize the model from images, (N, C, H, W) float32, normalized, on the CPU; see `models.Model`."""
        self.model.initialize_from(images)
        self._processes.broadcast(self.model.state_dict().values())  # other machines' libraries may round differently

    def step(self, loss: Tensor) -> None:
        """Take a step that lowers the loss."""
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._update(self._average)
        if self.scheduler.last_epoch + 1 < self._steps:
            self.scheduler.step()

    def _update(self, average: AveragedModel) -> None:
        """Do as `update_parameters`, which waits for the device in each step: it copies its counter there."""
        if average.n_averaged == 0:  # the counter is on the CPU; the first weights are the first average
            average.update_parameters(self.model)
            return
        averaged = [*average.module.parameters(), *average.module.buffers()]
        latest = [*self.model.parameters(), *self.model.buffers()]
        pairs = list(zip(averaged, latest, strict=True))
        for floats in (True, False):
            alike = [pair for pair in pairs if pair[0].is_floating_point() == floats]
            if alike:
                self._update_average([old for old, _ in alike], [new.detach() for _, new in alike], None)
        average.n_averaged += 1

    def sync_buffers(self) -> None:
        """Give all processes rank 0's running statistics, as the next step would."""
        self._processes.broadcast(self.model.buffers())
        if self._average is not None:
            self._processes.broadcast(self._average.buffers())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint as `model.NAME`, `momentum.NAME` and `average.NAME`; no copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            if parameter in self.optimizer.state:  # not before the first step
                tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        if self._average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        return tensors

    def values(self) -> dict[str, Any]:
        """Return the state of schedule and loss scale as plain JSON values."""
        return {
            "scheduler": self.scheduler.state_dict(),
            "rates": [{"lr": group["lr"], "momentum": group["momentum"]} for group in self.optimizer.param_groups],
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore what `tensors` and `values` returned; raises KeyError, ValueError and RuntimeError over others."""
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in self.model.state_dict()})
        for name, parameter in self.model.named_parameters():
            if f"momentum.{name}" in tensors:
                # In the parameter's own memory format, as the fused step needs it.
                buffer = torch.empty_like(parameter, requires_grad=False)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{name}"])
        if self._average is not None:
            self._average.load_state_dict({name: tensors[f"average.{name}"] for name in self._average.state_dict()})
        for group, rates in zip(self.optimizer.param_groups, values["rates"], strict=True):
            group.update(rates)
        self.scheduler.load_state_dict(values["scheduler"])
        self.scaler.load_state_dict(values["scaler"])


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the trained parameters with learning rate and weight decay; batch norm's biases are a group apart."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.affine]
    apart = {id(module.bias) for module in norms}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay, factor = recipe.peak_lr, recipe.weight_decay, recipe.bias_lr
    return [
        {"params": [p for p in trained if id(p) not in apart], "lr": rate, "weight_decay": decay},
        {"params": [p for p in trained if id(p) in apart], "lr": rate * factor, "weight_decay": decay / factor},
    ]
