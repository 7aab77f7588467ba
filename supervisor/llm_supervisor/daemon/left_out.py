"""Reads in the log of each gateway's replica, once it runs, what it serves without although it is configured, and posts
that as an observation of it: nothing that a replica answers would tell."""

from __future__ import annotations

from llm_supervisor.core import event as ev
from llm_supervisor.core.health import Answer, Observation, ProbeResult
from llm_supervisor.core.spec import Kind
from llm_supervisor.core.state import Phase
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.diagnosis import left_out
from llm_supervisor.host import bounded
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.snapshots import Snapshots

BEGINNING = 512 * 1024  # bytes of a replica's log in which it is looked for, which are mostly those of its start


class LeftOut:
    """Looks once at each incarnation of each replica."""

    def __init__(self, world: LocalWorld, runners: Runners, snapshots: Snapshots) -> None:
        self._world, self._runners, self._snapshots = world, runners, snapshots
        self._read: dict[str, int] = {}  # the incarnation whose log was read last, by replica

    async def run(self) -> None:
        """Look whenever something has changed, for ever."""
        while True:
            seen = self._snapshots.number
            for name, runner in list(self._runners.items()):
                state = runner.state
                if runner.spec.kind is not Kind.LITELLM or state.phase is not Phase.RUNNING:
                    continue
                if self._read.get(name) != state.incarnation:
                    self._read[name] = state.incarnation
                    await self._look(name, state.incarnation)
            await self._snapshots.after(seen)

    async def _look(self, name: str, incarnation: int) -> None:
        try:
            log = await self._world.log_of(name, BEGINNING)
        except bounded.NoAnswer:
            return
        found = {one.kind.replace("_", " "): ProbeResult(Answer.WRONG, one.summary) for one in left_out(log, "litellm")}
        if found and name in self._runners:
            self._runners[name].post(ev.Observed(incarnation, Observation(routes=found)))
