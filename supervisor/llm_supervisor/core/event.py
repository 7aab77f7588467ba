"""What can happen to a program: frozen values in the past tense.

Every event of a child carries the number of its incarnation; ``program.step`` drops those of another one, in one
place. Requests come from people and carry none.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Observation

# Requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartRequested:
    """A request that the program runs."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A request that the program stops."""


@dataclass(frozen=True, slots=True)
class RestartRequested:
    """A request for a new incarnation."""


# Of a child -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """The start that was asked for has a leader now. ``warm``: it began with everything imported."""

    incarnation: int
    pid: int
    warm: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The start was refused; ``failure`` says why."""

    incarnation: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Exited:
    """The leader is dead (its tree may not be)."""

    incarnation: int
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class MemberLost:
    """The kernel says that a vital member of the tree is dead."""

    incarnation: int
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Observed:
    """A probe, or several, came back."""

    incarnation: int
    observation: Observation


@dataclass(frozen=True, slots=True)
class Advanced:
    """A starting program moved. ``loading`` says that a step of its loading advanced, which extends the budget;
    otherwise it was only alive (a line, CPU time, I/O), which proves no more than that it is not stuck."""

    incarnation: int
    loading: bool
    doing: str | None = None
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class SweepFinished:
    """Nothing of the incarnation's tree is left. ``found`` processes had outlived their leader. ``failure`` is what its
    last words and what it still holds say about why it left; None when they say nothing."""

    incarnation: int
    found: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class SweepStuck:
    """Processes of the tree survive SIGKILL: they hang in the kernel, or (``denied``) have become another user's, whom
    we may not signal."""

    incarnation: int
    left: tuple[str, ...]
    denied: bool = False


@dataclass(frozen=True, slots=True)
class OrphansGone:
    """The last process that a FATAL program waited for is gone."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Hindered:
    """Something that has to be done for the program cannot be done, and is tried again. ``failure`` says why; where the
    cause is the host's (``busy``), a start gets more time. None: it has worked at last."""

    incarnation: int
    failure: Failure | None


# Of the clock -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """``State.deadline`` is reached. The runner derives it from the state, so it cannot be stale."""


@dataclass(frozen=True, slots=True)
class Overslept:
    """The clock went on while neither daemon nor program ran (a stopped daemon, a paused machine): in these ``seconds``
    nothing that a deadline waits for could happen."""

    seconds: float


Request = StartRequested | StopRequested | RestartRequested
ChildEvent = (
    Spawned
    | SpawnFailed
    | Exited
    | MemberLost
    | Observed
    | Advanced
    | SweepFinished
    | SweepStuck
    | OrphansGone
    | Hindered
)
ClockEvent = DeadlinePassed | Overslept
Event = Request | ChildEvent | ClockEvent
