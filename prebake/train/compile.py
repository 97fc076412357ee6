"""Compile forward pass and loss with torch.compile."""

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

# The first pass of a CUDA graph runs eagerly, the second records the graph, and later passes replay it.
WARM_UP_PASSES = 3

P = ParamSpec("P")
R = TypeVar("R")


def check_compiler(device: torch.device) -> None:
    """Check that the compiler that torch.compile needs for a device is installed.

    Raises:
        UsageError: prebake does not compile for this device.
        MachineError: the C++ compiler (CPU) or Triton (CUDA) is missing.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise MachineError("--compile: CUDA needs the package triton, and it is not installed: pip install triton")
    elif device.type == "cpu":
        # The same choice as in torch.
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(shlex.split(compiler)[0]) is None:
            raise MachineError(
                f"--compile: the CPU needs a C++ compiler, and there is no {compiler}; install one, name another "
                "in the environment variable CXX, or train without --compile"
            )
    else:
        raise UsageError(f"--compile: expected cuda or cpu, found {device.type}; train without it")


def compiled(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """Return a function that is compiled at its first call, together with its backward pass.

    On CUDA it runs as CUDA graphs. Then shapes must not change, and each call overwrites the results of the previous.
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
    """Run forward and backward passes until compilation is complete. Restore all state.

    Args:
        forward: returns the loss, and all other tensors that a step keeps alive: CUDA graphs record which are alive.
        model: its running statistics and gradients are restored.
        device: device of the model.
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
    """Turn errors of torch.compile into a MachineError.

    Raises:
        MachineError: torch.compile failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # most exception classes of torch.compile are private
        reason = " ".join(str(error).split())[:300]
        raise MachineError(f"--compile: torch.compile failed ({reason}); train without --compile") from error
