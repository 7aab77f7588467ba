"""Measures how late the daemon's event loop is, and tells what on this machine does not answer.

Everything that the daemon does takes its turn on one loop. Whatever holds it up delays every program, so it is measured
and shown.
"""

from __future__ import annotations

import asyncio
from collections import deque

from llm_supervisor.control.protocol import SilentBody
from llm_supervisor.host import bounded, log
from llm_supervisor.supervision.snapshots import Snapshots

PERIOD = 2.0  # seconds between two measurements
REMEMBERED = 60.0  # seconds for which the worst lag is shown
LATE = 1.0  # seconds of lag that are worth a line in the log


class LoopWatch:
    """Measures for ever. A thing that stops answering, or answers again, is a change that is published."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._late: deque[tuple[float, float]] = deque()  # when, and how late; each later than those behind it
        self._silent: frozenset[str] = frozenset()
        self._log = log.get()

    async def run(self) -> None:
        """Measure every ``PERIOD`` seconds, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD
            await asyncio.sleep(PERIOD)
            self.note(loop.time(), loop.time() - due)
            self._look()

    def note(self, now: float, late: float) -> None:
        """Remember that the loop was that many seconds late."""
        while self._late and self._late[-1][1] <= late:
            self._late.pop()
        self._late.append((now, late))
        if late > LATE:
            self._log.warning("the event loop was held up", seconds=round(late, 3))

    def lag(self, now: float) -> float:
        """The worst lag of the last ``REMEMBERED`` seconds, in seconds."""
        while self._late and self._late[0][0] < now - REMEMBERED:
            self._late.popleft()
        return self._late[0][1] if self._late else 0.0

    def silent(self) -> list[SilentBody]:
        """What does not answer at present."""
        return [{"name": name, "for_s": round(seconds, 3)} for name, seconds in bounded.not_answering()]

    def _look(self) -> None:
        silent = frozenset(name for name, _ in bounded.not_answering())
        for name in sorted(silent - self._silent):
            self._log.error("no answer: it is left alone, and everything else goes on", thing=name)
        for name in sorted(self._silent - silent):
            self._log.info("it answers again", thing=name)
        if silent != self._silent:
            self._silent = silent
            self._snapshots.publish()
