"""Workers: threads or processes that take one shard each at a time.

Threads where the work is look-ups: what they do most (gathering rows, hashing, writing) releases the
interpreter lock, and they share the prepared images. Processes where a transform computes, image by image,
under that lock.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prebake.errors import MachineError
from prebake.format.manifest import Shard
from prebake.signals import check_signals, defer_signals
from prebake.storage.atomic import remove, write_plainly

__all__ = ["each_in_processes", "each_in_threads", "stop_if"]

LOOK_SECONDS = 0.2


def each_in_threads(work: Callable[[Shard, threading.Event], None], shards: Sequence[Shard], workers: int) -> None:
    """Do `work` on every shard; the first failure, or an interruption, sets the event and ends all."""
    stopped = threading.Event()
    done: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
    with ThreadPoolExecutor(workers) as pool:
        try:
            # An interruption that came while a lock of the pool is held would leave it held: it comes at `get`.
            with defer_signals():
                for shard in shards:
                    pool.submit(work, shard, stopped).add_done_callback(done.put)
            for _ in shards:
                done.get().result()
                check_signals()
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
    path: Path,
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
        path: of the file of counts, which stands there meanwhile.
        add: called in this process with samples done.
        finish: called in this process for each shard that is done.

    Raises:
        MachineError: a process was killed, or none can be started.
        OSError: no space.
    """
    write_plainly(path, bytes(8 * (len(shards) + 1)))  # not by memmap, whose pages a full disk has only when touched
    counts = np.memmap(path, np.int64, "r+")  # the last one is set where all is to end
    done: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
    try:
        with _pool(workers, _begin, (work, path)) as pool, _reporting(counts[:-1], add) as look:
            try:
                with _starting():
                    futures = {pool.submit(_do, shard, number): shard for number, shard in enumerate(shards)}
                    for future in futures:
                        future.add_done_callback(done.put)
                for _ in shards:
                    future = done.get()
                    with defer_signals():  # what is interrupted at `get` alone leaves no lock held
                        future.result()
                        look()
                        finish(futures[future])
                    check_signals()
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
    remove(path)


def _pool(workers: int, begin: Callable[..., None], arguments: tuple[object, ...]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it leaves behind
    try:
        return ProcessPoolExecutor(workers, context, begin, arguments)
    except (OSError, NotImplementedError, ImportError) as error:
        raise MachineError(
            f"processes for the transform need semaphores, and the system gives none ({error}); make room in /dev/shm, "
            "or take an augmentation without a transform"
        ) from None


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Start processes: whole, or the one begun would wait for the rest of its orders; and deaf to SIGINT.

    A terminal sends that to all of them, but it is their parent that ends them. They inherit what is blocked here.
    """
    with defer_signals():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        except OSError as error:
            raise MachineError(f"no more processes can be started ({error}); take fewer --workers") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    try:
        thread.start()
        yield look
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


_work: Callable[[Shard, Callable[[int], None]], None]
_counts: NDArray[np.int64]


def _begin(work: Callable[[Shard, Callable[[int], None]], None], path: Path) -> None:
    """Set up a process: what to do, and when to end."""
    global _work, _counts
    _work, _counts = work, np.memmap(path, np.int64, "r+")
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """End this process, whatever it does, once all is to end or its parent has; the parent tidies up."""
    parent = multiprocessing.parent_process()
    sentinels = [parent.sentinel] if parent is not None else []
    while not _counts[-1] and not wait(sentinels, LOOK_SECONDS):
        pass
    os._exit(1)


def _do(shard: Shard, number: int) -> None:
    def count(samples: int) -> None:
        _counts[number] += samples

    _work(shard, count)
