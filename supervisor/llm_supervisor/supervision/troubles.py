"""What the daemon cannot do at present though it should: shown as `degraded` by `status` and told to systemd.

It is the host's trouble, or a defect of ours, and no program's. Whoever tries again notes it and clears it.
"""

from __future__ import annotations


class Troubles:
    """Sentences by what they are about, in the order in which they were noted first. Not for several threads."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def note(self, about: str, text: str) -> bool:
        """Something does not work. Returns whether this was not known, with these words, before."""
        new = self._texts.get(about) != text
        self._texts[about] = text
        return new

    def clear(self, about: str) -> bool:
        """It works again, or was never known not to. Returns whether it was noted."""
        return self._texts.pop(about, None) is not None

    def texts(self) -> list[str]:
        """All that is noted at present, what has lasted longest first."""
        return list(self._texts.values())
