"""Sizes in bytes, as people write them."""

import re

from prebake.errors import UsageError

__all__ = ["size_bytes"]

SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([kMGT]?)(i?)B?", re.IGNORECASE)


def size_bytes(text: str, option: str) -> int:
    """Return the number of bytes that a text such as 500MB, 4 GB, 2GiB or 1000 names.

    Args:
        text: the size.
        option: the option that took it, for the message.

    Raises:
        UsageError: it is not of that form, or below one byte.
    """
    found = SIZE.fullmatch(text.strip())
    size = float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ") if found else 0
    if size < 1:
        raise UsageError(f"{option}: expected a size such as 500MB or 4GB, found {text!r}")
    return int(size)
