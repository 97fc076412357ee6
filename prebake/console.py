"""Progress messages on stderr; stdout carries results."""

import sys

__all__ = ["log"]


def log(line: str) -> None:
    """Print progress to stderr; stdout carries results. What a stranger's file is named does not steer the terminal."""
    line = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in line)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one place for it
