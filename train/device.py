"""Devices and precisions."""

import contextlib
from typing import Any

import torch

from shards.errors import MachineError, UsageError

__all__ = ["PRECISIONS", "autocast", "choose_device", "choose_precision", "synchronize"]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cuda", "mps", "cpu")


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        UsageError: no such kind of device.
        MachineError: this machine has none.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in DEVICES if there[kind]))
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(
            f"--device: expected auto or one of {', '.join(DEVICES)} (cuda:1 for the second), found {name!r}"
        )
    if not there[kind] or (kind == "cuda" and int(number or 0) >= torch.cuda.device_count()):
        raise MachineError(
            f"--device: this machine has no {name}; there is {', '.join(k for k in DEVICES if there[k])}"
        )
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(int(number or 0))  # so that streams, pinned memory and names are all this device's
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return the name of the precision; `auto` takes bf16 where the device computes it natively, else fp32.

    Raises:
        UsageError: no such precision, or one that the device does not train in.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        # There is no public question for this; torch's own tests ask so.
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return "bf16" if native else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"--precision: expected auto or one of {', '.join(PRECISIONS)}, found {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"--precision: fp16 needs a CUDA device, found {device.type}; take bf16 or fp32")
    return name


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context that a forward pass runs in."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
