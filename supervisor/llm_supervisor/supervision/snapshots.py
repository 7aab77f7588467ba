"""Tell waiters that something has changed, so that each looks at the present state again and none is stranded.

A waiter never waits for an event that may have passed before it looked. It asks a question about the present, and is
woken after every published change to ask it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Snapshots:
    """A series of states that somebody publishes and others wait on. It holds no state itself: waiters look at the
    present one where it is kept. Not for use by several threads."""

    def __init__(self) -> None:
        self._number = 0
        self._next = asyncio.Event()

    @property
    def number(self) -> int:
        """The number of the present state: how often one was published."""
        return self._number

    def publish(self) -> None:
        """Wake everybody who waits. Call it after the change, when it can be seen."""
        self._number += 1
        now, self._next = self._next, asyncio.Event()
        now.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as ``holds`` is true: at once where it is, else after the change that makes it so. A state
        that is over before this task had its turn is not noticed: ask for what lasts."""
        while not holds():
            await self._next.wait()

    async def after(self, number: int) -> None:
        """Wait for a newer state than the one of that ``number``, at once where there is one. Take the number before
        looking at the state: then a change is not missed, however long the look takes."""
        await self.until(lambda: self._number > number)
