"""Sizes and durations: read what people write, and write what people read. Pure.

Sizes are in bytes and count in powers of 1024 in both directions; durations are in seconds.
"""

from __future__ import annotations

import math
import re

from llm_supervisor.suggest import short

MIB = 1024**2
GIB = 1024**3
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])i?)?b?\s*", re.IGNORECASE)


def seconds(text: str) -> float | None:
    """The seconds in ``500ms``, ``30s``, ``5m``, ``1h``, ``1d`` or a plain number; None for any other text."""
    found = _DURATION.fullmatch(text)
    return float(found[1]) * _SECONDS[found[2]] if found else None


def duration(value: object) -> float:
    """Seconds from a number or from a text that ``seconds`` understands. Raises ValueError for anything else, for a
    negative number and for one that is not finite."""
    found: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value) if abs(value) < 1e18 else None
    elif isinstance(value, str):
        found = seconds(value)
    if found is not None and 0 <= found < math.inf:
        return found
    raise ValueError(f"{short(value)} is no duration; write seconds, or 30s, 5m, 1h")


def size(value: object) -> int:
    """Bytes from a number or ``512K``, ``50MB``, ``1GiB`` (powers of 1024 in each notation). Raises ValueError for
    anything else and for less than one byte."""
    found_bytes = 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        found_bytes = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        found_bytes = float(found[1]) * (1024 ** ("kmgt".index(found[2].lower()) + 1) if found[2] else 1)
    if 1 <= found_bytes < 1 << 62:
        return int(found_bytes)
    raise ValueError(f"{short(value)} is no size; write bytes, or 512K, 50MB, 1GB")


def size_text(count: float) -> str:
    """Bytes in words: ``18.2 GiB``; without a decimal from 100 on, as it says nothing there."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration_text(duration: float) -> str:
    """Seconds in words, for a limit or a waiting time: ``1800 s``; two digits of what is below 10 s."""
    return f"{duration:.0f} s" if duration >= 10 else f"{duration:.2g} s"


def clock_text(duration: float | None) -> str:
    """Seconds as supervisorctl shows an uptime: ``0:01:02``, ``3 days, 4:05:06``. None counts as 0."""
    whole = int(duration or 0)
    days, whole = divmod(whole, 86400)
    head = f"{days} days, " if days else ""
    return f"{head}{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
