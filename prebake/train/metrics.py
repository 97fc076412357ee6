"""Losses and numbers of correct answers of an epoch's steps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prebake.train.distributed import ProcessGroup

__all__ = ["EpochMetrics"]


class EpochMetrics:
    """Losses and numbers of correct answers of an epoch's steps, over all processes.

    Each process keeps its values on its device until they are asked for. Reading them at each step would wait for the
    device, and reducing them at each step would wait for the other processes.

    Args:
        steps: per epoch.
        device: of the losses.
        processes: that train together.
    """

    def __init__(self, steps: int, device: torch.device, processes: ProcessGroup) -> None:
        self._processes = processes
        self._losses = torch.zeros(steps, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, step: int, loss: Tensor, correct: Tensor) -> None:
        """Record a step's mean loss and its number of correct answers."""
        self._losses[step] = loss
        self._correct += correct

    def clear(self) -> None:
        """Start another epoch."""
        self._losses.zero_()
        self._correct.zero_()

    def losses(self) -> list[float]:
        """Return the mean loss of each step, 0 for steps to come; waits for the device and the other processes."""
        losses: list[float] = self._processes.all_reduce_mean(self._losses).tolist()
        return losses

    def correct(self) -> int:
        """Return the number of correct answers; waits for the device and the other processes."""
        return int(self._processes.all_reduce_sum(self._correct).item())

    def tensors(self) -> dict[str, Tensor]:
        """Return both over all processes; any number of processes can restore them."""
        return {
            "losses": self._processes.all_reduce_mean(self._losses),
            "correct": self._processes.all_reduce_sum(self._correct),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned; raises KeyError and RuntimeError over something else."""
        self._losses.copy_(tensors["losses"])
        self._correct.copy_(tensors["correct"] if self._processes.is_main else torch.zeros_like(self._correct))
