"""Read items from a slow iterator ahead of time, in a thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetcher"]

POLL_SECONDS = 0.05

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterate in a thread, a limited number of items ahead of the consumer.

    Leaving the `with` block does not wait for the thread. The thread drops the item that it is reading then.

    Args:
        items: the iterator. `next` raises its error after the items that came before the error.
        depth: maximum number of items read ahead, including the one being read.
        drop: called with each item that was read and not consumed.
    """

    def __init__(self, items: Iterator[T], depth: int, drop: Callable[[T], object]) -> None:
        self._items, self._drop = items, drop
        self._room = threading.Semaphore(depth)
        self._ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="prebake-prefetcher", daemon=True)

    def __enter__(self) -> "Prefetcher[T]":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
        self._room.release()
        while not self._ready.empty():
            item, _error = self._ready.get()
            if item is not None:
                self._drop(item)

    def next(self, stopped: threading.Event) -> T | None:
        """Return the next item, or raise the iterator's error. None at the end, or when `stopped` is set."""
        while not stopped.is_set():
            try:
                item, error = self._ready.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            self._room.release()
            if error is not None:
                raise error
            return item
        return None

    def _read(self) -> None:
        try:
            while self._wait_for_room() and (item := next(self._items, None)) is not None:
                with self._lock:
                    if not self._ended:
                        self._ready.put((item, None))
                        continue
                self._drop(item)
            self._ready.put((None, None))
        except BaseException as error:
            self._ready.put((None, error))

    def _wait_for_room(self) -> bool:
        self._room.acquire()
        return not self._ended
