"""Error texts that name what was probably meant, and show a wrong value. Pure.

Imports little at the top: every command imports it, and ``status`` must be quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``did you mean ...?`` with the known word that is most similar; empty when none is similar enough.

    Case, spaces, ``.``, ``-`` and ``_`` make no difference. ``cutoff`` is difflib's: 1 accepts equal words only.
    """
    import difflib

    plain = {re.sub("[-_. ]", "", one.lower()): one for one in known}
    close = difflib.get_close_matches(re.sub("[-_. ]", "", word.lower())[:100], plain, n=1, cutoff=cutoff)
    return f"did you mean {plain[close[0]]}?" if close else ""


def nearest(name: str, known: Iterable[str], what: str = "program") -> str:
    """The whole error text for a name that does not exist: with the most similar one, else with all that exist."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names) or 'none'}"
    return f"no such {what}: {name} ({hint})"


def short(value: object) -> str:
    """A value as a message shows it: its ``repr``, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
