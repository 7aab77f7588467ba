"""Whether the daemon runs, ends or becomes another version, and the background tasks that live as long as it does.

The parts of the daemon ask here; none of them stops the daemon by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from llm_supervisor.host import log
from llm_supervisor.supervision.snapshots import Snapshots
from llm_supervisor.supervision.troubles import Troubles

# A part that fails begins again after so long, then after twice as long each time up to the second (seconds)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
# A part that has worked for so long is well again (seconds)
SETTLED = 60.0


class Lifecycle:
    """The daemon's own state. Every change of it is published, so that whoever waits for a program looks again."""

    def __init__(self, snapshots: Snapshots, troubles: Troubles) -> None:
        self._snapshots, self._troubles = snapshots, troubles
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

    def start_vital(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A part without which there is no daemon, in the background: when it fails, the daemon ends."""
        return self._group.create_task(work)

    def start(self, part: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """A part of the daemon, in the background. When it fails that is logged and shown, and it begins again: no
        error that somebody overlooked is worth the lives of all programs."""
        return self._group.create_task(self._again_and_again(part, work))

    async def _again_and_again(self, part: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        well: asyncio.TimerHandle | None = None
        while True:
            began = loop.time()
            try:
                await work()
                self._troubles.clear(part)
                return
            except Exception as error:
                if self._down:
                    return  # it was told to end, and failed on the way
                text = f"{part} fails and begins again: {type(error).__name__}: {error}"
                if self._troubles.note(part, text):
                    self._log.exception("a part of the daemon failed", part=part)
            finally:
                if well is not None:
                    well.cancel()
            pause = FIRST_PAUSE if loop.time() - began > SETTLED else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)
            well = loop.call_later(SETTLED, self._troubles.clear, part)

    def soon(self, work: Coroutine[Any, Any, object]) -> None:
        """One request, in the background. What goes wrong with it is logged, and is no reason for the daemon to end."""

        async def alone() -> None:
            try:
                await work
            except Exception:
                self._log.exception("a request failed")

        self._group.create_task(alone())
