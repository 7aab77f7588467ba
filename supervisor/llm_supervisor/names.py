"""The few words that the daemon and its command share. Imports nothing of weight: ``status`` must be quick."""

from __future__ import annotations

from collections.abc import Iterable

SOCKET = "control.sock"


def nearest(name: str, known: Iterable[str], what: str = "program") -> str:
    """An error text for a name that is none."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
    return f"no such {what}: {name} ({hint})"
