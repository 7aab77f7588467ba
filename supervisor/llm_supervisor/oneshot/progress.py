"""What a person sees while something long is done: facts as lines, and what is being done now.

On a terminal, what is being done is one live line that is written over; in a pipe it is a plain line every other
second, so that a log shows that work goes on. Several threads may report at once.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from typing import Protocol, TextIO

from llm_supervisor.terminal import harmless, harmless_lines

_MIB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0}  # of each unit that uv uses


class Report(Protocol):
    """Where progress goes."""

    def say(self, line: str) -> None:
        """Something that has happened; it stays on the screen."""

    def doing(self, subject: str, text: str) -> None:
        """What is being done for `subject` now; "" when that is over. It may be shown, or not."""


class Lines:
    """A Report onto a stream: a live line on a terminal, else plain lines, of one subject at most one every EVERY s."""

    EVERY = 2.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._lock = threading.Lock()
        self._now: dict[str, str] = {}
        self._told: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Write the line; a live line moves below it."""
        with self._lock:
            self._stream.write(("\r\x1b[K" if self._live else "") + harmless_lines(line) + "\n")
            self._draw()

    def doing(self, subject: str, text: str) -> None:
        """Show it, at the pace of the stream."""
        text = harmless(text)
        with self._lock:
            if self._live:
                self._now[subject] = text
                self._draw()
            elif text and time.monotonic() - self._told.get(subject, 0.0) >= self.EVERY:
                self._told[subject] = time.monotonic()
                self._stream.write(f"{subject}: {text}\n")
                self._stream.flush()

    def _draw(self) -> None:
        if self._live:
            shown = "   ".join(f"{subject}: {text}" for subject, text in self._now.items() if text)
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + (shown if len(shown) <= width else shown[: width - 1] + "…"))
        self._stream.flush()


class Downloads:
    """Turns what uv says into "3 of 27 large packages downloaded, 210 of 640 MiB: triton, torch (5 s)".

    uv names the packages that are large enough to wait for, with their sizes, when it begins them and when they are
    there.
    """

    _BEGUN = re.compile(r"\s*Downloading (\S+) \(([\d.]+)([KMG])iB\)")
    _DONE = re.compile(r"\s*Downloaded (\S+)")

    def __init__(self, subject: str, report: Report) -> None:
        self._subject = subject
        self._report = report
        self._sizes: dict[str, float] = {}
        self._missing: dict[str, None] = {}
        self._doing = "looking for its packages"
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._begun

    def hear(self, line: str) -> None:
        """A line of uv's, or "" when it has been silent for a while."""
        if begun := self._BEGUN.match(line):
            self._sizes[begun[1]] = float(begun[2]) * _MIB[begun[3]]
            self._missing[begun[1]] = None
        elif done := self._DONE.match(line):
            self._missing.pop(done[1], None)
        elif line.startswith("Prepared "):
            self._missing.clear()
            self._doing = "installing"
        if self._missing:
            total = sum(self._sizes.values())
            there = total - sum(self._sizes[name] for name in self._missing)
            names = ", ".join(sorted(self._missing, key=lambda name: -self._sizes[name])[:3])
            count = f"{len(self._sizes) - len(self._missing)} of {len(self._sizes)} large packages downloaded"
            self._doing = f"{count}, {there:.0f} of {total:.0f} MiB: {names}"
        self._report.doing(self._subject, f"{self._doing} ({self.seconds:.0f} s)")
