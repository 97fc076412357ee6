"""What was learnt: weights, running statistics and momentum, as tensors by name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["learnt", "not_finite", "restore_learnt"]


def learnt(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a model, as `model.NAME`, and of its optimizer, as `momentum.NAME`; no copies."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:  # it is not before the first step
            tensors[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"]
    return tensors


def restore_learnt(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `learnt` returned; raises KeyError and RuntimeError where it was of another model."""
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        if f"momentum.{name}" in tensors:
            # In the parameter's own memory format, as the fused step wants it.
            buffer = torch.empty_like(parameter, requires_grad=False)
            optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(tensors[f"momentum.{name}"])


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold something else than finite numbers; waits for the device."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
