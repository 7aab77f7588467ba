"""One program's life: mailbox -> ``core.program.step`` -> effects performed, and nothing decided here.

A runner owns one program. Everything that happens to it comes through ``post``; every change goes out as a published
snapshot. The world (processes, sockets, files) is behind ``World``, so that the same runner lives on virtual time.

An error that nobody foresaw ends here: it belongs to this program, and neither the daemon nor another program sees it.
What must be done is tried again until it works (``_persist``); a start that fails is the core's to decide about.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import moves, program, recovery, unexpected
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.health import Reaction
from llm_supervisor.core.probe import ProbePlan, Reader
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.host import log
from llm_supervisor.supervision.probing import Probing
from llm_supervisor.supervision.snapshots import Snapshots
from llm_supervisor.supervision.world import Publish, SpawnRefused, Swept, World

# A runner turns at least this often (seconds), so that the watchdog can tell a quiet one from a stuck one
HEARTBEAT = 5.0
# A runner that wakes so much later than planned (seconds) was not busy: the whole machine was suspended, or the process
OVERSLEPT = 30.0
# What could not be done is tried again after so long, then after twice as long each time up to the second (seconds)
FIRST_RETRY, LONGEST_RETRY = 0.05, 5.0
# An event that a defect of ours keeps from being handled must not make the loop spin (seconds)
PUT_OFF = 5.0
_T = TypeVar("_T")


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
        self._mailbox: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._turns = Snapshots()
        self._finished = False
        self._tasks: asyncio.TaskGroup | None = None
        self._probing = Probing(
            world,
            name=spec.name,
            post=self.post,
            spec=lambda: self.spec,
            state=lambda: self.state,
            asking=asking,
            reader=reader,
        )
        self._probes: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Task[None]] = []  # for orphans, perhaps for ever
        self._adopted = 0  # the incarnation that ran already when this runner began
        self._told_to_end: set[asyncio.Task[None]] = set()
        self._said = ""  # the last unexpected error, so that one that lasts is logged once
        self._log = log.get(program=spec.name)

    def own_request(self) -> AbstractContextManager[None]:
        """Around a request that we send to the program, so that it is not taken for the work of a client."""
        return self._probing.own_request()

    def replace(self, spec: ProgramSpec, asking: ProbePlan | None, reader: Reader | None) -> None:
        """Run another configuration of the same name from now on. Its process stays; how it is asked changes at
        once."""
        self.spec = spec
        self._probing.replace(asking, reader)
        if self.state.phase is Phase.RUNNING and self._probes is not None and self._tasks is not None:
            self._end(self._probes)
            self._probes = self._task(self._probe(self.state.incarnation, at_once=True))
            self._wake.set()

    @property
    def name(self) -> str:
        """The name of the program, which never changes."""
        return self.spec.name

    def post(self, event: Event) -> None:
        """Put an event into the mailbox; events are handled in the order of posting."""
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
        """End the loop once the mailbox is empty. The program should be down by then."""
        self._finished = True
        self._wake.set()

    async def run(self, *, sweep_first: bool = False, recorded: State | None = None) -> None:
        """Handle events until finished. ``sweep_first``: a former daemon may have left processes of this program, which
        are ended first. ``recorded``: the state that a former daemon recorded, to go on from."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            if recorded is not None:
                found = await self._persist("looking for what runs of it", self._adopt, recorded.incarnation)
                self._begin(*recovery.recovered(self.spec, recorded, found, loop.time()))
            elif sweep_first:
                self._begin(*recovery.leftover(self.spec, self.state, loop.time()))
            elif self.spec.autostart:
                self.post(ev.StartRequested())
            while not (self._finished and not self._mailbox):
                await self._turn(loop)
            self._end_probing()
            for task in self._waiting:
                self._end(task)

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle one event, or wait for one until the deadline or the next heartbeat."""
        self.turned_at = loop.time()
        if self._mailbox:
            self._handle(self._mailbox.popleft(), loop.time())
            return
        deadline = self.state.deadline
        if deadline is not None and loop.time() >= deadline:
            self._handle(ev.DeadlinePassed(), loop.time())
            return
        self._wake.clear()
        until = loop.time() + HEARTBEAT if deadline is None else min(deadline, loop.time() + HEARTBEAT)
        try:
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass
        if (late := loop.time() - until) > OVERSLEPT:
            self._handle(ev.Overslept(late), loop.time())

    def _begin(self, state: State, effects: tuple[Effect, ...]) -> None:
        """Go on from what a former daemon left."""
        before, self.state = self.state, state
        self._tell(before, ev.StartRequested())
        self._adopted = state.incarnation if state.phase is Phase.RUNNING else 0
        self._perform(effects)

    def _handle(self, event: Event, now: float) -> None:
        before = self.state
        try:
            self.state, effects = program.step(self.spec, before, event, now)
        except Exception as error:
            what = f"handling {type(event).__name__} in {before.phase}"
            self.state, effects = moves.put_off(before, self._unexpected(error, what), now, PUT_OFF), ()
        self._probing.set_doubt(self.state.health.verdict.action is Reaction.DOUBT)
        self._perform(effects)
        if self.state is not before:
            self._tell(before, event)
        self._turns.publish()

    def _tell(self, before: State, event: Event) -> None:
        """Publish the change. Whoever fails at it does so without us."""
        try:
            self._publish(self.name, before, self.state, event)
        except Exception as error:
            self._unexpected(error, "telling of its state")

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case do.Spawn(incarnation, warm):
                    self._task(self._spawn(incarnation, warm))
                case do.SendSignal(_, signum, tree):
                    self._attempt("signalling it", self._world.signal, self.name, signum, tree=tree)
                case do.Sweep(incarnation, grace, kill_grace):
                    self._task(self._sweep(incarnation, grace, kill_grace))
                case do.BeginProbing(incarnation):
                    self._probing.begin_start()
                    self._probes = self._task(self._probe(incarnation, at_once=incarnation == self._adopted))
                case do.TakeBaseline(incarnation):
                    if not self._attempt("watching it", self._world.take_baseline, self.spec, incarnation, self.post):
                        self._task(self._take_baseline(incarnation))
                    self._probing.became_ready()
                case do.EndProbing():
                    self._end_probing()
                case do.CloseListener():
                    self._attempt("closing its socket", self._world.close_listener, self.name)
                case do.AwaitOrphans(incarnation):
                    self._waiting.append(self._task(self._await_orphans(incarnation)))

    # Errors that nobody foresaw ---------------------------------------------------------------------------

    def _unexpected(self, error: BaseException, doing: str) -> Failure:
        """What the error means for this program. It is logged: one of ours with its traceback, each kind once."""
        failure = unexpected.failure_of(error, doing)
        if failure.summary != self._said:
            self._said = failure.summary
            self._log.error("unexpected", doing=doing, error=failure.summary, exc_info=unexpected.root_of(error))
        return failure

    def _attempt(self, doing: str, act: Callable[..., None], *arguments: Any, **named: Any) -> bool:
        """Do something that may fail without consequences: the phase's deadline looks after what it was for."""
        try:
            act(*arguments, **named)
        except Exception as error:
            self._unexpected(error, doing)
            return False
        return True

    async def _persist(self, doing: str, work: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """Do what must be done, until it has worked; meanwhile the state says what hinders it."""
        incarnation, pause, hindered = self.state.incarnation, FIRST_RETRY, False
        while True:
            began = asyncio.get_running_loop().time()
            try:
                done = await work(*arguments)
            except Exception as error:
                if asyncio.current_task() in self._told_to_end:
                    # a task group whose child fails at that moment forgets that it was cancelled; and on Python 3.11
                    # the task's own count of cancellations does not tell either
                    raise asyncio.CancelledError from error
                self.post(ev.Hindered(incarnation, self._unexpected(error, doing)))
            else:
                if hindered:
                    self._said = ""
                    self.post(ev.Hindered(incarnation, None))
                return done
            hindered = True
            self.turned_at = asyncio.get_running_loop().time()
            if self.turned_at - began > LONGEST_RETRY:
                pause = FIRST_RETRY  # it had worked for a while
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "effects are performed inside run()"
        return self._tasks.create_task(work)

    def _end_probing(self) -> None:
        if self._probes is not None:
            self._end(self._probes)
            self._probes = None

    def _end(self, task: asyncio.Task[None]) -> None:
        """Cancel it, for good."""
        self._told_to_end.add(task)
        task.add_done_callback(self._told_to_end.discard)
        task.cancel()

    # Effects that take time -------------------------------------------------------------------------------

    async def _adopt(self, incarnation: int) -> recovery.Remnant:
        return self._world.adopt(self.name, incarnation, self.post)

    async def _probe(self, incarnation: int, *, at_once: bool) -> None:
        async def ask() -> None:
            nonlocal at_once
            begun, at_once = at_once, True  # after an error its questions are due now
            await self._probing.run(incarnation, at_once=begun)

        await self._persist("asking it", ask)

    async def _take_baseline(self, incarnation: int) -> None:
        async def take() -> None:
            if self.state.phase is Phase.RUNNING and self.state.incarnation == incarnation:
                self._world.take_baseline(self.spec, incarnation, self.post)

        await self._persist("watching it", take)

    async def _spawn(self, incarnation: int, warm: bool) -> None:
        try:
            launched = await self._world.spawn(self.spec, incarnation, self.post, warm=warm)
        except SpawnRefused as refused:
            self.post(ev.SpawnFailed(incarnation, refused.failure))
        except Exception as error:
            self.post(ev.SpawnFailed(incarnation, self._unexpected(error, "starting it")))
        else:
            self._said = ""
            self.post(ev.Spawned(incarnation, launched.pid, launched.warm))

    async def _sweep(self, incarnation: int, grace: float, kill_grace: float) -> None:
        async def sweep() -> Swept:
            return await self._world.sweep(self.spec, self.state, grace, kill_grace)

        swept = await self._persist("ending its processes", sweep)
        if swept.left:
            self.post(ev.SweepStuck(incarnation, swept.left, swept.denied))
        else:
            self.post(ev.SweepFinished(incarnation, swept.found, swept.failure))

    async def _await_orphans(self, incarnation: int) -> None:
        await self._persist("waiting for its last processes", self._world.orphans_gone, self.name)
        self.post(ev.OrphansGone(incarnation))
