"""Tally: losses and right answers of an epoch's steps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from prebake.train.distributed import ProcessGroup

__all__ = ["EpochMetrics"]


class EpochMetrics:
    """What the steps of an epoch came to so far, over all processes.

    Each keeps its own figures on its device: to fetch one would be to wait for its step, and to add them up at each
    step would be to wait for the others.

    Args:
        steps: of an epoch.
        device: of the losses.
        world: the processes whose slices they are of.
    """

    def __init__(self, steps: int, device: torch.device, processes: ProcessGroup) -> None:
        self._processes = processes
        self._losses = torch.zeros(steps, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, step: int, loss: Tensor, correct: Tensor) -> None:
        """Take down a step's mean loss and its number of right answers."""
        self._losses[step] = loss
        self._correct += correct

    def clear(self) -> None:
        """Begin another epoch."""
        self._losses.zero_()
        self._correct.zero_()

    def losses(self) -> list[float]:
        """Return the mean loss of each step, 0 where it is still to come; waits for the device and the others."""
        losses: list[float] = self._processes.mean(self._losses).tolist()
        return losses

    def correct(self) -> int:
        """Return the number of right answers; waits for the device and the others."""
        return int(self._processes.total(self._correct).item())

    def tensors(self) -> dict[str, Tensor]:
        """Return both over all processes, to be restored by any number of them."""
        return {"losses": self._processes.mean(self._losses), "right": self._processes.total(self._correct)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` returned; raises KeyError and RuntimeError over something else."""
        self._losses.copy_(tensors["losses"])
        self._correct.copy_(tensors["right"] if self._processes.is_main else torch.zeros_like(self._correct))
