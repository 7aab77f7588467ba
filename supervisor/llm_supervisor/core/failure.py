"""How a process ended, and what went wrong: values that events and states share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a leader ended. Both are None for a process that is not our child (an adopted one): ``unknown``."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was killed by signal {self.signal}"
        if self.code is not None:
            return f"exited with status {self.code}"
        return "ended (status unknown)"

    @property
    def ok(self) -> bool:
        """True for a clean exit: status 0."""
        return self.code == 0


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong last, for people. ``permanent`` is None when that is not known."""

    kind: str
    summary: str
    advice: str = ""
    permanent: bool | None = None
    incident: str | None = None
    busy: bool = False  # it waits for what others hold, which does not count as a failure
