"""Probing one program: ask it how it is, watch it start, and post what was seen.

Nothing is judged here: an answer is posted as an ``Observed`` event, and the core decides what it means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core.health import Answer, Observation, ProbeResult
from llm_supervisor.core.probe import Canary, MetricsProbe, ProbePlan, Reader, Step
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import State
from llm_supervisor.supervision.world import Post, World

# How often a starting program's output and CPU time are looked at (seconds)
START_LOOK = 0.5
# How long a warm start waits before its second question; each pause is longer, up to ``startup_period`` (seconds)
WARM_PACE = 0.02
# How often the core is asked whether it wants a canary (seconds); doubt does not wait for it
CANARY_LOOK = 10.0


class Probing:
    """Asks one program. ``post`` gets the events; ``spec`` and ``state`` return what the program is now.

    Start ``run`` as a task when the program has been spawned, and cancel it when the program is to leave.
    """

    def __init__(
        self,
        world: World,
        *,
        name: str,
        post: Post,
        spec: Callable[[], ProgramSpec],
        state: Callable[[], State],
        asking: ProbePlan | None,
        reader: Reader | None,
    ) -> None:
        self._world, self._name, self._post = world, name, post
        self._spec, self._state = spec, state
        self._asking, self._reader = asking, reader
        self._ready = asyncio.Event()
        self._doubt = asyncio.Event()
        self._sent = self._ended = 0  # our own requests, to tell the work of clients from them

    def replace(self, asking: ProbePlan | None, reader: Reader | None) -> None:
        """Ask in another way: a start from its next question on, a program that runs from the next ``run`` on."""
        self._asking, self._reader = asking, reader

    def begin_start(self) -> None:
        """A new incarnation starts: it is asked at the start-up pace until ``became_ready``."""
        self._ready.clear()

    def became_ready(self) -> None:
        """The program is ready: from now on it is asked at the normal pace."""
        self._ready.set()

    def set_doubt(self, doubt: bool) -> None:
        """Whether the core doubts that the program works: then a canary is sent at once."""
        if doubt:
            self._doubt.set()
        else:
            self._doubt.clear()

    @contextmanager
    def own_request(self) -> Iterator[None]:
        """Around a request that we send to the program, so that it is not taken for the work of a client."""
        self._sent += 1
        try:
            yield
        finally:
            self._ended += 1

    async def run(self, incarnation: int, *, at_once: bool) -> None:
        """Ask at the start-up pace until the program is ready, then at the normal one, for ever.

        ``at_once``: it runs already, and its first questions are due now instead of after one period.
        """
        if not self._ready.is_set():
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch_start(incarnation))
                await self._until_ready(incarnation)
                watching.cancel()
        if self._asking is not None:
            await self._while_running(incarnation, self._asking, at_once)

    async def _until_ready(self, incarnation: int) -> None:
        health, loop = self._spec().health, asyncio.get_running_loop()
        next_canary = loop.time()
        pause = WARM_PACE if self._state().startup.warm else health.startup_period
        while not self._ready.is_set():
            if (asking := self._asking) is not None:
                catalogue = canary = None
                liveness = await self._ask(asking, "liveness", health.startup_timeout)
                if liveness is not None and liveness.answer is Answer.OK:
                    catalogue = await self._ask(asking, "catalogue", health.startup_timeout)
                if (
                    catalogue is not None
                    and asking.canary is not None
                    and catalogue.answer in (Answer.OK, Answer.WRONG)
                    and loop.time() >= next_canary
                ):
                    canary = await self._world.send(self._name, asking, asking.canary, health.canary_timeout)
                    next_canary = loop.time() + health.period  # a canary that fails is not repeated at the probes' pace
                seen = Observation(liveness=liveness, catalogue=catalogue, canary=canary)
                self._post(ev.Observed(incarnation, seen))
            try:
                async with asyncio.timeout(min(pause, health.startup_period)):
                    await self._ready.wait()
            except TimeoutError:
                pause *= 1.2

    async def _while_running(self, incarnation: int, asking: ProbePlan, at_once: bool) -> None:
        """Each signal at its own pace: one that gets no answer must not silence the others."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever(incarnation, asking, at_once))
            group.create_task(self._list_for_ever(incarnation, asking, at_once))
            group.create_task(self._dump_stacks_of_stalls())
            if asking.metrics is not None:
                group.create_task(self._read_for_ever(incarnation, asking, asking.metrics))
            if asking.canary is not None:
                group.create_task(self._send_canaries(incarnation, asking, asking.canary))

    async def _ask_for_ever(self, incarnation: int, asking: ProbePlan, at_once: bool) -> None:
        health, loop = self._spec().health, asyncio.get_running_loop()
        due = loop.time() - (health.period if at_once else 0.0)
        while True:
            due = max(due + health.period, loop.time())
            await asyncio.sleep(due - loop.time())
            stopped = self._world.stopped(self._spec())
            liveness = await self._ask(asking, "liveness", health.timeout)
            self._post(ev.Observed(incarnation, Observation(liveness=liveness, stopped=stopped)))

    async def _list_for_ever(self, incarnation: int, asking: ProbePlan, at_once: bool) -> None:
        health, loop = self._spec().health, asyncio.get_running_loop()
        due = loop.time() - (health.readiness_period if at_once else 0.0)
        while True:
            due = max(due + health.readiness_period, loop.time())
            await asyncio.sleep(due - loop.time())
            catalogue = await self._ask(asking, "catalogue", health.readiness_timeout)
            self._post(ev.Observed(incarnation, Observation(catalogue=catalogue)))

    async def _read_for_ever(self, incarnation: int, asking: ProbePlan, reading: MetricsProbe) -> None:
        """Read the counters. A saturated engine answers late, and its counters show that it works: they are waited for
        up to half of the stall grace."""
        health = self._spec().health
        patience = max(health.timeout, health.stall_grace / 2)
        ended_before = self._ended
        while True:
            ended = self._ended
            probe, counters = await self._world.read(self._name, asking, reading, patience)
            # our requests that were on their way at the reading before, and those that were sent since
            own, ended_before = self._sent - ended_before, ended
            self._post(ev.Observed(incarnation, Observation(metrics=probe, counters=counters, own=own)))
            await asyncio.sleep(health.period)

    async def _dump_stacks_of_stalls(self) -> None:
        """Dump the stacks once for each stall, when half of its grace is over: the judgement must not wait for it."""
        loop, grace = asyncio.get_running_loop(), self._spec().health.stall_grace
        done: float | None = None  # when the stall began whose stacks were dumped
        while True:
            await self._doubt.wait()
            since = self._state().health.suspect_since
            if since is not None and since != done and loop.time() >= since + grace / 2:
                done = since
                await self._world.dump_stacks(self._spec())
            await asyncio.sleep(max(grace / 8, 0.1))

    async def _send_canaries(self, incarnation: int, asking: ProbePlan, canary: Canary) -> None:
        """Send one at a time, whenever the core wants one."""
        health, loop = self._spec().health, asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(CANARY_LOOK):
                    await self._doubt.wait()
            except TimeoutError:
                pass
            if hl.wants_canary(health, self._state().health, loop.time()):
                with self.own_request():
                    probe = await self._world.send(self._name, asking, canary, health.canary_timeout)
                self._post(ev.Observed(incarnation, Observation(canary=probe)))
                # doubt that a canary did not end is asked about again at the probes' pace, not at once
                await asyncio.sleep(health.period)
            elif self._doubt.is_set():
                await asyncio.sleep(CANARY_LOOK)  # without a pause, doubt that needs no canary would spin here

    async def _ask(self, asking: ProbePlan, signal: str, timeout: float) -> ProbeResult | None:
        if not asking.probes:  # a plain TCP port: that a connection is accepted is all that can be known
            return await self._world.ask(self._name, asking, None, timeout)
        for question in asking.probes:
            if question.signal == signal:
                return await self._world.ask(self._name, asking, question, timeout)
        return ProbeResult(Answer.OK, "nothing to ask")

    def _read(self, line: bytes) -> Step | None:
        """What a line says about the start. A program may write anything: what cannot be read says nothing."""
        try:
            return self._reader(line) if self._reader else None
        except Exception:
            return None

    async def _watch_start(self, incarnation: int) -> None:
        """Post what a starting program writes, burns and downloads, as signs of progress."""
        cpu, had = 0, await self._world.downloaded(self._spec())
        while True:
            lines, wrote = await self._world.output(self._name)
            step: Step | None = None
            for line in lines:
                step = self._read(line) or step
            burned = self._world.worked(self._spec())
            if (has := await self._world.downloaded(self._spec())) > had:
                step = step or Step("downloading")  # vLLM writes nothing about it
            had = max(had, has)
            if step is not None:
                self._post(ev.Advanced(incarnation, True, step.doing, step.done, step.total))
            elif wrote or burned > cpu:
                self._post(ev.Advanced(incarnation, loading=False))
            cpu = max(cpu, burned)
            await asyncio.sleep(START_LOOK)
