"""Faults: every call that changes a disk is counted, and one of them can be a kill's last moment or fail.

All is patched for good, so this is for trials, which end with their process.
"""

import fcntl
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Operations", "failure", "kill"]

# Those that take a path have it in their errors, as the system's own do.
OPERATIONS: list[tuple[Any, str, bool]] = [
    (os, "mkdir", True),
    (os, "open", True),
    (os, "replace", True),
    (os, "unlink", True),
    (os, "close", False),
    (os, "fsync", False),
    (os, "ftruncate", False),
    (os, "pwrite", False),
    (os, "write", False),
    (fcntl, "flock", False),
]
AUDITED = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
Fault = Callable[[int, str], "OSError | None"]


class Operations:
    """Counts the operations of this process from now on, and has a fault at them.

    Attributes:
        seen: the names of the operations so far.
        missed: what changed a file under `directory`, as Python's audit has it, and is no counted operation.
    """

    def __init__(self, directory: Path, fault: Fault = lambda _number, _name: None) -> None:
        self.seen: list[str] = []
        self.missed: list[str] = []
        self._fault, self._directory = fault, str(directory)
        self._numbers = itertools.count()
        self._counted = threading.local()
        self._opened: set[int] = set()
        for owner, name, named in OPERATIONS:
            setattr(owner, name, self._watched(getattr(owner, name), name, named))
        sys.addaudithook(self._audit)

    def _watched(self, function: Callable[..., Any], name: str, named: bool) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self._only_reads(name, arguments):
                return function(*arguments, **options)
            error = self._fault(next(self._numbers), name)
            self.seen.append(name)
            if error is not None:
                if name == "close":
                    function(*arguments)  # as the system does, whatever it then says
                if named:
                    error.filename = str(arguments[0])
                raise error
            self._counted.now = True
            try:
                result = function(*arguments, **options)
            finally:
                self._counted.now = False
            if name == "open":
                self._opened.add(result)
            return result

        return watched

    def _only_reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Say whether a call opens or closes a file for reading alone; a directory is opened to sync it."""
        if name == "close":
            return arguments[0] not in self._opened
        return name == "open" and not arguments[1] & (WRITING | os.O_DIRECTORY)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in AUDITED or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if changes and self._directory in str(arguments[0]) and not getattr(self._counted, "now", False):
            self.missed.append(f"{event} {arguments}")


def kill(at: int) -> Fault:
    """Return a fault that kills this process before an operation."""

    def fault(number: int, _name: str) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def failure(at: int, code: int, for_good: bool) -> Fault:
    """Return a fault that lets an operation fail, and all after it where it is for good."""

    def fault(number: int, _name: str) -> OSError | None:
        return OSError(code, os.strerror(code)) if number == at or (for_good and number > at) else None

    return fault
