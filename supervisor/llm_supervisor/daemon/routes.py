"""Proves by requests that the gateway reaches its engines and everything else that it needs. Each answer is posted to
the gateway as an observation of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace

from llm_supervisor.config.specs import Planned
from llm_supervisor.core import event as ev
from llm_supervisor.core import fleet
from llm_supervisor.core.health import Answer, Observation, ProbeResult
from llm_supervisor.core.probe import Canary, ProbePlan
from llm_supervisor.core.state import Phase
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.host import http
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.snapshots import Snapshots

# How often a route that fails is asked again, and how often it is looked whether there is a new one (seconds)
RETRY = 30.0
LOOK = 10.0
# How long what a gateway needs may take to accept a connection, and how soon a new gateway is told (seconds)
NEED_TIMEOUT = 5.0
NEED_LOOK = 0.5
# Many changes at once are looked at once: seconds to wait for the rest of them
SETTLE = 0.05
WITHOUT = {
    "redis": "until it is back, the cache and the limits that are shared through it do nothing",
    "database": "until it is back, virtual keys that are not cached are refused, and spend is not written",
}

Route = tuple[str, str]  # a gateway's replica, and the engine behind it


class Routes:
    """Sends a canary through the gateway for each local group, and connects to what else the gateway needs."""

    def __init__(self, active: ActiveConfig, world: LocalWorld, runners: Runners, snapshots: Snapshots) -> None:
        self._active, self._world, self._runners, self._snapshots = active, world, runners, snapshots
        self._proved: dict[Route, tuple[int, int]] = {}  # the incarnations of both when it was asked last
        self._again: dict[Route, float] = {}  # when it is asked again, in the loop's seconds

    async def prove(self) -> None:
        """Ask each route after either side has changed, and again until it is answered, for ever: so that a wrong key,
        route or address is found."""
        while True:
            seen = self._snapshots.number
            routes = [
                (name, planned.asking, alias, canary)
                for name, planned in self._active.plan.programs.items()
                if planned.asking is not None
                for alias, canary in planned.asking.routes.items()
            ]
            for name, asking, alias, canary in routes:
                await self._prove_one(name, asking, alias, canary)
            try:
                async with asyncio.timeout(LOOK):
                    await self._snapshots.after(seen)
                await asyncio.sleep(SETTLE)
            except TimeoutError:
                pass

    async def _prove_one(self, name: str, asking: ProbePlan, alias: str, canary: Canary) -> None:
        if name not in self._runners or alias not in self._runners:
            return  # it has gone since
        loop, route = asyncio.get_running_loop(), (name, alias)
        front, engine = self._runners[name], self._runners[alias]
        pair = fleet.pair_ready(front.state, engine.state)
        if pair is None or (self._proved.get(route) == pair and loop.time() < self._again.get(route, math.inf)):
            return
        self._proved[route] = pair
        with engine.own_request():
            answer = await self._world.send(name, asking, canary, front.spec.health.canary_timeout)
        if fleet.pair_ready(front.state, engine.state) != pair:
            self._proved.pop(route, None)  # one of the two has gone meanwhile: the answer says nothing of its successor
            return
        if answer.answer is Answer.SILENT and engine.state.health.pending:
            self._again[route] = loop.time() + RETRY  # it waited behind the engine's work, which proves nothing
            return
        front.post(ev.Observed(pair[0], Observation(routes={alias: answer})))
        # what is wrong with a route may be mended elsewhere, so it is asked again now and then
        self._again[route] = math.inf if answer.answer is Answer.OK else loop.time() + RETRY

    async def watch_needs(self) -> None:
        """See now and then, for ever, whether what a gateway needs beside its engines is there. Without it the gateway
        may work, but not do all that it should."""
        asked = 0  # the incarnation that was told last
        while True:
            needy = [
                (self._runners[name], needs)
                for name, planned in self._active.plan.programs.items()
                if (needs := _needs(planned)) and name in self._runners
            ]
            for runner, needs in needy:
                if runner.state.phase is not Phase.RUNNING:
                    continue
                asked = runner.state.incarnation
                seen = {need: await _connect(need, address) for need, address in needs.items()}
                runner.post(ev.Observed(asked, Observation(routes=seen)))
            told = not needy or any(runner.state.incarnation == asked for runner, _ in needy)
            await asyncio.sleep(LOOK if told else NEED_LOOK)


def _needs(planned: Planned) -> Mapping[str, tuple[str, int]]:
    """What a program needs beside its engines: an address by name."""
    return planned.asking.needs if planned.asking is not None else {}


async def _connect(need: str, address: tuple[str, int]) -> ProbeResult:
    found = await http.connect(*address, NEED_TIMEOUT)
    if found.answer is Answer.OK:
        return found
    return replace(found, answer=Answer.WRONG, detail=f"{found.detail}; {WITHOUT[need]}")
