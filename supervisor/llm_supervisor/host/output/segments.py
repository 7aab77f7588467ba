"""How a program's log lies on the disk: where its segments are, and how a place in it is named.

A log is a folder of segments, ``00000001.log``, ``00000002.log`` ..., never renamed: their concatenation is what the
program wrote. ``NAME.log`` beside the folder points at the newest. ``00000001.times`` beside a segment says when what
was written: lines of a time (seconds since the epoch) and the offset at which the next bytes went.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Seconds between two notes of the time while something is written; the second number while only little is written
NOTED, NOTED_AT_LEAST = 1.0, 10.0


def segments(folder: Path) -> list[Path]:
    """The segments of one program's log, oldest first."""
    return sorted(path for path in folder.glob("*.log") if path.stem.isdecimal())


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a program's log: a segment's number and an offset in it."""

    segment: int
    offset: int
