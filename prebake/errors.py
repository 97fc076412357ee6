"""Errors that a user can cause; each knows the exit code that it ends a command with."""

from collections.abc import Sequence

__all__ = ["DataError", "DivergedError", "MachineError", "PrebakeError", "UsageError", "listed", "shown"]


class PrebakeError(Exception):
    """Something a user can mend; the message says what, where, expected and found, and what to do next."""

    exit_code = 1


class UsageError(PrebakeError):
    """The command, or the arguments of a call, can't be carried out as given."""

    exit_code = 2


class DataError(PrebakeError):
    """Shards or source data are missing, unfinished, damaged or of another plan."""

    exit_code = 3


class MachineError(PrebakeError):
    """The machine lacks space, permission, memory, a device or a package."""

    exit_code = 4


class DivergedError(PrebakeError):
    """Training produced a loss that is not a finite number."""

    exit_code = 5


def shown(value: object, most: int = 200) -> str:
    """Return the `repr` of a value that a stranger may have written, for a message.

    No control character of it reaches a terminal, and of a long one only the beginning is left.
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Sequence[str], most: int = 8) -> str:
    """Join names for a message, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
