"""Tells systemd how things stand, and that the daemon is alive, as long as every part of it turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from llm_supervisor.core import fleet
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.systemd import Notifier
from llm_supervisor.supervision.runner import HEARTBEAT
from llm_supervisor.supervision.snapshots import Snapshots

# How often systemd is told how things stand (seconds); its watchdog is fed at least three times per period
PERIOD = 5.0
# What is asked of systemd at a time while a start or a stop makes progress (seconds)
EXTENSION = 60.0
# A runner or the pump that has not turned for so many heartbeats hangs
HEARTBEATS = 3
# Many changes at once are told once: seconds to wait for the rest of them
SETTLE = 0.05


class Watchdog:
    """What systemd hears of the daemon: READY=1, STATUS=, WATCHDOG=1 and EXTEND_TIMEOUT_USEC."""

    def __init__(
        self,
        notifier: Notifier,
        pump: Pump,
        active: ActiveConfig,
        runners: Runners,
        lifecycle: Lifecycle,
        snapshots: Snapshots,
        degraded: Callable[[], Sequence[str]],
    ) -> None:
        self._degraded = degraded
        self._notifier, self._pump, self._active = notifier, pump, active
        self._runners, self._lifecycle, self._snapshots = runners, lifecycle, snapshots
        self._told_ready = False
        self._last_words = ""

    async def run(self) -> None:
        """Tell systemd at every change, and now and then, for ever; and look after the pump, without which every child
        blocks on its output sooner or later."""
        pause = min(PERIOD, self._notifier.watchdog / 3) if self._notifier.watchdog else PERIOD
        while True:
            seen = self._snapshots.number
            self._pump.look_after()
            self._tell()
            if self._turns():
                self._notifier.alive()
            try:
                async with asyncio.timeout(pause):
                    await self._snapshots.after(seen)
                await asyncio.sleep(SETTLE)
            except TimeoutError:
                pass

    def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        states = self._runners.states
        words = "; ".join([fleet.in_words(states), *(f"degraded: {text}" for text in self._degraded())])
        specs = {name: spec for name, spec in self._runners.specs.items() if self._runners.stays(name)}
        staying = {name: states[name] for name in specs}
        if not self._told_ready and fleet.reached(self._active.plan.ready_when, specs, staying):
            self._told_ready = self._notifier.ready(words) or not self._notifier.active
        elif self._lifecycle.ending:
            # every phase of leaving has its deadline, so this ends by itself
            if any(state.deadline is not None for state in states.values()):
                self._notifier.extend(EXTENSION)
        elif not self._told_ready and fleet.progressing(states.values(), now, EXTENSION):
            # a start that makes progress may take its time; one that does not uses up the time that systemd gives
            self._notifier.extend(EXTENSION)
        if words != self._last_words:
            self._last_words = words
            self._notifier.status(words)

    def _turns(self) -> bool:
        """Whether every runner and the pump have turned in the last seconds."""
        now, limit = asyncio.get_running_loop().time(), HEARTBEATS * HEARTBEAT
        turning = all(now - runner.turned_at < limit for runner in self._runners.values())
        return turning and time.monotonic() - self._pump.turned_at < limit
