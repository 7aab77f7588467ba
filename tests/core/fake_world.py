"""A world for a runner without a process in it: it does on virtual time what a test tells it, and keeps a diary."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Answer, Counters, ProbeResult
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan, Reader
from llm_supervisor.core.recovery import Remnant
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.supervision.runner import Runner
from llm_supervisor.supervision.world import Launched, SpawnRefused, Swept
from tests.support.virtual_time import play

from .makers import CHECKED, PID

SIGKILL = 9
CPU_TICK = 1


def _judge(status: int, body: bytes) -> ProbeResult:
    raise AssertionError("the fake world answers by itself")


def _read(body: bytes) -> Counters:
    raise AssertionError("the fake world reads by itself")


# As a gateway is asked, and as an engine is
ASKING = ProbePlan(
    ("127.0.0.1", 8000), (HttpProbe("liveness", "/health", _judge), HttpProbe("catalogue", "/v1/models", _judge))
)
ENGINE_ASKING = replace(
    ASKING, metrics=MetricsProbe("/metrics", _read), canary=Canary("/v1/completions", lambda nonce: {}, _judge)
)


class FakeWorld:
    """See ``runner.World``. What is public is a test's to set; ``diary`` has (time, what was done)."""

    def __init__(self) -> None:
        self.diary: list[tuple[float, str]] = []
        self.asks: list[tuple[float, str, float]] = []  # time, signal, time-out
        self.asking_now: list[str] = []  # signals whose answers are on their way
        self.cancelled: list[tuple[float, str]] = []  # time, signal
        self.spawn_takes = 0.0
        self.found = Remnant(None, remains=False, began=False)  # of what a former daemon recorded
        self.warm = False  # the second start and later ones are, where they may be
        self.refusals: list[Failure] = []  # one for each of the next spawns
        self.leaves_after: float | None = 1.0  # seconds between SIGTERM and the leader's exit; None: it does not
        self.dies_of_sigkill = True
        self.sweep_takes = 0.0
        self.stuck: tuple[str, ...] = ()
        self.diagnosis: Failure | None = None
        self.orphans_end = asyncio.Event()
        self.answers: dict[str, Answer] = {}  # by signal; OK where nothing is said
        self.answers_from = 0.0  # refuses before (seconds after the spawn)
        self.ask_takes: dict[str, float] = {}
        self.busy = False  # it burns CPU time
        self.downloads = 0  # bytes, at every look
        self.lines: list[tuple[float, bytes]] = []  # when it writes what
        self.stopped_members: tuple[str, ...] = ()
        self.work, self.running, self.waiting = 0.0, 0, 0  # what it counts
        self.works = False  # every reading shows more work done
        self._cpu = self._bytes = 0
        self._spawned_at = 0.0
        self._incarnation = 0
        self._post: Callable[[Event], None] = lambda event: None

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def did(self, what: str) -> None:
        """Write it down."""
        self.diary.append((self.now, what))

    def exit(self, status: ExitStatus) -> None:
        """The leader dies now."""
        self._post(ev.Exited(self._incarnation, status))

    def lose_member(self) -> None:
        """A vital process dies now."""
        self._post(ev.MemberLost(self._incarnation, PID + 1, "Core"))

    async def spawn(
        self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None], *, warm: bool
    ) -> Launched:
        """See ``runner.World``."""
        self.did(f"spawn {incarnation}" if warm else f"spawn {incarnation} cold")
        await asyncio.sleep(self.spawn_takes)
        if self.refusals:
            raise SpawnRefused(self.refusals.pop(0))
        self._post, self._incarnation, self._spawned_at = post, incarnation, self.now
        return Launched(PID + incarnation, warm and incarnation > 1 and self.warm)

    def adopt(self, name: str, incarnation: int, post: Callable[[Event], None]) -> Remnant:
        """See ``runner.World``."""
        self.did(f"adopt {incarnation}")
        self._post, self._incarnation = post, incarnation
        return self.found

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """See ``runner.World``."""
        self.did(f"signal {signum}{' tree' if tree else ''}")
        if signum == SIGKILL:
            if self.dies_of_sigkill:
                asyncio.get_running_loop().call_soon(self.exit, ExitStatus(signal=SIGKILL))
        elif self.leaves_after is not None:
            asyncio.get_running_loop().call_later(self.leaves_after, self.exit, ExitStatus(0))

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        """See ``runner.World``."""
        self.did("sweep")
        await asyncio.sleep(self.sweep_takes)
        return Swept(1, self.stuck, self.diagnosis)

    async def orphans_gone(self, name: str) -> None:
        """See ``runner.World``."""
        self.did("await orphans")
        await self.orphans_end.wait()

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None]) -> None:
        """See ``runner.World``."""
        self.did(f"baseline {incarnation}")

    async def dump_stacks(self, spec: ProgramSpec) -> None:
        """See ``runner.World``."""
        self.did("dump stacks")

    async def downloaded(self, spec: ProgramSpec) -> int:
        """See ``runner.World``."""
        self._bytes += self.downloads
        return self._bytes

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        """See ``runner.World``."""
        return self.stopped_members

    def worked(self, spec: ProgramSpec) -> int:
        """See ``runner.World``."""
        self._cpu += CPU_TICK if self.busy else 0
        return self._cpu

    async def output(self, name: str) -> tuple[list[bytes], bool]:
        """See ``runner.World``."""
        written = [line for at, line in self.lines if at <= self.now]
        self.lines = self.lines[len(written) :]
        return written, bool(written)

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        """See ``runner.World``."""
        return await self._answer(question.signal if question is not None else "connect", timeout)

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        """See ``runner.World``."""
        probe = await self._answer("metrics", timeout)
        self.work += 1 if self.works else 0
        return probe, Counters((self.work,), self.running, self.waiting) if probe.answer is Answer.OK else None

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        """See ``runner.World``."""
        return await self._answer("canary", timeout)

    async def _answer(self, signal: str, timeout: float) -> ProbeResult:
        self.asks.append((self.now, signal, timeout))
        self.asking_now.append(signal)
        takes = self.ask_takes.get(signal, 0.0)
        try:
            await asyncio.sleep(min(takes, timeout))
        except asyncio.CancelledError:
            self.cancelled.append((self.now, signal))
            raise
        finally:
            self.asking_now.remove(signal)
        if takes >= timeout:
            return ProbeResult(Answer.SILENT, "no answer", timeout)
        if self.now - self._spawned_at < self.answers_from:
            return ProbeResult(Answer.REFUSED, "refused", takes)
        return ProbeResult(self.answers.get(signal, Answer.OK), "", takes)

    def close_listener(self, name: str) -> None:
        """See ``runner.World``."""
        self.did("close listener")


class Stage:
    """A runner in its fake world, and everything it published: (time, before, state, event)."""

    def __init__(self, spec: ProgramSpec, asking: ProbePlan | None, reader: Reader | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.world = FakeWorld()
        self.published: list[tuple[float, State, State, Event]] = []
        self._changed = asyncio.Event()
        self.runner = Runner(spec, self.world, self._publish, asking=asking, reader=reader)

    def _publish(self, name: str, before: State, state: State, event: Event) -> None:
        assert self.runner.state is state, "who is told can look"
        assert len(self.published) < 100_000, "it turns in place"
        self.published.append((self.now, before, state, event))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def now(self) -> float:
        """Virtual seconds; after the scene, when it ended."""
        return self.loop.time()

    @property
    def state(self) -> State:
        """The present snapshot."""
        return self.runner.state

    @property
    def phases(self) -> list[tuple[float, str]]:
        """When it entered which phase."""
        return [(at, state.phase.name) for at, before, state, _ in self.published if before.phase is not state.phase]

    async def until(self, phase: Phase, incarnation: int | None = None) -> float:
        """Wait, on snapshots, until it is there; the time."""
        while self.state.phase is not phase or incarnation not in (None, self.state.incarnation):
            await self._changed.wait()
        return self.now

    async def at(self, time: float) -> None:
        """Wait until that time."""
        assert time >= self.now
        await asyncio.sleep(time - self.now)


Scene = Callable[[Stage], Awaitable[None]]


def act(
    scene: Scene,
    spec: ProgramSpec = CHECKED,
    *,
    asking: ProbePlan | None = ASKING,
    reader: Reader | None = None,
    sweep_first: bool = False,
    recorded: State | None = None,
    prepare: Callable[[FakeWorld], None] = lambda world: None,
    **health: float,
) -> Stage:
    """Let a runner run on virtual time for as long as the scene lasts; the stage as it was left.

    ``health`` changes the specification's health block; ``prepare`` the world before anything happens.
    """

    async def whole() -> Stage:
        stage = Stage(replace(spec, health=replace(spec.health, **health)), asking, reader)
        prepare(stage.world)
        running = asyncio.create_task(stage.runner.run(sweep_first=sweep_first, recorded=recorded))
        acting = asyncio.ensure_future(scene(stage))
        await asyncio.wait((running, acting), return_when=asyncio.FIRST_COMPLETED)
        if not acting.done():  # the runner ended by itself: the scene may be waiting for just that
            running.result()
            await acting
        acting.result()
        running.cancel()
        await asyncio.wait((running,))
        if not running.cancelled():
            running.result()
        return stage

    return play(whole())
