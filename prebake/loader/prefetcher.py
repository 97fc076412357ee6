"""Lookahead: what takes long to get is got in a thread of its own, a few turns before it is needed."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

__all__ = ["Prefetcher"]

LOOK_SECONDS = 0.05

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Takes items from an iterator, each up to some turns before it is asked for.

    The thread is not waited for when the block is left: what it is getting then, it drops when it has it.

    Args:
        items: what to take; an error that it raises comes in its turn.
        turns: how many items lie ready at most, one being got included.
        drop: called with each item that nobody asked for.
    """

    def __init__(self, items: Iterator[T], turns: int, drop: Callable[[T], object]) -> None:
        self._items, self._drop = items, drop
        self._room = threading.Semaphore(turns)
        self._ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._get, name="prebake-lookahead", daemon=True)

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
        """Return the next item, or raise what its getting raised; None at the end, or once `stopped` is set."""
        while not stopped.is_set():
            try:
                item, error = self._ready.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            self._room.release()
            if error is not None:
                raise error
            return item
        return None

    def _get(self) -> None:
        try:
            while self._wanted() and (item := next(self._items, None)) is not None:
                with self._lock:
                    if not self._ended:
                        self._ready.put((item, None))
                        continue
                self._drop(item)
            self._ready.put((None, None))
        except BaseException as error:
            self._ready.put((None, error))

    def _wanted(self) -> bool:
        self._room.acquire()
        return not self._ended
