"""Workers: threads that take one shard each at a time.

Threads and not processes: what they do most (gathering rows, hashing, writing) releases the interpreter
lock, and they share the prepared images.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed

from shards.plan import Shard

__all__ = ["each_in_threads", "stop_if"]


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
