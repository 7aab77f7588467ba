"""One program's reducer: ``step(spec, state, event, now) -> (state, effects)``.

The table at the end is total (every phase × every event); what does nothing says so. The handlers beside it are the
entries of the table; what changes the phase is in ``moves``. Only these and ``recovery`` write a state.
Pure: no clock, no input or output, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llm_supervisor.core import aftermath, moves, restart, verdict
from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core.event import Event
from llm_supervisor.core.moves import SIGKILL, Outcome
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, Departure, Loading, Phase, State, Wanted
from llm_supervisor.units import duration_text

Handler = Callable[[ProgramSpec, State, Event, float], Outcome]


def step(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Decide what ``event`` means for a program in ``state``.

    Returns the new state and what the world is to do, in that order. Events of another incarnation change nothing.
    A deadline that is not reached changes nothing either, so a spurious wake-up is harmless.
    """
    if isinstance(event, ev.ChildEvent) and event.incarnation != state.incarnation:
        return state, ()
    if isinstance(event, ev.DeadlinePassed) and (state.deadline is None or now < state.deadline):
        return state, ()
    new, effects = TABLE[state.phase][type(event)](spec, state, event, now)
    return (new if new.phase is state.phase else moves.note_down_since(state, new, now)), effects


# Handlers ---------------------------------------------------------------------------------------------------


def ignore(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The entry of the table for an event that means nothing in that phase."""
    return state, ()


def start(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """An explicit request to start: past failures are forgiven. But nothing starts beside an orphan, so it is swept
    first."""
    state = replace(state, history=restart.FRESH, wanted=Wanted.UP)
    if state.orphaned:
        return moves.sweep(spec, state, now, Departure(Cause.ASKED, "asked to start", was_ready=False))
    return moves.start(spec, replace(state, failure=None), now, "asked to start")


def hurry(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """An explicit request ends the backoff."""
    return moves.start(spec, replace(state, history=restart.FRESH), now, "asked to start")


def stay_down(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A program that is down is asked to stop: note that it must stay down."""
    return replace(state, wanted=Wanted.DOWN), ()


def give_up(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A program that waits to start again, and of which nothing lives, is asked to stop."""
    return moves.stop(replace(state, wanted=Wanted.DOWN), now, "asked to stop")


def leave_for_good(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A living program is asked to stop."""
    asked = Departure(Cause.ASKED, "asked to stop", was_ready=state.ready_since is not None)
    state, effects = moves.terminate(spec, replace(state, wanted=Wanted.DOWN), now, asked)
    # it accepts no connections from now on: a client is refused at once, and does not wait until the drain is over
    return state, (*effects, do.CloseListener())


def leave_and_return(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A restart of a living program: it leaves, and is wanted up."""
    asked = Departure(Cause.ASKED, "asked to restart", was_ready=state.ready_since is not None)
    return moves.terminate(spec, replace(state, wanted=Wanted.UP, history=restart.FRESH), now, asked)


def want_up(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A program that is leaving is asked to start: it comes back when it is gone, also where its policy would not bring
    it back."""
    leaving = state.leaving
    assert leaving is not None
    if not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        leaving = Departure(Cause.ASKED, "asked to start", leaving.was_ready)
    return replace(state, wanted=Wanted.UP, leaving=leaving), ()


def want_up_again(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A program that is leaving is asked to restart: it comes back without a backoff, whatever it left for."""
    leaving = state.leaving
    if leaving is not None:
        leaving = Departure(Cause.ASKED, "asked to restart", leaving.was_ready)
    return replace(state, wanted=Wanted.UP, history=restart.FRESH, leaving=leaving), ()


def want_down(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A program that is leaving is asked to stop: it does not come back."""
    return replace(state, wanted=Wanted.DOWN), ()


def note_pid(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader exists: begin to probe it."""
    assert isinstance(event, ev.Spawned)
    # what came before was our own: a turn on the GPU, or a fork server that did not answer
    startup = replace(state.startup, spawning=False, alive_since=now, spawned=now, stirred_at=now, warm=event.warm)
    state = replace(state, pid=event.pid, startup=startup)
    return replace(state, deadline=moves.start_deadline(spec, state)), (do.BeginProbing(state.incarnation),)


def signal_late(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader appears when it has been told to leave already: signal it now."""
    assert isinstance(event, ev.Spawned)
    signal = spec.stop.signal if state.phase is Phase.TERMINATING else SIGKILL
    return replace(state, pid=event.pid, startup=replace(state.startup, spawning=False)), (
        do.SendSignal(state.incarnation, signal),
    )


def sweep_again(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start answers when its tree is being swept already: sweep once more, for what it may have made."""
    sweep = do.Sweep(state.incarnation, spec.stop.sweep_grace, spec.stop.kill_grace)
    return replace(state, startup=replace(state.startup, spawning=False), sweeps=state.sweeps + 1), (sweep,)


def too_late(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start answers when it has been given up already: what it made is an orphan."""
    if not state.startup.spawning:
        return state, ()
    state = replace(state, startup=replace(state.startup, spawning=False))
    if isinstance(event, ev.SpawnFailed):
        # that the orphans went may have been said while this was open
        await_orphans = (do.AwaitOrphans(state.incarnation),) if state.orphaned else ()
        return state, await_orphans
    end = do.SendSignal(state.incarnation, SIGKILL, tree=True)
    return replace(state, orphaned=True), (end, do.AwaitOrphans(state.incarnation))


def spawn_refused(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The start did not happen. A start can fail half-way, so what it may have left is swept all the same."""
    assert isinstance(event, ev.SpawnFailed)
    failure = event.failure
    state = replace(
        state, startup=replace(state.startup, spawning=False), exited=None
    )  # nothing has lived that could have ended
    leaving = state.leaving or Departure(Cause.SPAWN, failure.summary, was_ready=False, failure=failure)
    return moves.sweep(spec, state, now, leaving)


def leader_died(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader's death is not the end: the tree is swept first."""
    assert isinstance(event, ev.Exited)
    state = replace(state, exited=event.status)
    was_ready = state.ready_since is not None
    when = "" if was_ready else " before it was ready"
    leaving = state.leaving or Departure(Cause.EXITED, f"{event.status}{when}", was_ready, event.status)
    return moves.sweep(spec, state, now, leaving)


def member_lost(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A vital member of the tree is dead: the program cannot answer any more, and its requests are lost, so it gets no
    grace."""
    assert isinstance(event, ev.MemberLost)
    why = f"its process {event.name} (pid {event.pid}) died"
    return moves.kill(spec, state, now, Departure(Cause.TREE, why, was_ready=True))


def judge_start(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A starting program is ready when every needed probe has had the right answer."""
    assert isinstance(event, ev.Observed)
    health = hl.observe(state.health, event.observation, now)
    judgement = verdict.readiness(spec.health, health)
    state = replace(state, health=replace(health, verdict=judgement))
    if judgement.word is hl.Word.STARTING:
        return replace(state, reason=judgement.reason), ()
    return moves.run(spec, state, now, judgement)


def judge(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Fold what was seen, fuse it, and act on the verdict."""
    if isinstance(event, ev.Observed):
        state = replace(state, health=hl.observe(state.health, event.observation, now))
    judgement = verdict.fuse(spec.health, state.health, now)
    state = replace(state, health=replace(state.health, verdict=judgement), reason=judgement.reason)
    match judgement.action:
        case hl.Reaction.LEAVE:
            return moves.terminate(spec, state, now, Departure(Cause.UNRESPONSIVE, judgement.reason, was_ready=True))
        case hl.Reaction.KILL:
            cause = Cause.STALLED if judgement.rule == "stalled" else Cause.UNRESPONSIVE
            return moves.kill(spec, state, now, Departure(cause, judgement.reason, was_ready=True))
    return replace(state, deadline=moves.running_deadline(spec, state)), ()


def keep_running(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The deadline of a running program: the end of its probation, or of a stall's grace."""
    forgiven_at = moves.forgiven_at(spec, state)
    if forgiven_at is not None and now >= forgiven_at:
        state = replace(state, history=restart.forgiven(state.history), failure=None)
    if spec.ready_after is not None:
        return replace(state, deadline=moves.running_deadline(spec, state)), ()
    return judge(spec, state, event, now)


def note_advance(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start that shows a sign of life gets more time."""
    assert isinstance(event, ev.Advanced)
    startup = replace(state.startup, stirred_at=now)
    if event.doing is not None:
        startup = replace(startup, loading=Loading(event.doing, event.done, event.total))
    if event.loading:
        startup = replace(startup, loaded_at=now)
    new = replace(state, startup=startup)
    return replace(new, deadline=moves.start_deadline(spec, new)), ()


def start_overdue(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The deadline of a start: readiness by age, or a start that takes too long."""
    assert state.startup.spawned is not None
    assert state.startup.stirred_at is not None
    if now < (due := moves.start_deadline(spec, state)):
        return replace(state, deadline=due), ()  # it was told to be more patient since
    if spec.ready_after is not None and state.startup.alive_since is not None:
        return moves.run(spec, state, now, moves.ALIVE)
    doing = f" (last: {state.startup.loading})" if state.startup.loading else ""
    if now >= state.startup.stirred_at + spec.health.startup_stall:
        why = f"start without any progress for {duration_text(spec.health.startup_stall)}{doing}"
        return moves.terminate(spec, state, now, Departure(Cause.STARTUP_STALL, why, was_ready=False))
    if state.startup.warm and now >= state.startup.spawned + moves.warm_budget(spec, state):
        budget = duration_text(moves.warm_budget(spec, state))
        why = f"a warm start not ready within {budget}{doing}: {state.health.verdict.reason}"
        return moves.terminate(spec, state, now, Departure(Cause.BUDGET, why, was_ready=False))
    why = f"not ready within {duration_text(spec.health.startup_budget)}{doing}: {state.health.verdict.reason}"
    return moves.terminate(spec, state, now, Departure(Cause.BUDGET, why, was_ready=False))


def grace_over(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The grace is over, and the leader lives: kill the tree."""
    assert state.leaving is not None
    return moves.kill(spec, state, now, state.leaving)


def unkillable(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """SIGKILL did not end the leader: sweep, which finds what is left."""
    assert state.leaving is not None
    return moves.sweep(spec, state, now, state.leaving)


def hindered(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The supervisor cannot do its part, or can again. The program keeps what it has; nobody knows how it is."""
    assert isinstance(event, ev.Hindered)
    if event.failure is None:
        return moves.unhinder(spec, state), ()
    return moves.hinder(state, event.failure), ()


def start_hindered(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A starting program cannot be asked. Where that is the host's fault, its time does not run out meanwhile."""
    assert isinstance(event, ev.Hindered)
    if event.failure is None:
        return state, ()
    state, startup = moves.hinder(state, event.failure), state.startup
    if not event.failure.busy or startup.spawned is None:
        return state, ()
    spawned = now if startup.warm else startup.spawned  # the budget of a warm start is short
    state = replace(state, startup=replace(startup, stirred_at=now, loaded_at=now, spawned=spawned))
    return replace(state, deadline=moves.start_deadline(spec, state)), ()


def backoff_over(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The backoff is over: start again."""
    return moves.start(spec, state, now, state.reason)


def overslept(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The clock has jumped: shift every time that a deadline is counted from."""
    assert isinstance(event, ev.Overslept)

    def later(at: float | None) -> float | None:
        return None if at is None else at + event.seconds

    startup = replace(
        state.startup,
        spawned=later(state.startup.spawned),
        alive_since=later(state.startup.alive_since),
        stirred_at=later(state.startup.stirred_at),
        loaded_at=later(state.startup.loaded_at),
    )
    new = replace(
        state,
        deadline=later(state.deadline),
        startup=startup,
        health=replace(state.health, suspect_since=later(state.health.suspect_since)),
    )
    return new, ()


_IGNORED_WHEN_DOWN: dict[type, Handler] = {
    ev.Spawned: too_late,
    ev.SpawnFailed: too_late,
    ev.Exited: ignore,
    ev.MemberLost: ignore,
    ev.Observed: ignore,
    ev.Advanced: ignore,
    ev.SweepFinished: ignore,
    ev.SweepStuck: ignore,
    ev.OrphansGone: ignore,
    ev.Hindered: ignore,
}

TABLE: dict[Phase, dict[type, Handler]] = {
    Phase.STOPPED: {
        ev.StartRequested: start,
        ev.StopRequested: stay_down,
        ev.RestartRequested: start,
        **_IGNORED_WHEN_DOWN,
        ev.OrphansGone: aftermath.orphans_gone,  # stopped while it was FATAL for them
        ev.Overslept: overslept,
        ev.DeadlinePassed: ignore,
    },
    Phase.STARTING: {
        ev.StartRequested: ignore,
        ev.StopRequested: leave_for_good,
        ev.RestartRequested: leave_and_return,
        ev.Spawned: note_pid,
        ev.SpawnFailed: spawn_refused,
        ev.Exited: leader_died,
        ev.MemberLost: ignore,  # the baseline is taken at ready
        ev.Observed: judge_start,
        ev.Advanced: note_advance,
        ev.SweepFinished: ignore,
        ev.SweepStuck: ignore,
        ev.OrphansGone: ignore,
        ev.Hindered: start_hindered,
        ev.Overslept: overslept,
        ev.DeadlinePassed: start_overdue,
    },
    Phase.RUNNING: {
        ev.StartRequested: ignore,
        ev.StopRequested: leave_for_good,
        ev.RestartRequested: leave_and_return,
        ev.Spawned: ignore,
        ev.SpawnFailed: ignore,
        ev.Exited: leader_died,
        ev.MemberLost: member_lost,
        ev.Observed: judge,
        ev.Advanced: ignore,
        ev.SweepFinished: ignore,
        ev.SweepStuck: ignore,
        ev.OrphansGone: ignore,
        ev.Hindered: hindered,
        ev.Overslept: overslept,
        ev.DeadlinePassed: keep_running,
    },
    Phase.TERMINATING: {
        ev.StartRequested: want_up,
        ev.StopRequested: want_down,
        ev.RestartRequested: want_up_again,
        ev.Spawned: signal_late,
        ev.SpawnFailed: spawn_refused,
        ev.Exited: leader_died,
        ev.MemberLost: ignore,  # leaving already
        ev.Observed: ignore,
        ev.Advanced: ignore,
        ev.SweepFinished: ignore,
        ev.SweepStuck: ignore,
        ev.OrphansGone: ignore,
        ev.Hindered: hindered,
        ev.Overslept: overslept,
        ev.DeadlinePassed: grace_over,
    },
    Phase.KILLING: {
        ev.StartRequested: want_up,
        ev.StopRequested: want_down,
        ev.RestartRequested: want_up_again,
        ev.Spawned: signal_late,
        ev.SpawnFailed: spawn_refused,
        ev.Exited: leader_died,
        ev.MemberLost: ignore,
        ev.Observed: ignore,
        ev.Advanced: ignore,
        ev.SweepFinished: ignore,
        ev.SweepStuck: ignore,
        ev.OrphansGone: ignore,
        ev.Hindered: hindered,
        ev.Overslept: overslept,
        ev.DeadlinePassed: unkillable,
    },
    Phase.SWEEPING: {
        ev.StartRequested: want_up,
        ev.StopRequested: want_down,
        ev.RestartRequested: want_up_again,
        ev.Spawned: sweep_again,
        ev.SpawnFailed: sweep_again,
        ev.Exited: ignore,  # an unkillable leader after all
        ev.MemberLost: ignore,
        ev.Observed: ignore,
        ev.Advanced: ignore,
        ev.SweepFinished: aftermath.swept,
        ev.SweepStuck: aftermath.stuck,
        ev.OrphansGone: ignore,
        ev.Hindered: hindered,
        ev.Overslept: overslept,
        ev.DeadlinePassed: aftermath.sweep_overdue,
    },
    Phase.BACKOFF: {
        ev.StartRequested: hurry,
        ev.StopRequested: give_up,
        ev.RestartRequested: hurry,
        **_IGNORED_WHEN_DOWN,
        ev.Overslept: overslept,
        ev.DeadlinePassed: backoff_over,
    },
    Phase.FATAL: {
        ev.StartRequested: start,
        ev.StopRequested: give_up,
        ev.RestartRequested: start,
        **_IGNORED_WHEN_DOWN,
        ev.OrphansGone: aftermath.orphans_gone,
        ev.Overslept: overslept,
        ev.DeadlinePassed: ignore,
    },
}
