"""The group of processes that train one run under torchrun."""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from prebake.errors import MachineError, UsageError
from prebake.signals import defer_signals
from prebake.train.state import Settings

__all__ = ["SINGLE_PROCESS", "ProcessGroup"]

# How long a process waits for the others, which may wait for data or a disk.
TIMEOUT = timedelta(minutes=10)
# A process exits if its step does not end within this time after a signal: it waits for processes that have exited.
# torchrun kills after 30 seconds.
STOP_SECONDS = 20.0
# Matches gloo's errors over a lost process, which are plain RuntimeErrors.
LOST = re.compile("gloo|by peer|[Tt]imed out")

T = TypeVar("T")


class ProcessGroup:
    """This process and the others that train the same run. With one process, every method returns at once.

    `batch_size` is the global batch size. Each process trains on one of `size` equal parts of a batch.

    Args:
        rank: number of this process. Only rank 0 prints and writes the run's files.
        size: number of processes.
        local_rank: number of this process on this machine, and of its GPU.
        local_size: number of processes on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self._local_rank, self._local_size = rank, size, local_rank, local_size
        self._pending: tuple[Tensor, Any] | None = None  # the unfinished all-reduce of the last signal

    @classmethod
    def from_torchrun(cls) -> "ProcessGroup":
        """Return the group that torchrun's environment variables describe, or a single process without them."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def check(self, settings: Settings, samples: int, least: int) -> None:
        """Check that these processes can train a run.

        Args:
            settings: settings of the run.
            samples: number of training images.
            least: fewest samples per process and batch that the model can train on: 2 for batch norm.

        Raises:
            UsageError: batches can't be split into equal parts, or an option does not support several processes.
            MachineError: fewer GPUs than processes.
        """
        device, batch = settings.device, settings.recipe.batch_size
        if settings.sync_batchnorm and not device.startswith("cuda"):
            raise UsageError(f"--sync-batchnorm: torch has it for CUDA only, found --device {device}; train without it")
        if batch < least:
            raise UsageError(f"--batch-size: expected at least {least}, as batch norm needs, found {batch}")
        if self.size == 1:
            return
        if device not in ("cpu", "cuda"):
            raise UsageError(
                f"--device: torchrun assigns the GPUs, so several processes train on cuda or cpu; found {device}"
            )
        if device == "cuda" and self._local_size > torch.cuda.device_count():
            raise MachineError(
                f"--device: {self._local_size} processes on this machine with {torch.cuda.device_count()} GPUs; "
                f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu"
            )
        if settings.compiled:
            raise UsageError("--compile: for one process only; train without it, or without torchrun")
        lowest = least * self.size
        if batch % self.size or batch < lowest:
            near = {max(lowest, batch - batch % self.size), max(lowest, batch - batch % self.size + self.size)}
            sizes = " or ".join(str(size) for size in sorted(near) if size <= samples)
            raise UsageError(
                f"--batch-size: batches of {batch} can't be split into {self.size} equal parts of at least "
                f"{least}, one for each process; {f'{sizes} can' if sizes else 'train with fewer processes'}"
            )

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the other processes for the block: gloo for CPU tensors, NCCL for GPU tensors.

        Raises:
            MachineError: another process has ended, or does not answer.
        """
        if self.size == 1:
            yield
            return
        if self._local_rank < torch.cuda.device_count():
            torch.cuda.set_device(self._local_rank)
        try:
            store, *_ = next(rendezvous("env://", timeout=TIMEOUT))
            # torchrun may keep its store when it restarts processes. The store then holds addresses of the old ones.
            attempt = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            # Signals are reduced on the CPU, and torch's default on a GPU is NCCL alone.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            dist.init_process_group(backend, store=attempt, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not LOST.search(str(error)):
                raise
            reason = " ".join(str(error).split())[:800]  # NCCL states the cause at the end
            raise MachineError(
                f"process {self.rank} of {self.size}: another one has ended or does not answer ({reason}). "
                "Its own message stands above; --resume auto resumes from the last checkpoint"
            ) from error
        dist.destroy_process_group()

    @contextlib.contextmanager
    def print_on_main(self) -> Iterator[None]:
        """Discard the output of all ranks except 0 in the block. Every rank prints the errors that leave it."""
        if self.is_main:
            yield
            return
        with (
            Path(os.devnull).open("w") as devnull,
            contextlib.redirect_stdout(devnull),
            contextlib.redirect_stderr(devnull),
        ):
            yield

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[Sequence[int]]:
        """Defer SIGINT and SIGTERM, to stop all processes after the same step. Yield a list of the received signals.

        A process that does not leave the block within STOP_SECONDS of the first signal exits: it waits inside a
        library for a process that has exited. A single process does not defer signals.
        """
        if self.size == 1:
            yield ()
            return
        finished = threading.Event()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=_exit_if_late, args=(reading, finished), name="prebake-signals", daemon=True).start()
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            with defer_signals() as received:
                yield received
        finally:
            finished.set()
            signal.set_wakeup_fd(before)
            os.close(writing)

    def run_on_all(self, act: Callable[[], T]) -> T:
        """Call a function in every process. If it raises in some, all exit, and the lowest rank of these raises."""
        if self.size == 1:
            return act()
        failed: Exception | None = None
        try:
            result = act()
        except Exception as error:
            failed = error
        codes = self._gather(getattr(failed, "exit_code", 4) if failed else 0)
        first = next((rank for rank, code in enumerate(codes) if code), None)
        if first is None:
            return result
        if failed is not None and first == self.rank:
            raise failed
        sys.exit(codes[first])

    def run_on_main(self, act: Callable[[], T]) -> T:
        """Call a function in rank 0, and return its result in all ranks. If it raises, all exit, and rank 0 raises."""
        if self.size == 1:
            return act()
        done: list[Any] = [self.run_on_all(act if self.is_main else lambda: None)]
        dist.broadcast_object_list(done, 0)
        result: T = done[0]
        return result

    def gather_interleaved(self, items: Sequence[T]) -> list[T]:
        """Return the items of all processes, interleaved: the first of each rank, the second of each, and so on."""
        per_rank = self._gather(items)
        return [item for row in itertools.zip_longest(*per_rank) for item in row if item is not None]

    def _gather(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values into these tensors."""
        if self.size == 1:
            return
        for tensor in tensors:
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, 0)
            tensor.copy_(contiguous)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return tensor if self.size == 1 else self.all_reduce_sum(tensor) / self.size

    def all_reduce_max(self, values: list[float]) -> list[float]:
        """Return the elementwise maximum over all processes."""
        if self.size == 1 or not values:
            return values
        reduced: list[float] = self._reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.MAX).tolist()
        return reduced

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return tensor
        reduced = tensor.clone()
        dist.all_reduce(reduced, operation)
        return reduced

    def all_reduce_signal(self, number: int) -> int:
        """Start to all-reduce a signal between two steps; return the maximum from the previous call, or 0.

        All processes get the same number between the same two steps. The all-reduce runs on the CPU during the step,
        so neither process nor device waits for it. With a single process, the result is `number` itself.
        """
        if self.size == 1:
            return number
        previous = self.pending_signal()
        reduced = torch.tensor(number)
        self._pending = reduced, dist.all_reduce(reduced, dist.ReduceOp.MAX, async_op=True)
        return previous

    def pending_signal(self) -> int:
        """Return the maximum from the last `all_reduce_signal`, or 0 if it was returned already."""
        if self._pending is None:
            return 0
        reduced, work = self._pending
        work.wait()
        self._pending = None
        return int(reduced.item())


SINGLE_PROCESS = ProcessGroup()


def _exit_if_late(pipe: int, finished: threading.Event) -> None:
    """Exit if `finished` is not set within STOP_SECONDS after the pipe delivers a signal."""
    with open(pipe, "rb", 0) as numbers:
        while number := numbers.read(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM) and not finished.wait(STOP_SECONDS):
                os._exit(128 + number[0])
