"""Errors that a user can cause; each class has the exit code of a command that ends with it."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["DataError", "DivergedError", "MachineError", "PrebakeError", "UsageError", "listed", "quote"]


class PrebakeError(Exception):
    """An error that a user can fix; the message says what, where, expected and found, and what to do next."""

    exit_code = 1


class UsageError(PrebakeError):
    """A command, or a call, has invalid arguments."""

    exit_code = 2


class DataError(PrebakeError):
    """Shards or source data are missing, unfinished, damaged, or of another plan."""

    exit_code = 3


class MachineError(PrebakeError):
    """The machine lacks space, permission, memory, a device or a package, or a server does not answer."""

    exit_code = 4


class DivergedError(PrebakeError):
    """A loss or a weight is not a finite number. `facts`, plain JSON values, go into the run's log."""

    exit_code = 5

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = dict(facts or {})


def quote(value: object, max_length: int = 200) -> str:
    """Return the beginning of the `repr` of a value for a message.

    The value may come from a stranger: no control character of it reaches a terminal.
    """
    text = repr(value)
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def listed(names: Sequence[str], max_names: int = 8) -> str:
    """Join the first names for a message."""
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more
