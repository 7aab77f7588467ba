"""The moves: the only functions that change a program's phase. Pure.

Each returns the new state and what the world is to do. ``program`` decides which of them an event means, ``recovery``
which of them a new daemon begins with.
"""

from __future__ import annotations

from dataclasses import replace

from llm_supervisor.core import effect as do
from llm_supervisor.core import health as hl
from llm_supervisor.core import restart, verdict
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, Departure, Phase, Startup, State, Wanted

SIGKILL = 9
WARM_LEAST = 10.0  # seconds that any warm start may take
WARM_SHARE = 1.5  # of a cold start
ALIVE = hl.Verdict("alive", hl.Word.READY, hl.Reaction.KEEP, "is alive")  # all that is known of who is never asked
UNASKED = hl.Verdict("not asked", hl.Word.UNKNOWN, hl.Reaction.KEEP, "not asked yet")
Outcome = tuple[State, tuple[Effect, ...]]


def note_down_since(before: State, after: State, now: float) -> State:
    """After a move, the state with ``down_since`` as it is now: requests wait for a program that is under way only so
    long after it ran, or was asked for."""
    if after.phase is Phase.RUNNING:
        return replace(after, down_since=None)
    settled = before.phase in (Phase.RUNNING, Phase.STOPPED, Phase.FATAL)
    if settled or _has_drained(before) or after.down_since is None:
        return replace(after, down_since=now)
    return after


def _has_drained(state: State) -> bool:
    """Whether it was told to leave, and has answered until now what it had in hand."""
    return state.phase is Phase.TERMINATING and state.leaving is not None and state.leaving.cause is Cause.ASKED


def start(spec: ProgramSpec, state: State, now: float, why: str) -> Outcome:
    """A new incarnation, warm unless the last warm start failed."""
    number = state.incarnation + 1
    new = replace(
        state,
        phase=Phase.STARTING,
        wanted=Wanted.UP,
        incarnation=number,
        pid=None,
        began=now,
        startup=Startup(spawned=now, spawning=True, stirred_at=now),
        ready_since=None,
        health=hl.Health(),
        leaving=None,
        starts=state.starts + 1,
        restarts=state.restarts + (1 if state.starts else 0),
        reason=why,
    )
    return replace(new, deadline=start_deadline(spec, new)), (do.Spawn(number, warm=not state.cold_next),)


def start_deadline(spec: ProgramSpec, state: State) -> float:
    """When a start has failed unless something happens: the budget, extended by loading, or the stall."""
    startup = state.startup
    assert startup.spawned is not None
    assert startup.stirred_at is not None
    if spec.ready_after is not None and startup.alive_since is not None:
        return startup.alive_since + spec.ready_after
    budget = startup.spawned + spec.health.startup_budget
    if startup.loaded_at is not None:
        budget = max(budget, startup.loaded_at + spec.health.startup_stall)
    if startup.warm:
        budget = min(budget, startup.spawned + warm_budget(spec, state))
    return min(budget, startup.stirred_at + spec.health.startup_stall)


def warm_budget(spec: ProgramSpec, state: State) -> float:
    """Seconds that a warm start may take before a cold one is tried: half as much again as a cold one took, as it only
    leaves out some of its work (of a large model, little: weights are loaded by both); and never more than half of the
    budget. ``core.hold`` counts on it."""
    half = spec.health.startup_budget / 2
    return half if state.cold_took is None else min(half, max(WARM_SHARE * state.cold_took, WARM_LEAST))


def run(spec: ProgramSpec, state: State, now: float, judgement: hl.Verdict) -> Outcome:
    """Ready. The past failures are forgiven when that has lasted. One that answers has no failure to show any more;
    being alive is no proof yet."""
    unproven, startup = spec.ready_after is not None, state.startup
    cold_took = state.cold_took
    if not startup.warm and startup.spawned is not None:
        cold_took = now - startup.spawned
    new = replace(
        state,
        phase=Phase.RUNNING,
        began=now,
        ready_since=now,
        cold_next=False,
        cold_took=cold_took,
        startup=replace(startup, loading=None),
        health=replace(state.health, verdict=judgement),
        failure=state.failure if unproven else None,
        reason=judgement.reason,
    )
    return replace(new, deadline=running_deadline(spec, new)), (do.TakeBaseline(state.incarnation),)


def forgiven_at(spec: ProgramSpec, state: State) -> float | None:
    """When a program that runs will have been ready for long enough; None where there is nothing to forgive."""
    if state.ready_since is None or not (state.history.failures or state.failure):
        return None
    since, startup = state.ready_since, state.startup
    if spec.ready_after is not None and startup.alive_since is not None:
        since = startup.alive_since
    return since + restart.probation(spec.restart, state.history, spec.ready_after)


def running_deadline(spec: ProgramSpec, state: State) -> float | None:
    """When a program that runs is to be looked at though nothing happens: the end of its probation, or of a stall's
    grace."""
    due = (forgiven_at(spec, state), verdict.next_judgement(spec.health, state.health))
    return min((at for at in due if at is not None), default=None)


def terminate(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
    """Ask the leader to leave; before the first readiness with the shorter grace."""
    grace = spec.stop.grace if state.ready_since is not None else min(spec.stop.start_grace, spec.stop.grace)
    new = replace(
        state,
        phase=Phase.TERMINATING,
        began=now,
        deadline=now + grace,
        leaving=leaving,
        reason=leaving.summary,
    )
    effects: tuple[Effect, ...] = (do.EndProbing(state.incarnation),)
    if state.pid is not None:  # else the signal follows once the leader is known
        effects += (do.SendSignal(state.incarnation, spec.stop.signal),)
    return new, effects


def kill(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
    """End the whole tree at once, without a grace."""
    new = replace(
        state,
        phase=Phase.KILLING,
        began=now,
        deadline=now + spec.stop.kill_grace,
        leaving=leaving,
        reason=leaving.summary,
    )
    return new, (do.EndProbing(state.incarnation), do.SendSignal(state.incarnation, SIGKILL, tree=True))


def sweep(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
    """The leader is gone, or is believed to be: end what is left of its tree before anything else."""
    # the sweep answers by itself after its two graces and the wait for what the tree held (at most a minute); the
    # deadline is for a sweeper that does not
    patience = spec.stop.sweep_grace + spec.stop.kill_grace + 120.0
    new = replace(
        state,
        phase=Phase.SWEEPING,
        began=now,
        pid=None,
        deadline=now + patience,
        sweeps=1,
        leaving=leaving,
        reason=leaving.summary,
    )
    sweep = do.Sweep(state.incarnation, spec.stop.sweep_grace, spec.stop.kill_grace)
    return new, (do.EndProbing(state.incarnation), sweep)


def stop(state: State, now: float, why: str) -> Outcome:
    """Down, and nothing is under way."""
    new = replace(state, phase=Phase.STOPPED, began=now, pid=None, deadline=None, leaving=None, reason=why)
    return new, (do.CloseListener(),)


def give_up(state: State, now: float, failure: Failure) -> Outcome:
    """FATAL: it does not come back by itself."""
    new = replace(
        state,
        phase=Phase.FATAL,
        began=now,
        pid=None,
        deadline=None,
        leaving=None,
        failure=failure,
        reason=failure.summary,
    )
    return new, (do.CloseListener(),)


def hinder(state: State, failure: Failure) -> State:
    """What had to be done for the program could not be done, and is tried again: that is the reason that people see.

    A program that runs is not ended for it: nothing is known against it. The next answer to a probe says how it is."""
    if state.phase is Phase.RUNNING:
        verdict = hl.Verdict("hindered", hl.Word.DEGRADED, hl.Reaction.KEEP, failure.summary)
        return replace(state, health=replace(state.health, verdict=verdict), reason=failure.summary)
    return replace(state, reason=failure.summary)


def unhinder(spec: ProgramSpec, state: State) -> State:
    """What could not be done for a program that runs has been done at last."""
    if state.phase is not Phase.RUNNING or state.health.verdict.rule != "hindered":
        return state
    verdict = ALIVE if spec.ready_after is not None else UNASKED
    return replace(state, health=replace(state.health, verdict=verdict), reason=verdict.reason)


def put_off(state: State, failure: Failure, now: float, seconds: float) -> State:
    """An event could not be handled because of a defect: its state stays, its deadline is ``seconds`` away at least,
    and the reason says so."""
    deadline = None if state.deadline is None else max(state.deadline, now + seconds)
    return replace(hinder(state, failure), deadline=deadline)


def back_off(state: State, now: float, seconds: float, why: str) -> Outcome:
    """Wait so many seconds before the next start."""
    new = replace(state, phase=Phase.BACKOFF, began=now, deadline=now + seconds, leaving=None, reason=why)
    return new, ()
