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
    """Return the device of a name; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: no such kind of device.
        MachineError: this machine has no such device.
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
        torch.cuda.set_device(int(number))  # the default of streams and pinned memory
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return the name of the precision; `auto` is bf16 where that is native, else fp16 on CUDA, else fp32.

    Raises:
        UsageError: no such precision, or the device does not train in it.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        # There is no public function for this; torch's own tests use this one.
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return "bf16" if native else "fp32"
    if name not in PRECISIONS:
        raise UsageError(f"--precision: expected auto or one of {', '.join(PRECISIONS)}, found {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"--precision: fp16 needs a CUDA device, found {device.type}; take bf16 or fp32")
    return name


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context for a forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def synchronize(device: torch.device) -> None:
    """Wait for all work of the device, as before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the random number generators of the CPU and of the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Restore what `random_state` returned; raises KeyError over another device's."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["mps"])


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step; without effect with another C library.

    By default glibc returns large blocks to the system, which clears their pages anew at the next step. That took a
    fifth of the time of training on the CPU (LOG.md). Keeping them takes a third more memory. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # allocate large blocks on the heap, too
        mallopt(M_TRIM_THRESHOLD, -1)  # never shrink the heap


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
