"""One program's reducer: ``step(spec, state, event, now) -> (state, effects)``.

The table at the end is total (every phase × every event); what does nothing says so. Nobody else writes a state.
Pure: no clock, no input or output, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core import restart
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, Departure, Loading, Phase, State, Wanted

SIGKILL = 9
WARM_LEAST = 10.0  # seconds that any warm start may take
WARM_SHARE = 1.5  # of a cold start

Outcome = tuple[State, tuple[Effect, ...]]
Handler = Callable[[ProgramSpec, State, "ev.Event", float], Outcome]


def step(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Decide what ``event`` means for a program in ``state``.

    Returns the new state and what the world is to do, in that order. Events of another incarnation change nothing.
    A deadline that is not reached changes nothing either, so a spurious wake-up is harmless.
    """
    incarnation = getattr(event, "incarnation", None)
    if incarnation is not None and incarnation != state.incarnation:
        return state, ()
    if isinstance(event, ev.DeadlinePassed) and (state.deadline is None or now < state.deadline):
        return state, ()
    new, effects = TABLE[state.phase][type(event)](spec, state, event, now)
    return (new if new.phase is state.phase else _down_since(state, new, now)), effects


def _down_since(before: State, after: State, now: float) -> State:
    """After a move: requests wait for what is under way only so long after it ran, or was asked for."""
    if after.phase is Phase.RUNNING:
        return replace(after, down_since=None)
    settled = before.phase in (Phase.RUNNING, Phase.STOPPED, Phase.FATAL)
    if settled or _has_drained(before) or after.down_since is None:
        return replace(after, down_since=now)
    return after


def _has_drained(state: State) -> bool:
    """Told to leave, it has answered until now what it had in hand."""
    return state.phase is Phase.TERMINATING and state.leaving is not None and state.leaving.cause is Cause.ASKED


# Moves: the only functions that change the phase ------------------------------------------------------------


def _start(spec: ProgramSpec, state: State, now: float, why: str) -> Outcome:
    number = state.incarnation + 1
    new = replace(
        state,
        phase=Phase.STARTING,
        wanted=Wanted.UP,
        incarnation=number,
        pid=None,
        began=now,
        spawned=now,
        alive_since=None,
        spawning=True,
        warm=False,
        ready_since=None,
        loaded_at=None,
        stirred_at=now,
        loading=None,
        health=hl.Health(),
        leaving=None,
        starts=state.starts + 1,
        restarts=state.restarts + (1 if state.starts else 0),
        reason=why,
    )
    return replace(new, deadline=_start_deadline(spec, new)), (do.Spawn(number, warm=not state.cold_next),)


def _start_deadline(spec: ProgramSpec, state: State) -> float:
    """When a start has failed unless something happens: the budget, extended by loading, or the stall."""
    assert state.spawned is not None
    assert state.stirred_at is not None
    if spec.ready_after is not None and state.alive_since is not None:
        return state.alive_since + spec.ready_after
    budget = state.spawned + spec.health.startup_budget
    if state.loaded_at is not None:
        budget = max(budget, state.loaded_at + spec.health.startup_stall)
    if state.warm:
        budget = min(budget, state.spawned + _warm_budget(spec, state))
    return min(budget, state.stirred_at + spec.health.startup_stall)


def _warm_budget(spec: ProgramSpec, state: State) -> float:
    """Seconds that a warm start may take before a cold one is tried: half as much again as a cold one took, as it only
    leaves out some of its work (of a large model, little: weights are loaded by both); and never more than half of the
    budget. ``core.hold`` counts on it."""
    half = spec.health.startup_budget / 2
    return half if state.cold_took is None else min(half, max(WARM_SHARE * state.cold_took, WARM_LEAST))


def _run(spec: ProgramSpec, state: State, now: float, verdict: hl.Verdict) -> Outcome:
    """Ready. With a proof (it answered) the past failures are forgiven; being alive is none yet."""
    unproven = spec.ready_after is not None
    deadline = hl.next_judgement(spec.health, state.health)
    if spec.ready_after is not None and state.alive_since is not None:
        deadline = state.alive_since + restart.probation(spec.restart, spec.ready_after)
    cold_took = state.cold_took
    if not state.warm and state.spawned is not None:
        cold_took = now - state.spawned
    new = replace(
        state,
        phase=Phase.RUNNING,
        began=now,
        ready_since=now,
        cold_next=False,
        cold_took=cold_took,
        loading=None,
        deadline=deadline,
        health=replace(state.health, verdict=verdict),
        history=state.history if unproven else restart.FRESH,
        failure=state.failure if unproven else None,
        reason=verdict.reason,
    )
    return new, (do.TakeBaseline(state.incarnation),)


def _terminate(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
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


def _kill(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
    new = replace(
        state,
        phase=Phase.KILLING,
        began=now,
        deadline=now + spec.stop.kill_grace,
        leaving=leaving,
        reason=leaving.summary,
    )
    return new, (do.EndProbing(state.incarnation), do.SendSignal(state.incarnation, SIGKILL, tree=True))


def _sweep(spec: ProgramSpec, state: State, now: float, leaving: Departure) -> Outcome:
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


def _stop(state: State, now: float, why: str) -> Outcome:
    new = replace(state, phase=Phase.STOPPED, began=now, pid=None, deadline=None, leaving=None, reason=why)
    return new, (do.CloseListener(),)


def _fatal(state: State, now: float, failure: Failure) -> Outcome:
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


def _back_off(state: State, now: float, seconds: float, why: str) -> Outcome:
    new = replace(state, phase=Phase.BACKOFF, began=now, deadline=now + seconds, leaving=None, reason=why)
    return new, ()


# Handlers ---------------------------------------------------------------------------------------------------


def ignore(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Nothing happens."""
    return state, ()


def start(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A person's word: past failures are forgiven. But nothing starts beside an orphan, whoever asks."""
    state = replace(state, history=restart.FRESH, wanted=Wanted.UP)
    if state.orphaned:
        return _sweep(spec, state, now, Departure(Cause.ASKED, "asked to start", was_ready=False))
    return _start(spec, replace(state, failure=None), now, "asked to start")


def hurry(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """No more waiting, by a person's word."""
    return _start(spec, replace(state, history=restart.FRESH), now, "asked to start")


def stay_down(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It is down already, and is to stay so."""
    return replace(state, wanted=Wanted.DOWN), ()


def give_up(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Down from a waiting phase in which nothing lives."""
    return _stop(replace(state, wanted=Wanted.DOWN), now, "asked to stop")


def leave_for_good(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A living program is asked to stop."""
    asked = Departure(Cause.ASKED, "asked to stop", was_ready=state.ready_since is not None)
    state, effects = _terminate(spec, replace(state, wanted=Wanted.DOWN), now, asked)
    # from its first moment on it accepts nobody: who comes now is refused, and does not wait until its drain is over
    return state, (*effects, do.CloseListener())


def leave_and_return(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A restart is leaving with wanted=up."""
    asked = Departure(Cause.ASKED, "asked to restart", was_ready=state.ready_since is not None)
    return _terminate(spec, replace(state, wanted=Wanted.UP, history=restart.FRESH), now, asked)


def want_up(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It is leaving: it will come back when it is gone, if need be because somebody said so."""
    leaving = state.leaving
    assert leaving is not None
    if not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        leaving = Departure(Cause.ASKED, "asked to start", leaving.was_ready)
    return replace(state, wanted=Wanted.UP, leaving=leaving), ()


def want_up_again(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It is leaving, and a person asks for a new one: no backoff afterwards, whatever it left for."""
    leaving = state.leaving
    if leaving is not None:
        leaving = Departure(Cause.ASKED, "asked to restart", leaving.was_ready)
    return replace(state, wanted=Wanted.UP, history=restart.FRESH, leaving=leaving), ()


def want_down(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It is leaving, and is not to come back."""
    return replace(state, wanted=Wanted.DOWN), ()


def note_pid(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader exists: ask it how it is."""
    assert isinstance(event, ev.Spawned)
    # what came before was our own: a turn on the GPU, or a fork server that did not answer
    state = replace(state, pid=event.pid, spawning=False, alive_since=now, spawned=now, stirred_at=now, warm=event.warm)
    return replace(state, deadline=_start_deadline(spec, state)), (do.BeginProbing(state.incarnation),)


def signal_late(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader appears only now that it is to leave."""
    assert isinstance(event, ev.Spawned)
    signal = spec.stop.signal if state.phase is Phase.TERMINATING else SIGKILL
    return replace(state, pid=event.pid, spawning=False), (do.SendSignal(state.incarnation, signal),)


def sweep_again(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start that answers only now that its tree is swept: what it may have made is swept as well."""
    sweep = do.Sweep(state.incarnation, spec.stop.sweep_grace, spec.stop.kill_grace)
    return replace(state, spawning=False, sweeps=state.sweeps + 1), (sweep,)


def too_late(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start that answers only now that it was given up: what it made is an orphan."""
    if not state.spawning:
        return state, ()
    if isinstance(event, ev.SpawnFailed):
        # that the orphans went may have been said while this was open
        await_orphans = (do.AwaitOrphans(state.incarnation),) if state.orphaned else ()
        return replace(state, spawning=False), await_orphans
    end = do.SendSignal(state.incarnation, SIGKILL, tree=True)
    return replace(state, spawning=False, orphaned=True), (end, do.AwaitOrphans(state.incarnation))


def spawn_refused(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The start did not happen. A start can fail half-way, so what it may have left is swept all the same."""
    assert isinstance(event, ev.SpawnFailed)
    failure = event.failure
    state = replace(state, spawning=False, exited=None)  # nothing has lived that could have ended
    leaving = state.leaving or Departure(Cause.SPAWN, failure.summary, was_ready=False, failure=failure)
    return _sweep(spec, state, now, leaving)


def leader_died(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The leader's death is not the end: the tree is swept first."""
    assert isinstance(event, ev.Exited)
    state = replace(state, exited=event.status)
    was_ready = state.ready_since is not None
    when = "" if was_ready else " before it was ready"
    leaving = state.leaving or Departure(Cause.EXITED, f"{event.status}{when}", was_ready, event.status)
    return _sweep(spec, state, now, leaving)


def member_lost(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A tree without one of its vital members cannot answer: no grace, its requests are lost already."""
    assert isinstance(event, ev.MemberLost)
    why = f"its process {event.name} (pid {event.pid}) died"
    return _kill(spec, state, now, Departure(Cause.TREE, why, was_ready=True))


def judge_start(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Not ready before every needed question had its right answer."""
    assert isinstance(event, ev.Observed)
    health = hl.observe(state.health, event.observation, now)
    verdict = hl.readiness(spec.health, health)
    state = replace(state, health=replace(health, verdict=verdict))
    if verdict.word is hl.Word.STARTING:
        return replace(state, reason=verdict.reason), ()
    return _run(spec, state, now, verdict)


def judge(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Fold what was seen, fuse it, and act on the verdict."""
    if isinstance(event, ev.Observed):
        state = replace(state, health=hl.observe(state.health, event.observation, now))
    verdict = hl.fuse(spec.health, state.health, now)
    state = replace(state, health=replace(state.health, verdict=verdict), reason=verdict.reason)
    match verdict.action:
        case hl.Action.LEAVE:
            return _terminate(spec, state, now, Departure(Cause.UNRESPONSIVE, verdict.reason, was_ready=True))
        case hl.Action.KILL:
            cause = Cause.STALLED if verdict.rule == "stalled" else Cause.UNRESPONSIVE
            return _kill(spec, state, now, Departure(cause, verdict.reason, was_ready=True))
    return replace(state, deadline=hl.next_judgement(spec.health, state.health)), ()


def keep_running(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The deadline of a running program: the end of its probation, or of a stall's grace."""
    if spec.ready_after is not None:
        return replace(state, history=restart.FRESH, failure=None, deadline=None), ()
    return judge(spec, state, event, now)


def note_advance(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """A start that moves gets more time."""
    assert isinstance(event, ev.Advanced)
    loading = state.loading
    if event.doing is not None:
        loading = Loading(event.doing, event.done, event.total)
    new = replace(state, stirred_at=now, loaded_at=now if event.loading else state.loaded_at, loading=loading)
    return replace(new, deadline=_start_deadline(spec, new)), ()


def start_overdue(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The deadline of a start: readiness by age, or a start that takes too long."""
    assert state.spawned is not None
    assert state.stirred_at is not None
    if now < (due := _start_deadline(spec, state)):
        return replace(state, deadline=due), ()  # it was told to be more patient since
    if spec.ready_after is not None and state.alive_since is not None:
        return _run(spec, state, now, hl.Verdict("alive", hl.Word.READY, hl.Action.KEEP, "is alive"))
    doing = f" (last: {state.loading})" if state.loading else ""
    if now >= state.stirred_at + spec.health.startup_stall:
        why = f"start without any progress for {spec.health.startup_stall:.0f} s{doing}"
        return _terminate(spec, state, now, Departure(Cause.STARTUP_STALL, why, was_ready=False))
    if state.warm and now >= state.spawned + _warm_budget(spec, state):
        why = f"a warm start not ready within {_warm_budget(spec, state):.0f} s{doing}: {state.health.verdict.reason}"
        return _terminate(spec, state, now, Departure(Cause.BUDGET, why, was_ready=False))
    why = f"not ready within {spec.health.startup_budget:.0f} s{doing}: {state.health.verdict.reason}"
    return _terminate(spec, state, now, Departure(Cause.BUDGET, why, was_ready=False))


def grace_over(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It did not leave by itself."""
    assert state.leaving is not None
    return _kill(spec, state, now, state.leaving)


def unkillable(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """SIGKILL did not end the leader: the sweep says what is left."""
    assert state.leaving is not None
    return _sweep(spec, state, now, state.leaving)


def swept(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The tree is gone: down, back at once, back later, or never."""
    assert isinstance(event, ev.SweepFinished)
    leaving = state.leaving
    assert leaving is not None
    state = replace(state, orphaned=False, sweeps=state.sweeps - 1)
    if state.spawning or state.sweeps > 0:
        return state, ()  # nobody knows yet whether the start that was asked for has made something
    failure = None
    if not leaving.failed:
        state = replace(state, failure=None)
    else:
        failure = event.failure or leaving.failure or Failure(leaving.cause.value, leaving.summary)
        state = replace(state, failure=failure)
    if state.wanted is Wanted.DOWN:
        return _stop(state, now, "asked to stop" if leaving.cause is Cause.ASKED else leaving.summary)
    if leaving.cause in (Cause.ASKED, Cause.LEFTOVER):
        return _start(spec, state, now, leaving.summary)
    if failure is not None and failure.busy:  # what it needs is taken: wait, without a strike
        return _back_off(state, now, max(spec.restart.backoff, 1.0), failure.summary)
    if state.warm and leaving.failed and not leaving.was_ready:
        # whatever it was, a cold start would tell: it costs the program no strike that we tried to be quick
        why = failure.summary if failure is not None else leaving.summary
        return _start(spec, replace(state, cold_next=True), now, f"once more, cold: {why}")
    if not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        return _stop(state, now, leaving.summary)
    # what was ready once was not wrong for good: if it is by now, the next start says so
    if failure is not None and failure.permanent and not leaving.was_ready:
        return _fatal(state, now, failure)
    history = restart.record(spec.restart, state.history, now, was_ready=leaving.was_ready)
    state = replace(state, history=history)
    if restart.exhausted(spec.restart, history):
        count = len(history.failures)
        last = failure or Failure(leaving.cause.value, leaving.summary)
        summary = (
            f"{count} failures within {spec.restart.window:.0f} s since it was last ready; the last: {last.summary}"
        )
        return _fatal(state, now, replace(last, summary=summary))
    seconds = restart.delay(spec.restart, history)
    why = failure.summary if failure is not None else leaving.summary
    if seconds <= 0:
        return _start(spec, state, now, why)
    return _back_off(state, now, seconds, why)


def stuck(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Never start beside an orphan."""
    assert isinstance(event, ev.SweepStuck)
    names = ", ".join(event.left)
    failure = Failure(
        "unkillable",
        f"survives SIGKILL for {spec.stop.kill_grace:.0f} s: {names}",
        "It hangs in the kernel (a GPU driver, a dead network file system). It is watched: the program starts again "
        "by itself when the last of these processes is gone. If that does not happen, reset the GPU or reboot.",
        permanent=False,
    )
    departure = state.leaving
    state, effects = _fatal(replace(state, orphaned=True), now, failure)
    # how it left decides what follows when the orphans are gone
    return replace(state, leaving=departure), (*effects, do.AwaitOrphans(state.incarnation))


def sweep_overdue(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The sweeper itself did not answer."""
    failure = Failure("sweep_overdue", "the sweep of its processes did not end", "See the daemon's log.")
    departure = state.leaving
    state, effects = _fatal(replace(state, orphaned=True), now, failure)
    return replace(state, leaving=departure), (*effects, do.AwaitOrphans(state.incarnation))


def orphans_gone(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The very condition that FATAL named has ended."""
    if state.spawning:
        return state, ()  # a start that has not answered yet may be one more
    state, leaving = replace(state, orphaned=False), state.leaving
    if state.wanted is Wanted.DOWN:
        return _stop(state, now, "its last process is gone")
    by_itself = leaving is not None and leaving.cause not in (Cause.ASKED, Cause.LEFTOVER)
    if leaving is not None and by_itself and not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        return _stop(state, now, leaving.summary)
    return _start(spec, replace(state, history=restart.FRESH), now, "its last unkillable process is gone")


def backoff_over(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """It has waited long enough."""
    return _start(spec, state, now, state.reason)


def overslept(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """What is waited for, from when on it is waited for, and since when something is suspected: all of it later."""
    assert isinstance(event, ev.Overslept)

    def later(at: float | None) -> float | None:
        return None if at is None else at + event.seconds

    new = replace(
        state,
        deadline=later(state.deadline),
        spawned=later(state.spawned),
        alive_since=later(state.alive_since),
        stirred_at=later(state.stirred_at),
        loaded_at=later(state.loaded_at),
        health=replace(state.health, suspect_since=later(state.health.suspect_since)),
    )
    return new, ()


def leftover(spec: ProgramSpec, state: State, now: float) -> Outcome:
    """The first state of a program whose processes a former daemon may have left, when nothing more is known of it:
    sweep before anything else."""
    wanted = Wanted.UP if spec.autostart else Wanted.DOWN
    departure = Departure(Cause.LEFTOVER, "left by a former daemon", was_ready=False)
    new, effects = _sweep(spec, replace(state, wanted=wanted), now, departure)
    return _down_since(state, new, now), effects


@dataclass(frozen=True, slots=True)
class Found:
    """What a new daemon found of an incarnation. ``pid``: its leader, alive; ``remains``: something of it lives,
    whether its leader does or not; ``began``: it is known to have had a leader."""

    pid: int | None
    remains: bool
    began: bool


def recovered(spec: ProgramSpec, state: State, found: Found, now: float) -> Outcome:
    """The first state of a program that a former daemon has recorded as ``state``: it goes on from there.

    What ran is not restarted for it, what was stopped or given up stays so, what was on its way out goes on, and what
    has died meanwhile has died, and comes back as if somebody had seen it.
    """
    new, effects = _recovered(spec, state, found, now)
    under_way = new.phase not in (Phase.STOPPED, Phase.FATAL)
    return (_down_since(state, new, now) if under_way else new), effects


def _recovered(spec: ProgramSpec, state: State, found: Found, now: float) -> Outcome:
    began = found.began
    state = replace(state, health=hl.NEW, pid=found.pid, spawning=False, sweeps=0)
    match state.phase:
        case Phase.FATAL if state.orphaned:
            return state, (do.CloseListener(), do.AwaitOrphans(state.incarnation))
        case Phase.STOPPED | Phase.BACKOFF | Phase.FATAL:
            if found.remains:  # it should not: a start that nobody could record any more
                return _sweep(spec, state, now, Departure(Cause.LEFTOVER, "left by a former daemon", was_ready=False))
            return state, (do.CloseListener(),) if state.phase is not Phase.BACKOFF else ()
        case Phase.RUNNING if found.pid is not None:
            return _go_on(spec, state, now)
        case Phase.STARTING if found.pid is not None:
            # nobody knows what it did meanwhile, and perhaps it was held up by its own output: its patience begins anew
            spawned = now if state.warm else state.spawned  # the budget of a warm start is short
            state = replace(state, alive_since=state.alive_since or now, spawned=spawned, stirred_at=now, loaded_at=now)
            return replace(state, deadline=_start_deadline(spec, state)), (do.BeginProbing(state.incarnation),)
        case Phase.RUNNING | Phase.STARTING if began:
            was_ready = state.phase is Phase.RUNNING
            when = "" if was_ready else " before it was ready,"
            why = f"ended{when} while no daemon lived (status unknown)"
            state = replace(state, exited=ExitStatus())
            return _sweep(spec, state, now, Departure(Cause.EXITED, why, was_ready, ExitStatus()))
        case Phase.STARTING | Phase.RUNNING:  # nobody knows whether it had begun
            return _sweep(spec, state, now, Departure(Cause.LEFTOVER, state.reason, was_ready=False))
    leaving = state.leaving or Departure(Cause.ASKED, state.reason, was_ready=state.ready_since is not None)
    if found.pid is not None and state.phase is Phase.TERMINATING:
        return _terminate(spec, state, now, leaving)
    return _sweep(spec, state, now, leaving)


def _go_on(spec: ProgramSpec, state: State, now: float) -> Outcome:
    """It runs: the next answers say how it is."""
    unasked = spec.ready_after is not None
    verdict = (
        hl.Verdict("alive", hl.Word.READY, hl.Action.KEEP, "is alive")
        if unasked
        else hl.Verdict("adopted", hl.Word.UNKNOWN, hl.Action.KEEP, "found running; not asked yet")
    )
    new = replace(
        state,
        deadline=state.deadline if unasked else None,
        health=replace(hl.NEW, verdict=verdict),
        reason=verdict.reason,
    )
    return new, (do.BeginProbing(state.incarnation), do.TakeBaseline(state.incarnation))


_DEAD_MATTERS_NOT: dict[type, Handler] = {
    ev.Spawned: too_late,
    ev.SpawnFailed: too_late,
    ev.Exited: ignore,
    ev.MemberLost: ignore,
    ev.Observed: ignore,
    ev.Advanced: ignore,
    ev.SweepFinished: ignore,
    ev.SweepStuck: ignore,
    ev.OrphansGone: ignore,
}

TABLE: dict[Phase, dict[type, Handler]] = {
    Phase.STOPPED: {
        ev.StartRequested: start,
        ev.StopRequested: stay_down,
        ev.RestartRequested: start,
        **_DEAD_MATTERS_NOT,
        ev.OrphansGone: orphans_gone,  # stopped while it was FATAL for them
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
        ev.SweepFinished: swept,
        ev.SweepStuck: stuck,
        ev.OrphansGone: ignore,
        ev.Overslept: overslept,
        ev.DeadlinePassed: sweep_overdue,
    },
    Phase.BACKOFF: {
        ev.StartRequested: hurry,
        ev.StopRequested: give_up,
        ev.RestartRequested: hurry,
        **_DEAD_MATTERS_NOT,
        ev.Overslept: overslept,
        ev.DeadlinePassed: backoff_over,
    },
    Phase.FATAL: {
        ev.StartRequested: start,
        ev.StopRequested: give_up,
        ev.RestartRequested: start,
        **_DEAD_MATTERS_NOT,
        ev.OrphansGone: orphans_gone,
        ev.Overslept: overslept,
        ev.DeadlinePassed: ignore,
    },
}
