"""One program's life: mailbox -> ``core.program.step`` -> effects performed, and nothing decided here.

A runner owns one program. Everything that happens to it comes through ``post``; every change goes out as a published
snapshot. The world (processes, sockets, files) is behind ``World``, so that the same runner lives on virtual time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core import program, recovery
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.health import Answer, Counters, Observation, ProbeResult, Reaction
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan, Reader, Step
from llm_supervisor.core.recovery import Remnant
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.supervision.snapshots import Snapshots

# A runner turns at least this often (seconds), so that the watchdog can tell a quiet one from a stuck one
HEARTBEAT = 5.0
# Waking so much later than planned (seconds) is no busy loop: nobody ran
OVERSLEPT = 30.0
# How often a starting program's output and CPU time are looked at (seconds)
START_LOOK = 0.5
# How soon a warm start is asked for the first time; later ones come slower, down to the pace of any start (seconds)
WARM_PACE = 0.02
# How often the core is asked whether it wants a canary (seconds); doubt does not wait for it
CANARY_LOOK = 10.0


class SpawnRefused(Exception):
    """A start that the world refuses, with the reason for people."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: how many processes, the names of those that cannot be ended, and why the program left."""

    found: int = 0
    left: tuple[str, ...] = ()
    failure: Failure | None = None


class World(Protocol):
    """What a runner needs done. Each call is about one program's incarnation."""

    async def spawn(
        self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None], *, warm: bool
    ) -> tuple[int, bool]:
        """Start it (``warm``: with everything imported, where that can be done) and return the leader's pid, and
        whether it was warm; from then on its exit is posted. Raises SpawnRefused."""

    def adopt(self, name: str, incarnation: int, post: Callable[[Event], None]) -> Remnant:
        """Watch what a former daemon started as this incarnation, if it lives; from then on its exit is posted."""

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """Signal the leader, or all of the tree."""

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        """End what is left of the tree, wait for what it held, and find out why it left."""

    async def orphans_gone(self, name: str) -> None:
        """Return when nothing of the tree is left."""

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None]) -> None:
        """Remember the tree; from now on the loss of a vital member is posted."""

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        """The vital members that are stopped, named."""

    def worked(self, spec: ProgramSpec) -> int:
        """What the tree has done so far (clock ticks and MiB)."""

    async def photograph(self, spec: ProgramSpec) -> None:
        """Keep where its processes stand now, for the incident should it be found to hang."""

    def output(self, name: str) -> tuple[list[bytes], bool]:
        """Complete lines that the program wrote since the last call, and whether it wrote anything at all."""

    def downloaded(self, spec: ProgramSpec) -> int:
        """The bytes that are there of what it downloads."""

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        """One question and its answer; without a question, a TCP connection."""

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        """The counters, and whether they could be read."""

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        """A canary and what became of it."""

    def close_listener(self, name: str) -> None:
        """Refuse the program's clients."""


Publish = Callable[[str, State, State, Event], None]


class Runner:
    """Runs one program until it is told to ``finish``."""

    def __init__(
        self,
        spec: ProgramSpec,
        world: World,
        publish: Publish,
        *,
        asking: ProbePlan | None = None,
        reader: Reader | None = None,
        state: State | None = None,
    ) -> None:
        self.spec = spec
        self.state = state or State()
        self.turned_at = 0.0
        self._world = world
        self._publish = publish
        self._asking = asking
        self._reader = reader
        self._mailbox: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._turns = Snapshots()
        self._finished = False
        self._tasks: asyncio.TaskGroup | None = None
        self._probing: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Task[None]] = []  # for orphans, perhaps for ever
        self._ready = asyncio.Event()
        self._doubt = asyncio.Event()
        self._sent = self._ended = 0  # requests of ours: to tell others' work from them
        self._at_once = 0  # an incarnation that runs and was not asked anything by us: its first questions are due

    @contextmanager
    def own_request(self) -> Iterator[None]:
        """Around a request that we send to the program, so that it is not taken for somebody's work."""
        self._sent += 1
        try:
            yield
        finally:
            self._ended += 1

    def replace(self, spec: ProgramSpec, asking: ProbePlan | None, reader: Reader | None) -> None:
        """What it should be from now on, of the same name. Its process stays; how it is asked changes at once."""
        self.spec, self._asking, self._reader = spec, asking, reader
        if self.state.phase is Phase.RUNNING and self._probing is not None and self._tasks is not None:
            self._probing.cancel()
            self._at_once = self.state.incarnation
            self._probing = self._task(self._probe(self.state.incarnation))
            self._wake.set()

    @property
    def name(self) -> str:
        """The program's name."""
        return self.spec.name

    def post(self, event: Event) -> None:
        """Something happened; it is handled in the order of posting."""
        self._mailbox.append(event)
        self._wake.set()

    @property
    def pending(self) -> bool:
        """Whether something was posted that is not handled yet."""
        return bool(self._mailbox)

    async def handled(self) -> None:
        """Wait until everything that was posted is handled, and what it means is decided."""
        await self._turns.until(lambda: not self.pending)

    def finish(self) -> None:
        """End the loop after what is in the mailbox. The program should be down by then."""
        self._finished = True
        self._wake.set()

    async def run(self, *, sweep_first: bool = False, recorded: State | None = None) -> None:
        """Turn until finished. ``sweep_first``: a former daemon may have left processes of this program. ``recorded``:
        how a former daemon knew it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            if recorded is not None:
                found = self._world.adopt(self.name, recorded.incarnation, self.post)
                self._begin(*recovery.recovered(self.spec, recorded, found, loop.time()))
            elif sweep_first:
                self._begin(*recovery.leftover(self.spec, self.state, loop.time()))
            elif self.spec.autostart:
                self.post(ev.StartRequested())
            while not (self._finished and not self._mailbox):
                self.turned_at = loop.time()
                if self._mailbox:
                    self._handle(self._mailbox.popleft(), loop.time())
                    continue
                deadline = self.state.deadline
                if deadline is not None and loop.time() >= deadline:
                    self._handle(ev.DeadlinePassed(), loop.time())
                    continue
                self._wake.clear()
                until = loop.time() + HEARTBEAT if deadline is None else min(deadline, loop.time() + HEARTBEAT)
                try:
                    async with asyncio.timeout_at(until):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                if (late := loop.time() - until) > OVERSLEPT:
                    self._handle(ev.Overslept(late), loop.time())
            self._end_probing()
            for task in self._waiting:
                task.cancel()

    def _begin(self, state: State, effects: tuple[Effect, ...]) -> None:
        """Go on from what a former daemon left."""
        before, self.state = self.state, state
        self._publish(self.name, before, state, ev.StartRequested())
        self._at_once = state.incarnation if state.phase is Phase.RUNNING else 0
        self._perform(effects)

    def _handle(self, event: Event, now: float) -> None:
        before = self.state
        self.state, effects = program.step(self.spec, before, event, now)
        if self.state.health.verdict.action is Reaction.DOUBT:
            self._doubt.set()
        else:
            self._doubt.clear()
        self._perform(effects)
        if self.state is not before:
            self._publish(self.name, before, self.state, event)
        self._turns.publish()

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case do.Spawn(incarnation, warm):
                    self._task(self._spawn(incarnation, warm))
                case do.SendSignal(_, signum, tree):
                    self._world.signal(self.name, signum, tree=tree)
                case do.Sweep(incarnation, grace, kill_grace):
                    self._task(self._sweep(incarnation, grace, kill_grace))
                case do.BeginProbing(incarnation):
                    self._ready.clear()
                    self._probing = self._task(self._probe(incarnation))
                case do.TakeBaseline(incarnation):
                    self._world.take_baseline(self.spec, incarnation, self.post)
                    self._ready.set()
                case do.EndProbing():
                    self._end_probing()
                case do.CloseListener():
                    self._world.close_listener(self.name)
                case do.AwaitOrphans(incarnation):
                    self._waiting.append(self._task(self._await_orphans(incarnation)))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "effects are performed inside run()"
        return self._tasks.create_task(work)

    def _end_probing(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    # Effects that take time -------------------------------------------------------------------------------

    async def _spawn(self, incarnation: int, warm: bool) -> None:
        try:
            pid, warm = await self._world.spawn(self.spec, incarnation, self.post, warm=warm)
        except SpawnRefused as no:
            self.post(ev.SpawnFailed(incarnation, no.failure))
        else:
            self.post(ev.Spawned(incarnation, pid, warm))

    async def _sweep(self, incarnation: int, grace: float, kill_grace: float) -> None:
        swept = await self._world.sweep(self.spec, self.state, grace, kill_grace)
        if swept.left:
            self.post(ev.SweepStuck(incarnation, swept.left))
        else:
            self.post(ev.SweepFinished(incarnation, swept.found, swept.failure))

    async def _await_orphans(self, incarnation: int) -> None:
        await self._world.orphans_gone(self.name)
        self.post(ev.OrphansGone(incarnation))

    # Probing ----------------------------------------------------------------------------------------------

    async def _probe(self, incarnation: int) -> None:
        """Ask at the start-up pace until the baseline is taken, then at the normal one."""
        if not self._ready.is_set():
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch_start(incarnation))
                await self._until_ready(incarnation)
                watching.cancel()
        if self._asking is not None:
            await self._while_running(incarnation, self._asking)

    async def _until_ready(self, incarnation: int) -> None:
        health, loop = self.spec.health, asyncio.get_running_loop()
        next_canary = loop.time()
        pause = WARM_PACE if self.state.startup.warm else health.startup_period
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
                    canary = await self._world.send(self.name, asking, asking.canary, health.canary_timeout)
                    next_canary = loop.time() + health.period  # one that fails is not repeated at the probes' pace
                seen = Observation(liveness=liveness, catalogue=catalogue, canary=canary)
                self.post(ev.Observed(incarnation, seen))
            try:
                async with asyncio.timeout(min(pause, health.startup_period)):
                    await self._ready.wait()
            except TimeoutError:
                pause *= 1.2

    async def _while_running(self, incarnation: int, asking: ProbePlan) -> None:
        """Each signal at its own pace: one that gets no answer must not silence the others."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_for_ever(incarnation, asking))
            group.create_task(self._list_for_ever(incarnation, asking))
            group.create_task(self._photograph_stalls())
            if asking.metrics is not None:
                group.create_task(self._read_for_ever(incarnation, asking, asking.metrics))
            if asking.canary is not None:
                group.create_task(self._send_canaries(incarnation, asking, asking.canary))

    async def _ask_for_ever(self, incarnation: int, asking: ProbePlan) -> None:
        health, loop = self.spec.health, asyncio.get_running_loop()
        due = loop.time() - (health.period if incarnation == self._at_once else 0.0)
        while True:
            due = max(due + health.period, loop.time())
            await asyncio.sleep(due - loop.time())
            stopped = self._world.stopped(self.spec)
            liveness = await self._ask(asking, "liveness", health.timeout)
            self.post(ev.Observed(incarnation, Observation(liveness=liveness, stopped=stopped)))

    async def _list_for_ever(self, incarnation: int, asking: ProbePlan) -> None:
        health, loop = self.spec.health, asyncio.get_running_loop()
        due = loop.time() - (health.readiness_period if incarnation == self._at_once else 0.0)
        while True:
            due = max(due + health.readiness_period, loop.time())
            await asyncio.sleep(due - loop.time())
            catalogue = await self._ask(asking, "catalogue", health.readiness_timeout)
            self.post(ev.Observed(incarnation, Observation(catalogue=catalogue)))

    async def _read_for_ever(self, incarnation: int, asking: ProbePlan, reading: MetricsProbe) -> None:
        """The counters. A saturated engine answers late: that it works is worth waiting for, up to the stall grace."""
        health = self.spec.health
        patience = max(health.timeout, health.stall_grace / 2)
        ended_before = self._ended
        while True:
            ended = self._ended
            probe, counters = await self._world.read(self.name, asking, reading, patience)
            # what was on its way at the reading before, and what was sent since
            own, ended_before = self._sent - ended_before, ended
            self.post(ev.Observed(incarnation, Observation(metrics=probe, counters=counters, own=own)))
            await asyncio.sleep(health.period)

    async def _photograph_stalls(self) -> None:
        """Once for each stall, when half of its grace is over: the judgement must not wait for it."""
        loop, grace = asyncio.get_running_loop(), self.spec.health.stall_grace
        done: float | None = None  # the stall that was photographed
        while True:
            await self._doubt.wait()
            since = self.state.health.suspect_since
            if since is not None and since != done and loop.time() >= since + grace / 2:
                done = since
                await self._world.photograph(self.spec)
            await asyncio.sleep(max(grace / 8, 0.1))

    async def _send_canaries(self, incarnation: int, asking: ProbePlan, canary: Canary) -> None:
        """One at a time, whenever the core wants one."""
        health, loop = self.spec.health, asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(CANARY_LOOK):
                    await self._doubt.wait()
            except TimeoutError:
                pass
            if hl.wants_canary(health, self.state.health, loop.time()):
                with self.own_request():
                    probe = await self._world.send(self.name, asking, canary, health.canary_timeout)
                self.post(ev.Observed(incarnation, Observation(canary=probe)))
                # doubt that a canary did not end is asked about again at the probes' pace, not at once
                await asyncio.sleep(health.period)
            elif self._doubt.is_set():
                await asyncio.sleep(CANARY_LOOK)  # doubt that no canary is wanted for must not turn in place

    async def _ask(self, asking: ProbePlan, signal: str, timeout: float) -> ProbeResult | None:
        if not asking.probes:  # a plain TCP port: that somebody accepts is all there is to know
            return await self._world.ask(self.name, asking, None, timeout)
        for question in asking.probes:
            if question.signal == signal:
                return await self._world.ask(self.name, asking, question, timeout)
        return ProbeResult(Answer.OK, "nothing to ask")

    async def _watch_start(self, incarnation: int) -> None:
        """What a starting program says and does, as signs of progress."""
        cpu, had = 0, self._world.downloaded(self.spec)
        while True:
            lines, wrote = self._world.output(self.name)
            step: Step | None = None
            for line in lines:
                step = (self._reader(line) if self._reader else None) or step
            burned = self._world.worked(self.spec)
            if (has := self._world.downloaded(self.spec)) > had:
                step = step or Step("downloading")  # of which vLLM says no word
            had = has
            if step is not None:
                self.post(ev.Advanced(incarnation, True, step.doing, step.done, step.total))
            elif wrote or burned > cpu:
                self.post(ev.Advanced(incarnation, loading=False))
            cpu = max(cpu, burned)
            await asyncio.sleep(START_LOOK)
