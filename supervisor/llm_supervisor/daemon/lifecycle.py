"""Whether the daemon runs, ends or becomes another version, and the background tasks that live as long as it does.

The parts of the daemon ask here; none of them stops the daemon by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from llm_supervisor.host import log
from llm_supervisor.supervision.snapshots import Snapshots


class Lifecycle:
    """The daemon's own state. Every change of it is published, so that whoever waits for a program looks again."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._own = Snapshots()  # of this alone: programs change all the time, and the daemon ends once
        self._ending = self._down = self._handing_over = False
        self._group = asyncio.TaskGroup()
        self._log = log.get()
        self.word = "starting"  # as the status shows it: starting, running or stopping

    # What it is about to do -------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether the daemon was told to end."""
        return self._ending

    @property
    def handing_over(self) -> bool:
        """Whether it is about to become another version: everybody who waits is answered now."""
        return self._handing_over

    @property
    def down(self) -> bool:
        """Whether all programs have ended, at the end of the daemon."""
        return self._down

    def end(self) -> None:
        """Tell the daemon to end; this cannot be taken back."""
        self._ending = True
        self._publish()

    def is_down(self) -> None:
        """Note that all programs have ended."""
        self._down = True
        self._publish()

    def hand_over(self) -> None:
        """Begin to become another version."""
        self._handing_over = True
        self._publish()

    def go_on(self) -> None:
        """Note that it became no other version after all."""
        self._handing_over = False
        self._publish()

    async def until_ending(self) -> None:
        """Wait until the daemon is told to end."""
        await self._own.until(lambda: self._ending)

    async def until_down(self) -> None:
        """Wait until all programs have ended."""
        await self._own.until(lambda: self._down)

    def _publish(self) -> None:
        self._own.publish()
        self._snapshots.publish()

    # Background work --------------------------------------------------------------------------------------

    @property
    def tasks(self) -> asyncio.TaskGroup:
        """The task group of the daemon, to be entered once. What fails in it ends the daemon."""
        return self._group

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A part of the daemon, in the background: when it fails, the daemon ends."""
        return self._group.create_task(work)

    def soon(self, work: Coroutine[Any, Any, object]) -> None:
        """One request, in the background. What goes wrong with it is logged, and is no reason for the daemon to end."""

        async def alone() -> None:
            try:
                await work
            except Exception:
                self._log.exception("a request failed")

        self._group.create_task(alone())
