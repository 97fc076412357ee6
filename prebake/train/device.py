"""Devices and precisions."""

import contextlib
import ctypes
import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prebake.errors import MachineError, UsageError

__all__ = [
    "PRECISIONS",
    "autocast",
    "choose_device",
    "choose_precision",
    "keep_freed_memory",
    "peak_bytes",
    "random_state",
    "restore_random_state",
    "synchronize",
]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cuda", "mps", "cpu")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


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
    if number:
        torch.cuda.set_device(int(number))  # so that streams, pinned memory and names are all this device's
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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the random numbers of the CPU, and of the device where that is another."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Go on with the random numbers where `random_state` was asked; raises KeyError over another device's."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


def keep_freed_memory() -> None:
    """Let this process keep what its tensors free, for the next step's tensors to lie in, where its C library is glibc.

    glibc gives large blocks back to the system, which clears every page of them anew at the next step. A fifth of the
    seconds of training on the CPU went there (LOG.md); to spare them takes a third more memory. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # large blocks lie in the heap, too
        mallopt(M_TRIM_THRESHOLD, -1)  # which never shrinks


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: the device's by tensors, on the CPU the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
