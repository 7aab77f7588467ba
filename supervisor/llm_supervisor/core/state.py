"""Where a program is, whether it is wanted up or down, and the words that people see.

Plain frozen data. Only ``program``, ``moves`` and ``recovery`` make new states; everybody else reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import NEW, Health, Word
from llm_supervisor.core.restart import FRESH, History


class Phase(StrEnum):
    """Where a program is. Whether it is wanted is another axis: a restart is leaving while wanted up."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    TERMINATING = "terminating"
    KILLING = "killing"
    SWEEPING = "sweeping"
    BACKOFF = "backoff"
    FATAL = "fatal"


class Wanted(StrEnum):
    """Whether the program is wanted up or down."""

    UP = "up"
    DOWN = "down"


class Cause(StrEnum):
    """The reason for which an incarnation leaves."""

    ASKED = "asked"  # somebody asked for a stop or a restart
    EXITED = "exited"
    TREE = "tree_incomplete"
    UNRESPONSIVE = "unresponsive"
    STALLED = "stalled"
    BUDGET = "startup_budget"
    STARTUP_STALL = "startup_stall"
    SPAWN = "spawn_failed"
    LEFTOVER = "leftover"  # a former daemon's, found at start-up


@dataclass(frozen=True, slots=True)
class Departure:
    """How the present incarnation came to leave. It is set once: the first reason counts."""

    cause: Cause
    summary: str
    was_ready: bool
    status: ExitStatus | None = None
    failure: Failure | None = None

    @property
    def failed(self) -> bool:
        """Whether this is a failure at all. An exit 0 before readiness is one (LiteLLM's parent exits 0 when its
        worker fails); an exit 0 after it is not."""
        if self.cause in (Cause.ASKED, Cause.LEFTOVER):
            return False
        if self.cause is Cause.EXITED and self.was_ready:
            return self.status is None or not self.status.ok
        return True


@dataclass(frozen=True, slots=True)
class Loading:
    """What a starting program is doing, from its own output: ``loading weights 3/5``."""

    step: str
    done: int | None = None
    total: int | None = None

    def __str__(self) -> str:
        return self.step if self.total is None else f"{self.step} {self.done}/{self.total}"


@dataclass(frozen=True, slots=True)
class Startup:
    """How the present incarnation was started, and how far its start has come. Times are monotonic seconds."""

    spawned: float | None = None  # when it was asked for; from the leader's first moment on, when that was
    alive_since: float | None = None  # when its leader was there
    spawning: bool = False  # asked for, and not answered yet
    warm: bool = False  # it began with everything imported
    loaded_at: float | None = None  # last step of its loading
    stirred_at: float | None = None  # last sign of life while starting
    loading: Loading | None = None


NOT_STARTED = Startup()


@dataclass(frozen=True, slots=True)
class State:
    """One program's state. Times are monotonic seconds; ``incarnation`` counts spawn requests and is 0 before the
    first."""

    phase: Phase = Phase.STOPPED
    wanted: Wanted = Wanted.DOWN
    incarnation: int = 0
    pid: int | None = None
    deadline: float | None = None
    began: float | None = None  # when the present phase was entered
    startup: Startup = NOT_STARTED
    cold_next: bool = False  # a warm start failed: the next is cold
    cold_took: float | None = None  # seconds from the last cold start to readiness
    down_since: float | None = None  # since when it has not been running though it is under way; None while it runs
    sweeps: int = 0  # sweeps that have not answered yet
    ready_since: float | None = None
    health: Health = NEW
    leaving: Departure | None = None
    exited: ExitStatus | None = None  # of the last leader that died
    failure: Failure | None = None
    history: History = FRESH
    orphaned: bool = False  # processes of the last incarnation survive SIGKILL
    starts: int = 0
    restarts: int = 0
    reason: str = ""

    @property
    def word(self) -> str:
        """The state in supervisord's words."""
        if self.phase is Phase.STOPPED and self.wanted is Wanted.UP:
            return "EXITED"  # by itself, and its policy does not bring it back
        return WORDS[self.phase]

    @property
    def health_word(self) -> Word:
        """The health, as people see it beside the state."""
        if self.phase is Phase.RUNNING:
            return self.health.verdict.word
        if self.phase in (Phase.STARTING, Phase.BACKOFF):
            return Word.STARTING
        if self.phase is Phase.STOPPED:
            return Word.UNHEALTHY if self.orphaned else Word.UNKNOWN  # what survives SIGKILL still holds what it held
        return Word.UNHEALTHY

    @property
    def ready(self) -> bool:
        """Whether the program can be used now."""
        return self.phase is Phase.RUNNING and self.health.verdict.word in (Word.READY, Word.BUSY)


# supervisord's words, gapless
WORDS: dict[Phase, str] = {
    Phase.STOPPED: "STOPPED",
    Phase.STARTING: "STARTING",
    Phase.RUNNING: "RUNNING",
    Phase.TERMINATING: "STOPPING",
    Phase.KILLING: "STOPPING",
    Phase.SWEEPING: "STOPPING",
    Phase.BACKOFF: "BACKOFF",
    Phase.FATAL: "FATAL",
}
