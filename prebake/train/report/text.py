"""Numbers and settings as text."""

from collections.abc import Mapping
from typing import Any

__all__ = ["flat", "percent", "seconds", "size"]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str | None]:
    """Return nested settings in one level, with keys and values as text; None stays None."""
    flattened: dict[str, str | None] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flattened |= flat(value, f"{before}{key}, ")
        else:
            flattened[f"{before}{key}".replace("_", " ")] = None if value is None else _plain(value)
    return flattened


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int and value < 10**9 else str(value)


def percent(fraction: float | None) -> str:
    """Return a fraction in percent; an empty string for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def seconds(count: float | None) -> str:
    """Return a time in seconds, minutes or hours; a dash for None."""
    if count is None:
        return "-"
    minutes, hours = count / 60, count / 3600
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 5 else f"{count:.3g} s"


def size(size_bytes: int) -> str:
    """Return a number of bytes with a decimal unit."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"
