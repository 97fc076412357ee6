"""Progress messages on stderr; stdout carries results."""

import sys

__all__ = ["log"]


def log(line: str) -> None:
    """Print a line to stderr; control characters, which may come from a stranger's file names, are escaped."""
    line = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in line)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the only place that prints progress
