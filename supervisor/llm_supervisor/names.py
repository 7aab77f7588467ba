"""The few words that the daemon and its command share. Imports nothing of weight: ``status`` must be quick."""

from __future__ import annotations

import re
from collections.abc import Iterable

SOCKET = "control.sock"
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def seconds(text: str) -> float | None:
    """Of ``500ms``, ``30s``, ``5m``, ``1h``, ``1d`` or a number; None for anything else."""
    found = _DURATION.fullmatch(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def nearest(name: str, known: Iterable[str], what: str = "program") -> str:
    """An error text for a name that is none."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
    return f"no such {what}: {name} ({hint})"
