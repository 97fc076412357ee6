"""Words: figures and settings as people read them."""

from collections.abc import Mapping
from typing import Any

__all__ = ["flat", "percent", "seconds", "size"]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, str | None]:
    """Lay nested settings out in one level, keys as words, values as text; None stays None."""
    found: dict[str, str | None] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{key}, ")
        else:
            found[f"{before}{key}".replace("_", " ")] = None if value is None else _plain(value)
    return found


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if type(value) is int and value < 10**9 else str(value)


def percent(fraction: float | None) -> str:
    """Write a share of 0 to 1; nothing for None."""
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def seconds(count: float | None) -> str:
    """Write seconds in the unit that suits them; a dash for None."""
    if count is None:
        return "-"
    minutes, hours = count / 60, count / 3600
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 5 else f"{count:.3g} s"


def size(count: int) -> str:
    """Write bytes in the unit that suits them."""
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"
