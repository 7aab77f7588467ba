"""Specifications, events and states for the tests of the core.

States are made by walking ``step``, so that no test talks about one that cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from llm_supervisor.core import event as ev
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Answer, Counters, Observation, ProbeResult
from llm_supervisor.core.program import step
from llm_supervisor.core.spec import HealthSpec, Kind, Launch, ProgramSpec, RestartSpec, StopSpec
from llm_supervisor.core.state import Phase, State

EVENT_CLASSES: tuple[type, ...] = get_args(Event)
EFFECT_CLASSES: tuple[type, ...] = get_args(Effect)

HEALTH = HealthSpec(canary=False)
RESTART = RestartSpec()
STOP = StopSpec()
# With a readiness check but no canary, as a gateway; without a check (supervisord's startsecs); an engine with all
CHECKED = ProgramSpec("checked", Kind.VLLM, Launch(("checked",)), HEALTH, RESTART, STOP, vital=("Core",))
UNCHECKED = replace(CHECKED, name="unchecked", kind=Kind.COMMAND, ready_after=1.0, vital=())
ENGINE = replace(CHECKED, name="engine", health=HealthSpec(canary=True))

PID = 100

# Why something did not work: who knows, for good, because of somebody else
SOME = Failure("log", "no log can be opened", "Free some room in the log folder.")
PERMANENT = Failure("spawn_failed", "no such file: vllm", "Install it.", permanent=True)
BUSY = Failure("port_taken", "port 8000 is taken", "End its holder.", busy=True)


def probe(answer: Answer | None) -> ProbeResult | None:
    """A probe with that answer; None for one that was not asked."""
    return None if answer is None else ProbeResult(answer, f"answered {answer.value}")


def seen(
    liveness: Answer | None = None,
    catalogue: Answer | None = None,
    canary: Answer | None = None,
    work: float | tuple[float, ...] | None = None,
    running: int = 0,
    waiting: int = 0,
    stopped: tuple[str, ...] | None = None,
    metrics: Answer | None = None,
    routes: dict[str, Answer] | None = None,
    took: float = 0.0,
) -> Observation:
    """One round of looking. ``work`` None: the counters were not read. ``took`` is the canary's."""
    counters = None
    if work is not None:
        counters = Counters(work if isinstance(work, tuple) else (work,), running, waiting)
        metrics = metrics or Answer.OK
    return Observation(
        liveness=probe(liveness),
        catalogue=probe(catalogue),
        metrics=probe(metrics),
        counters=counters,
        canary=None if canary is None else replace(ProbeResult(canary, f"answered {canary.value}"), took=took),
        stopped=stopped,
        routes={group: ProbeResult(answer, f"answered {answer.value}") for group, answer in (routes or {}).items()},
    )


# Every question that a start needs an answer to, the canary included
ALL_OK = seen(Answer.OK, Answer.OK, Answer.OK)


def events(incarnation: int) -> Iterator[Event]:
    """At least one event of every class, those of a child for that incarnation."""
    yield ev.StartRequested()
    yield ev.StopRequested()
    yield ev.RestartRequested()
    yield ev.Spawned(incarnation, PID)
    yield ev.SpawnFailed(incarnation, SOME)
    yield ev.SpawnFailed(incarnation, PERMANENT)
    yield ev.SpawnFailed(incarnation, BUSY)
    yield ev.Exited(incarnation, ExitStatus(0))
    yield ev.Exited(incarnation, ExitStatus(1))
    yield ev.Exited(incarnation, ExitStatus(signal=9))
    yield ev.Exited(incarnation, ExitStatus())
    yield ev.MemberLost(incarnation, PID + 1, "Core")
    yield ev.Observed(incarnation, ALL_OK)
    yield ev.Observed(incarnation, seen(Answer.OK, Answer.WRONG))
    yield ev.Observed(incarnation, seen(Answer.SILENT))
    yield ev.Observed(incarnation, seen(Answer.DEAD))
    yield ev.Observed(incarnation, seen(Answer.OK, work=1.0, running=1))
    yield ev.Advanced(incarnation, loading=False)
    yield ev.Advanced(incarnation, True, "loading weights", 3, 5)
    yield ev.SweepFinished(incarnation, 2)
    yield ev.SweepFinished(incarnation, 0, PERMANENT)
    yield ev.SweepFinished(incarnation, 0, BUSY)
    yield ev.SweepStuck(incarnation, ("Core (pid 101, state D)",))
    yield ev.SweepStuck(incarnation, ("python (pid 101, state S)",), denied=True)
    yield ev.OrphansGone(incarnation)
    yield ev.Hindered(incarnation, SOME)
    yield ev.Hindered(incarnation, BUSY)
    yield ev.Hindered(incarnation, None)
    yield ev.DeadlinePassed()
    yield ev.Overslept(3600.0)


CHILD_CLASSES = tuple({type(event): None for event in events(1) if hasattr(event, "incarnation")})


def walk(spec: ProgramSpec, state: State, *happened: Event, now: float = 0.0) -> State:
    """The state after these events, all at the same time."""
    for event in happened:
        state, _ = step(spec, state, event, now)
    return state


_SPAWNED = (ev.StartRequested(), ev.Spawned(1, PID))
_READY = (*_SPAWNED, ev.Observed(1, ALL_OK))
# One way into every phase, for a program with a readiness check
WAYS: dict[Phase, tuple[Event, ...]] = {
    Phase.STOPPED: (),
    Phase.STARTING: _SPAWNED,
    Phase.RUNNING: _READY,
    Phase.TERMINATING: (*_READY, ev.StopRequested()),
    Phase.KILLING: (*_READY, ev.MemberLost(1, PID + 1, "Core")),
    Phase.SWEEPING: (*_READY, ev.Exited(1, ExitStatus(1))),
    Phase.BACKOFF: (*_SPAWNED, ev.Exited(1, ExitStatus(1)), ev.SweepFinished(1)),
    Phase.FATAL: (*_READY, ev.Exited(1, ExitStatus(1)), ev.SweepStuck(1, ("Core (pid 101, state D)",))),
}


def at(phase: Phase, spec: ProgramSpec = CHECKED, now: float = 0.0) -> State:
    """A state in that phase, of incarnation 1 (0 where nothing was started yet)."""
    state = walk(spec, State(), *WAYS[phase], now=now)
    assert state.phase is phase
    return state
