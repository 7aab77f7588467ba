"""What a runner needs done on the machine, as a protocol: processes, output, probes and listening sockets.

``local`` implements it for this machine; the tests implement it on virtual time. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.health import Counters, ProbeResult
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan
from llm_supervisor.core.recovery import Remnant
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import State

# Told of every change of a program's state: its name, the state before, the state now, and the event that led to it
Publish = Callable[[str, State, State, Event], None]
Post = Callable[[Event], None]


class SpawnRefused(Exception):
    """The world refuses to start a program; ``failure`` says why, for people and for the restart policy."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Launched:
    """A program that was started: the pid of its leader, and whether it was forked from a fork server (``warm``)."""

    pid: int
    warm: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found: how many processes, the names of those that cannot be ended (``denied``: because we may not
    signal them), and why the program left."""

    found: int = 0
    left: tuple[str, ...] = ()
    failure: Failure | None = None
    denied: bool = False


class World(Protocol):
    """Each call is about one program's incarnation. Durations are seconds."""

    async def spawn(self, spec: ProgramSpec, incarnation: int, post: Post, *, warm: bool) -> Launched:
        """Start the program; from now on its exit is posted. ``warm`` asks for a fork from a fork server, which has
        everything imported; where that cannot be done the start is cold. Raises SpawnRefused."""

    def adopt(self, name: str, incarnation: int, post: Post) -> Remnant:
        """Watch what a former daemon started as this incarnation, if it lives; from now on its exit is posted."""

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """Send a signal to the leader, or with ``tree`` to every process of the tree."""

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        """End what is left of the tree, wait for the GPU memory that it held, and find out why the program left.

        SIGTERM is followed by SIGKILL after ``grace``; what is alive ``kill_grace`` later is reported as left."""

    async def orphans_gone(self, name: str) -> None:
        """Return when no process of the tree is left."""

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Post) -> None:
        """The program is ready: remember its tree; from now on the loss of a vital member is posted."""

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        """The vital members that are stopped, or hang in the kernel, each named with its pid."""

    def worked(self, spec: ProgramSpec) -> int:
        """How much the tree has done so far: clock ticks of CPU time plus MiB read and written."""

    async def dump_stacks(self, spec: ProgramSpec) -> None:
        """Record where its processes stand now, for the incident in case the program is found to hang."""

    async def output(self, name: str) -> tuple[list[bytes], bool]:
        """The complete lines that the program wrote since the last call, and whether it wrote anything at all."""

    async def downloaded(self, spec: ProgramSpec) -> int:
        """How many bytes of what the program downloads are there; 0 where the disk does not answer."""

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        """Ask one question and judge the answer; without a question, try a TCP connection."""

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        """Read the counters of the program's metrics; None where they could not be read."""

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        """Send a canary and judge the answer."""

    def close_listener(self, name: str) -> None:
        """Close the program's listening socket, so that clients are refused instead of queued."""
