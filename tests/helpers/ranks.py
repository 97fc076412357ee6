"""Ranks: processes that train together, forked from this one, warm with all that it has imported."""

import mmap
import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import prebake.cli.train
from prebake.cli.run import run_command
from prebake.loader.shard_set import ShardSet
from prebake.train.distributed import ProcessGroup
from prebake.train.state import Settings
from prebake.train.trainer import Trainer
from tests.helpers.commands import ON_CPU
from tests.helpers.nets import PLAIN
from tests.helpers.runs import checkpoint_every, patched
from tests.helpers.trials import CRASHED, trial

__all__ = ["Ranks", "Recorded", "command_in", "ranks", "recorded"]

BATCH = 20


@dataclass(frozen=True)
class Ranks:
    """How processes ended that worked together.

    Attributes:
        codes: exit code of each, or minus the number of the signal that ended it.
        said: stdout and stderr of all.
        seconds: until the last one had ended.
    """

    codes: list[int]
    said: str
    seconds: float


@dataclass(frozen=True)
class Recorded:
    """What one rank trained on, and what it learnt.

    Attributes:
        batches: images and labels of each step.
        saved: tensors of a checkpoint of the end.
        losses: mean training loss of each epoch.
        scores: held-out loss and accuracy of each epoch.
    """

    batches: list[tuple[Tensor, Tensor]]
    saved: dict[str, Tensor]
    losses: list[float]
    scores: list[tuple[float | None, float | None]]


def ranks(size: int, act: Callable[[int], object], *, seconds: float = 120) -> Ranks:
    """Call `act(rank)` in so many forks, each with the environment that torchrun would give it.

    Raises:
        TimeoutError: one lasted longer than `seconds`; all were killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes = mmap.mmap(-1, 4 * size)

    def all_of_them() -> None:
        os.setpgid(0, 0)
        children = []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                _one(rank, size, port, act)
            children.append(child)
        for rank, child in enumerate(children):
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            codes[4 * rank : 4 * rank + 4] = code.to_bytes(4, "little", signed=True)

    done = trial(all_of_them, seconds=seconds)
    found = [int.from_bytes(codes[4 * rank : 4 * rank + 4], "little", signed=True) for rank in range(size)]
    assert done.status == 0, done.said
    return Ranks(found, done.said, done.seconds)


def _one(rank: int, size: int, port: int, act: Callable[[int], object]) -> None:
    code = CRASHED
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "forks",
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        act(rank)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command_in(
    size: int, *options: object, first: Callable[[int], object] | None = None, every: int = 4, seconds: float = 120
) -> Ranks:
    """Run `prebake train` on the CPU in so many forks, with a checkpoint after every so many steps.

    Args:
        size: number of processes.
        options: of the command.
        first: prepares each fork, and is given its rank.
        every: steps from one checkpoint to the next.
        seconds: after which all are killed.
    """

    def act(rank: int) -> None:
        checkpoint_every(every)
        patched("prebake.train.session.write_report", lambda *_: None)  # to import what draws takes a second
        if first is not None:
            first(rank)
        sys.argv = ["train", *map(str, options)]
        if "auto" in options or "--shards" in options:
            sys.argv += [
                "--model",
                PLAIN,
                *ON_CPU,
                *(() if "--batch-size" in options else ("--batch-size", str(BATCH))),
            ]
        run_command(prebake.cli.train.main)

    return ranks(size, act, seconds=seconds)


def recorded(
    size: int,
    data: ShardSet,
    settings: Settings,
    scratch: Path,
    *,
    goes_on: Path | None = None,
    until: int | None = None,
) -> list[Recorded]:
    """Train in so many processes, and return what each of them saw and learnt.

    Args:
        size: number of processes.
        data: the shards.
        settings: of the run.
        scratch: a directory for files; rank 0 leaves its state there, in `state`.
        goes_on: the state that another call left, to go on from.
        until: after how many epochs to stop; default all.
    """
    scratch.mkdir()

    def act(rank: int) -> None:
        processes = ProcessGroup.from_torchrun()
        with processes.connected():
            trainer = Trainer(data, settings, processes=processes)
            if goes_on is not None:
                trainer.restore(torch.load(goes_on, weights_only=False))
            batches: list[tuple[Tensor, Tensor]] = []
            step = trainer.step

            def noting(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
                batches.append((images.clone(), labels.clone()))
                return step(images, labels)

            trainer.step = noting  # type: ignore[method-assign] # to look on
            for report in trainer.run():
                if report.epoch + 1 == until:
                    break
            saved = trainer.save()
            reports = trainer.state.reports
            scores = [(report.held_out_loss, report.held_out_accuracy) for report in reports]
            done = Recorded(batches, saved.tensors, [report.train_loss for report in reports], scores)
            torch.save(done, scratch / str(rank))
            if processes.is_main:
                torch.save(saved, scratch / "state")

    ended = ranks(size, act)
    assert ended.codes == [0] * size, ended.said
    return [torch.load(scratch / str(rank), weights_only=False) for rank in range(size)]
