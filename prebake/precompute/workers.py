"""Pools: threads or processes that do one item of work each at a time, and yield the results as they are done.

Look-ups run in threads: they mostly copy rows, hash and write, which releases the interpreter lock, and all threads
share the prepared images. A transform computes image by image and holds the interpreter lock, so it runs in processes.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from prebake.errors import MachineError, UsageError
from prebake.signals import check_signals, defer_signals

__all__ = ["imap_processes", "imap_threads"]

T = TypeVar("T")
R = TypeVar("R")


def imap_threads(work: Callable[[T, threading.Event], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the results of `work(item, stopped)` in the order of completion.

    An exception of one call, in the consumer, or from a signal sets `stopped` and cancels the calls that have not
    begun. `work` should look at `stopped` now and then, and raise CancelledError.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(workers) as pool:
        try:
            # A signal while the pool's lock is held would leave it locked, so signals are deferred.
            with defer_signals():
                done = _submit(pool, work, [(item, stopped) for item in items])
            yield from _results(done, len(items))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def imap_processes(work: Callable[[T, threading.Event], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the results of `work(item, stopped)` in the order of completion, computed in new processes.

    An exception of one call, in the consumer, or from a signal ends the processes at once. They also end when this
    process is killed.

    Args:
        work: must be picklable. `stopped` is never set.
        items: must be picklable, as must the results.
        workers: number of processes.

    Raises:
        MachineError: a process was killed, or none can be started.
        UsageError: the processes cannot unpickle `work`.
    """
    context = multiprocessing.get_context("spawn")  # a forked process would copy locks that other threads hold
    ours, theirs = context.Pipe()
    try:
        with ours, theirs, _process_pool(workers, context, (pickle.dumps(work), theirs)) as pool:
            try:
                with _starting_processes():
                    done = _submit(pool, _call, [(item,) for item in items])
                yield from _results(done, len(items))
            except BaseException:
                reported = ours.recv_bytes().decode() if ours.poll() else None
                ours.close()  # the processes end when they see this, or the end of this process
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool:
        if reported:
            raise UsageError(
                f"worker processes cannot load the transform ({reported}). Define it at the top level of a module, and "
                'not under `if __name__ == "__main__":`'
            ) from None
        if reported is None:
            raise MachineError(
                "a worker process ended before it began. Each worker imports the script that bakes: a script "
                'must call bake() under `if __name__ == "__main__":`'
            ) from None
        raise MachineError(
            "a worker process was killed. If memory ran out, use fewer --workers. The same command resumes the bake"
        ) from None


def _submit(
    pool: Executor, work: Callable[..., R], arguments: Sequence[tuple[Any, ...]]
) -> "queue.SimpleQueue[Future[R]]":
    done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    for each in arguments:
        pool.submit(work, *each).add_done_callback(done.put)
    return done


def _results(done: "queue.SimpleQueue[Future[R]]", count: int) -> Iterator[R]:
    for _ in range(count):
        future = done.get()
        with defer_signals():  # a signal during `get` leaves no lock held; here it could
            result = future.result()
        check_signals()
        yield result


def _process_pool(workers: int, context: Any, arguments: tuple[Any, ...]) -> ProcessPoolExecutor:
    try:
        return ProcessPoolExecutor(workers, context, _begin, arguments)
    except (OSError, NotImplementedError, ImportError) as error:
        raise MachineError(
            f"worker processes need semaphores, and the system gives none ({error}); make room in /dev/shm, "
            "or take an augmentation without a transform"
        ) from None


@contextlib.contextmanager
def _starting_processes() -> Iterator[None]:
    """Defer signals while processes start, and start them with SIGINT blocked.

    A terminal sends SIGINT to all processes, but only the parent handles it. A process inherits the signals that are
    blocked here.
    """
    with defer_signals():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        except OSError as error:
            raise MachineError(f"no more processes can be started ({error}); use fewer --workers") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_work: Callable[..., Any]
_stopped = threading.Event()


def _begin(pickled_work: bytes, parent: Connection) -> None:
    """Set up a worker process, and report why its work cannot be unpickled, or nothing."""
    global _work
    reported = ""
    try:
        _work = pickle.loads(pickled_work)  # noqa: S301 - from the parent process
    except Exception as error:
        reported = f"{type(error).__name__}: {error}"
    try:
        parent.send_bytes(reported.encode())
    except OSError:  # the parent has closed the pipe, or is gone
        os._exit(1)
    if reported:
        os._exit(1)  # without a traceback
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: Connection) -> None:
    """End this process as soon as its parent closes the pipe or is killed; the parent removes temporary files."""
    parent.poll(None)
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item, _stopped)
