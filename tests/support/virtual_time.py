"""An asyncio loop on virtual time: whenever nothing is left to do, its clock jumps to the next timer.

Half an hour passes in no time, and always in the same order. What would wait for ever is an error at once, and so is
what goes on beyond the end of time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# A scene that lasts longer than this (virtual seconds) waits for what does not come
END_OF_TIME = 100_000.0


class Stranded(Exception):
    """Whoever still waits would wait for ever: no timer runs any more, or only those of somebody who never ends."""


class _Jumper(selectors.SelectSelector):
    """Where a loop would sleep for its next timer, it moves the clock there."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert self.loop is not None
        if timeout is None:
            raise Stranded
        if timeout > 0:
            self.loop.jump()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """For coroutines that use nothing but timers and each other: no file is ever ready, no thread is waited for."""

    def __init__(self) -> None:
        self._virtual = 0.0
        jumper = _Jumper()
        super().__init__(jumper)
        jumper.loop = self
        # a timer is due when it is less than this ahead: a nanosecond is nothing beside a year, in floats
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual

    def jump(self) -> None:
        """To the very time of the next timer: a sum of differences would miss it by a rounding."""
        self._virtual = max(self._virtual, self._scheduled[0].when())  # type: ignore[attr-defined]
        if self._virtual > END_OF_TIME:
            raise Stranded


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Run to the end on virtual time. Raises Stranded when the end cannot come."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            return runner.run(scene)
        except Stranded:
            tasks = asyncio.all_tasks(runner.get_loop())
            waiting = ", ".join(sorted(getattr(task.get_coro(), "__qualname__", "?") for task in tasks))
            raise Stranded(f"these would wait for ever: {waiting}") from None
