"""World: the processes that train one run together, as torchrun starts them, and what they say to each other."""

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

# For so long one process may let the others wait: for its data, for a disk.
TIMEOUT = timedelta(minutes=10)
# Seconds from a signal to the end of a process that comes to no border, since the others are gone and its device waits
# for them. torchrun waits for 30 before it kills.
PATIENCE = 20.0
# What gloo says of a process that is gone, in errors of no class of their own.
LOST = re.compile("gloo|by peer|[Tt]imed out")

T = TypeVar("T")


class ProcessGroup:
    """One process among those that train together; alone, all that is said here is heard by itself, at no cost.

    The global batch is the unit: this process takes one of `size` equal slices of each.

    Args:
        rank: number of this process. Rank 0 leads: it alone writes, draws and speaks.
        size: how many processes there are.
        local_rank: number among those of this machine, and of its GPU.
        local_size: how many are on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self._local_rank, self._local_size = rank, size, local_rank, local_size
        self._said: tuple[Tensor, Any] | None = None  # at the last border, and on its way

    @classmethod
    def from_torchrun(cls) -> "ProcessGroup":
        """Return the world that torchrun's environment tells of; one of one process where there is none."""
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
            settings: of the run.
            samples: number of training images.
            least: samples that the model needs in each process's part of a batch: 2 for batch norm.

        Raises:
            UsageError: batches can't be cut into equal slices, or an option is not for several processes.
            MachineError: less GPUs than processes.
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
                f"--device: torchrun deals the GPUs out, and several processes train on cuda or cpu; found {device}"
            )
        if device == "cuda" and self._local_size > torch.cuda.device_count():
            raise MachineError(
                f"--device: {self._local_size} processes on this machine, and {torch.cuda.device_count()} GPUs; "
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
    def joined(self) -> Iterator[None]:
        """Be connected to the others: by gloo what lies on the CPU, by NCCL what lies on a GPU.

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
            # torchrun may keep its store when it starts all again, and in it the addresses of those that are gone.
            attempt = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            # Unnamed, the backend is since torch 2.6 that of the GPU alone; but words go from host to host.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            dist.init_process_group(backend, store=attempt, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not LOST.search(str(error)):
                raise
            reason = " ".join(str(error).split())[:800]  # NCCL tells the cause last
            raise MachineError(
                f"process {self.rank} of {self.size}: another one has ended or does not answer ({reason}). "
                "What it said stands above; --resume auto goes on from the last checkpoint"
            ) from error
        dist.destroy_process_group()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Print nothing in the block unless this process leads; errors that leave the block are said by all."""
        if self.is_main:
            yield
            return
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield

    @contextlib.contextmanager
    def patient(self) -> Iterator[Sequence[int]]:
        """Let SIGINT and SIGTERM wait, so that all can stop at one step; yield those that were heard.

        A process that does not leave the block within PATIENCE of the first ends at once: what it waits for, in the
        depths of a library that hears no signal, will not come any more. Alone, a signal is heard where it comes.
        """
        if self.size == 1:
            yield ()
            return
        left = threading.Event()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=_end_late, args=(reading, left), name="prebake-patience", daemon=True).start()
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            with defer_signals() as heard:
                yield heard
        finally:
            left.set()
            signal.set_wakeup_fd(before)
            os.close(writing)

    def run_on_all(self, act: Callable[[], T]) -> T:
        """Do something in every process; where it fails in one, all end, and the lowest of these alone says why."""
        if self.size == 1:
            return act()
        failed: Exception | None = None
        try:
            result = act()
        except Exception as error:
            failed = error
        codes = self._gathered(getattr(failed, "exit_code", 4) if failed else 0)
        first = next((rank for rank, code in enumerate(codes) if code), None)
        if first is None:
            return result
        if failed is not None and first == self.rank:
            raise failed
        sys.exit(codes[first])

    def run_on_main(self, act: Callable[[], T]) -> T:
        """Do something in rank 0, and return what came of it; where it fails all end, and rank 0 says why."""
        if self.size == 1:
            return act()
        done: list[Any] = [self.run_on_all(act if self.is_main else lambda: None)]
        dist.broadcast_object_list(done, 0)
        result: T = done[0]
        return result

    def gather_interleaved(self, mine: Sequence[T]) -> list[T]:
        """Return in its order what was dealt to the processes one by one, of which this one has `mine`."""
        dealt = self._gathered(mine)
        return [item for row in itertools.zip_longest(*dealt) for item in row if item is not None]

    def _gathered(self, mine: T) -> list[T]:
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Put rank 0's values into these tensors."""
        if self.size == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return tensor if self.size == 1 else self.total(tensor) / self.size

    def all_reduce_max(self, values: list[float]) -> list[float]:
        """Return the greatest over all processes, value by value."""
        if self.size == 1 or not values:
            return values
        all_reduce_max: list[float] = self._reduced(
            torch.tensor(values, dtype=torch.float64), dist.ReduceOp.MAX
        ).tolist()
        return all_reduce_max

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return tensor
        reduced = tensor.clone()
        dist.all_reduce(reduced, operation)
        return reduced

    def all_reduce_signal(self, word: int) -> int:
        """Say a word at the border of two steps; return the greatest that was said at the border before, or 0.

        So all do the same at the same border. Nobody waits for it, a device least of all: words travel from host to
        host while the step between two borders is taken. Alone, the answer is the word, at once.
        """
        if self.size == 1:
            return word
        answer = self.answer()
        said = torch.tensor(word)
        self._said = said, dist.all_reduce(said, dist.ReduceOp.MAX, async_op=True)
        return answer

    def answer(self) -> int:
        """Return the greatest word that was said at the last border, or 0 where nobody waits for an answer."""
        if self._said is None:
            return 0
        said, work = self._said
        work.wait()
        self._said = None
        return int(said.item())


SINGLE_PROCESS = ProcessGroup()


def _end_late(pipe: int, left: threading.Event) -> None:
    """End this process when a signal has come through the pipe, and `left` is not set in time."""
    with open(pipe, "rb", 0) as numbers:
        while number := numbers.read(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM) and not left.wait(PATIENCE):
                os._exit(128 + number[0])
