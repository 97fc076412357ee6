"""Workers: threads or processes that take one shard each at a time.

Threads where the work is look-ups: what they do most (gathering rows, hashing, writing) releases the
interpreter lock, and they share the prepared images. Processes where a transform computes, image by image,
under that lock.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import MachineError
from shards.plan import Shard

__all__ = ["COUNTS", "each_in_processes", "each_in_threads", "stop_if"]

COUNTS = "counts.part"
LOOK_SECONDS = 0.2


def each_in_threads(work: Callable[[Shard, threading.Event], None], shards: Sequence[Shard], workers: int) -> None:
    """Do `work` on every shard; the first failure, or an interruption, sets the event and ends all."""
    stopped = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in as_completed([pool.submit(work, shard, stopped) for shard in shards]):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def stop_if(stopped: threading.Event) -> None:
    """End this worker's work once all is to end."""
    if stopped.is_set():
        raise CancelledError


def each_in_processes(
    work: Callable[[Shard, Callable[[int], None]], None],
    shards: Sequence[Shard],
    workers: int,
    directory: Path,
    add: Callable[[int], None],
    finish: Callable[[Shard], None],
) -> None:
    """Do `work` on every shard, in processes of their own.

    They report through a file that all map: each shard has one counter there, which one process alone writes,
    so that no lock can stay taken when one of them is killed.

    Args:
        work: sent to the processes; called with a shard and with what counts samples done.
        shards: what to do.
        workers: how many processes.
        directory: where the file of counts may stand meanwhile.
        add: called in this process with samples done.
        finish: called in this process for each shard that is done.

    Raises:
        MachineError: a process was killed.
    """
    path = directory / COUNTS
    counts = np.memmap(path, np.int64, "w+", shape=len(shards) + 1)  # the last one is set where all is to end
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it leaves behind
    try:
        with ProcessPoolExecutor(workers, context, _begin, (work, path)) as pool, _reporting(counts[:-1], add) as look:
            try:
                futures = {pool.submit(_do, shard, number): shard for number, shard in enumerate(shards)}
                for future in as_completed(futures):
                    future.result()
                    look()
                    finish(futures[future])
            except BaseException:
                counts[-1] = 1
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool:
        if not counts[:-1].any():
            raise MachineError(
                "a baking process ended before it did anything. Each of them imports the script that bakes: a script "
                'must call bake() under `if __name__ == "__main__":`'
            ) from None
        raise MachineError(
            "a baking process was killed; where memory ran out, fewer --workers need less of it. "
            "The same command goes on where this one ended"
        ) from None
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _reporting(counts: NDArray[np.int64], add: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Look at the counts now and then, and whenever what is yielded is called; pass on by how much they grew."""
    ended, lock = threading.Event(), threading.Lock()
    seen = 0

    def look() -> None:
        nonlocal seen
        with lock:
            now = int(np.sum(counts))
            add(now - seen)
            seen = now

    def look_on() -> None:
        while not ended.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=look_on, name="prebake-counts")
    thread.start()
    try:
        yield look
    finally:
        ended.set()
        thread.join()


_work: Callable[[Shard, Callable[[int], None]], None]
_counts: NDArray[np.int64]


def _begin(work: Callable[[Shard, Callable[[int], None]], None], path: Path) -> None:
    """Set up a process: what to do, and that it ends with its parent and by its parent's word only."""
    global _work, _counts
    _work, _counts = work, np.memmap(path, np.int64, "r+")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _do(shard: Shard, number: int) -> None:
    def count(samples: int) -> None:
        if _counts[-1]:
            raise CancelledError
        _counts[number] += samples

    _work(shard, count)
