"""Compiling: forward pass and loss as one program for the device, by torch.compile."""

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from prebake.errors import MachineError, UsageError

__all__ = ["check_compiler", "compile_errors", "compiled", "rehearse"]

# CUDA graphs run eagerly once, are recorded, and then replayed: the third pass is the first as all others are.
WARM_UP_PASSES = 3

P = ParamSpec("P")
R = TypeVar("R")


def check_compiler(device: torch.device) -> None:
    """Ask for what torch.compile needs on that device, before anybody waits for it in vain.

    Raises:
        UsageError: a kind of device that we don't compile for.
        MachineError: no C++ compiler, which the CPU needs, or no Triton, which CUDA needs.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise MachineError("--compile: CUDA needs the package triton, and it is not installed: pip install triton")
    elif device.type == "cpu":
        # As torch chooses it.
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(shlex.split(compiler)[0]) is None:
            raise MachineError(
                f"--compile: the CPU needs a C++ compiler, and there is no {compiler}; install one, name another "
                "in the environment variable CXX, or train without --compile"
            )
    else:
        raise UsageError(f"--compile: expected cuda or cpu, found {device.type}; train without it")


def compiled(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """Return the function, to be compiled at its first call, backward pass included.

    On CUDA its launches are recorded as CUDA graphs, which leaves the host next to nothing to do. Shapes must
    then stay as they are, and what a call returned is overwritten by the next one.
    """
    if device.type != "cuda":
        return torch.compile(function, fullgraph=True, dynamic=False)
    graphed = torch.compile(function, fullgraph=True, dynamic=False, mode="reduce-overhead")

    @functools.wraps(function)
    def step(*args: P.args, **kwargs: P.kwargs) -> R:
        torch.compiler.cudagraph_mark_step_begin()
        return graphed(*args, **kwargs)

    return step


def rehearse(forward: Callable[[], tuple[Tensor, ...]], model: nn.Module, device: torch.device) -> None:
    """Go forward and backward as often as the first real pass needs to be as all others are; leave no trace.

    Args:
        forward: returns a loss, and what else a step holds meanwhile: a CUDA graph expects dead what was dead.
        model: whose running statistics and gradients stay as they are.
        device: of the model.
    """
    cuda = device.type == "cuda"
    statistics = [buffer.clone() for buffer in model.buffers()]
    try:
        with torch.random.fork_rng([device] if cuda else []):
            for _ in range(WARM_UP_PASSES if cuda else 1):
                outputs = forward()
                outputs[0].backward()
                model.zero_grad(set_to_none=True)
    finally:
        for buffer, saved in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(saved)


@contextlib.contextmanager
def compile_errors() -> Iterator[None]:
    """Turn what goes wrong in torch.compile into words.

    Raises:
        MachineError: with the reason, which depends on compilers, drivers and the release of torch.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch wraps some of them in its own classes, of which few are public
        reason = " ".join(str(error).split())[:300]
        raise MachineError(f"--compile: torch.compile failed ({reason}); train without --compile") from error
