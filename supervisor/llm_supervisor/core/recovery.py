"""The first state of a program whose former daemon is gone: from what was recorded and what still lives. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_supervisor.core import effect as do
from llm_supervisor.core import health as hl
from llm_supervisor.core import moves
from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.core.moves import Outcome
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, Departure, Phase, State, Wanted


def leftover(spec: ProgramSpec, state: State, now: float) -> Outcome:
    """The first state of a program whose processes a former daemon may have left, when nothing more is known of it:
    sweep before anything else."""
    wanted = Wanted.UP if spec.autostart else Wanted.DOWN
    departure = Departure(Cause.LEFTOVER, "left by a former daemon", was_ready=False)
    new, effects = moves.sweep(spec, replace(state, wanted=wanted), now, departure)
    return moves.note_down_since(state, new, now), effects


@dataclass(frozen=True, slots=True)
class Remnant:
    """What a new daemon finds of an incarnation. ``pid``: its leader, alive; ``remains``: something of it lives,
    whether its leader does or not; ``began``: it is known to have had a leader."""

    pid: int | None
    remains: bool
    began: bool


def recovered(spec: ProgramSpec, state: State, remnant: Remnant, now: float) -> Outcome:
    """The first state of a program that a former daemon has recorded as ``state``: it goes on from there.

    What ran is not restarted for it, what was stopped or given up stays so, what was on its way out goes on, and what
    has died meanwhile has died, and comes back as if somebody had seen it.
    """
    new, effects = _recovered(spec, state, remnant, now)
    under_way = new.phase not in (Phase.STOPPED, Phase.FATAL)
    return (moves.note_down_since(state, new, now) if under_way else new), effects


def _recovered(spec: ProgramSpec, state: State, remnant: Remnant, now: float) -> Outcome:
    state = replace(state, health=hl.NEW, pid=remnant.pid, startup=replace(state.startup, spawning=False), sweeps=0)
    match state.phase:
        case Phase.FATAL if state.orphaned:
            return state, (do.CloseListener(), do.AwaitOrphans(state.incarnation))
        case Phase.STOPPED | Phase.BACKOFF | Phase.FATAL:
            if remnant.remains:  # a start that the former daemon could not record any more
                return moves.sweep(
                    spec, state, now, Departure(Cause.LEFTOVER, "left by a former daemon", was_ready=False)
                )
            return state, (do.CloseListener(),) if state.phase is not Phase.BACKOFF else ()
        case Phase.RUNNING if remnant.pid is not None:
            return _go_on(spec, state, now)
        case Phase.STARTING if remnant.pid is not None:
            # it is not known what it did meanwhile, and its own output may have blocked it: all its budgets begin anew
            startup = state.startup
            spawned = now if startup.warm else startup.spawned  # the budget of a warm start is short
            alive_since = startup.alive_since or now
            startup = replace(startup, alive_since=alive_since, spawned=spawned, stirred_at=now, loaded_at=now)
            state = replace(state, startup=startup)
            return replace(state, deadline=moves.start_deadline(spec, state)), (do.BeginProbing(state.incarnation),)
        case Phase.RUNNING | Phase.STARTING if remnant.began:
            was_ready = state.phase is Phase.RUNNING
            when = "" if was_ready else " before it was ready,"
            why = f"ended{when} while no daemon lived (status unknown)"
            state = replace(state, exited=ExitStatus())
            return moves.sweep(spec, state, now, Departure(Cause.EXITED, why, was_ready, ExitStatus()))
        case Phase.STARTING | Phase.RUNNING:  # it is not known whether a process was made
            return moves.sweep(spec, state, now, Departure(Cause.LEFTOVER, state.reason, was_ready=False))
    leaving = state.leaving or Departure(Cause.ASKED, state.reason, was_ready=state.ready_since is not None)
    if remnant.pid is not None and state.phase is Phase.TERMINATING:
        return moves.terminate(spec, state, now, leaving)
    return moves.sweep(spec, state, now, leaving)


def _go_on(spec: ProgramSpec, state: State, now: float) -> Outcome:
    """A running program goes on; the answers to the next probes say how it is."""
    unasked = spec.ready_after is not None
    verdict = (
        moves.ALIVE
        if unasked
        else hl.Verdict("adopted", hl.Word.UNKNOWN, hl.Reaction.KEEP, "found running; not asked yet")
    )
    new = replace(state, health=replace(hl.NEW, verdict=verdict), reason=verdict.reason)
    return replace(new, deadline=moves.running_deadline(spec, new)), (
        do.BeginProbing(state.incarnation),
        do.TakeBaseline(state.incarnation),
    )
