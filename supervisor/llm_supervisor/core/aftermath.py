"""What follows when an incarnation has left: these entries of the table of ``program`` decide whether a program stays
down, starts at once, starts later, or is given up. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import moves, restart
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.moves import Outcome
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, State, Wanted
from llm_supervisor.units import duration_text


def swept(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The tree is gone. Decide whether the program stays down, starts at once, starts later, or is given up."""
    assert isinstance(event, ev.SweepFinished)
    leaving = state.leaving
    assert leaving is not None
    state = replace(state, orphaned=False, sweeps=state.sweeps - 1)
    if state.startup.spawning or state.sweeps > 0:
        return state, ()  # it is not known yet whether the start that was asked for has made a process
    failure = None
    if not leaving.failed:
        state = replace(state, failure=None)
    else:
        failure = event.failure or leaving.failure or Failure(leaving.cause.value, leaving.summary)
        state = replace(state, failure=failure)
    if state.wanted is Wanted.DOWN:
        return moves.stop(state, now, "asked to stop" if leaving.cause is Cause.ASKED else leaving.summary)
    if leaving.cause in (Cause.ASKED, Cause.LEFTOVER):
        return moves.start(spec, state, now, leaving.summary)
    if failure is not None and failure.busy:  # what it needs is taken: wait, without a strike
        return moves.back_off(state, now, max(spec.restart.backoff, 1.0), failure.summary)
    if state.startup.warm and leaving.failed and not leaving.was_ready:
        # whatever it was, a cold start would tell: it costs the program no strike that we tried to be quick
        why = failure.summary if failure is not None else leaving.summary
        return moves.start(spec, replace(state, cold_next=True), now, f"once more, cold: {why}")
    if not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        return moves.stop(state, now, leaving.summary)
    permanent = failure is not None and failure.permanent is True
    unexplained = failure.summary if failure is not None and failure.kind == "unknown" and not leaving.was_ready else ""
    history = restart.record(
        spec.restart, state.history, now, was_ready=leaving.was_ready, permanent=permanent, unexplained=unexplained
    )
    # what was ready once was not wrong for good: if it is by now, the next start says so, or the next failure
    if failure is not None and permanent and (not leaving.was_ready or restart.is_permanent(history)):
        return moves.give_up(state, now, failure)
    state = replace(state, history=history)
    if failure is not None and restart.repeats(history):
        summary = f"{history.in_a_row} starts in a row died of the same exception: {failure.summary}"
        advice = (
            "No cause of it is known. Look for its words in the engine's issues; `explain` shows where it was raised."
        )
        return moves.give_up(state, now, replace(failure, summary=summary, advice=advice))
    if restart.exhausted(spec.restart, history):
        count = len(history.failures)
        last = failure or Failure(leaving.cause.value, leaving.summary)
        within = duration_text(spec.restart.window)
        summary = f"{count} failures within {within} without a lasting readiness; the last: {last.summary}"
        return moves.give_up(state, now, replace(last, summary=summary))
    seconds = restart.delay(spec.restart, history)
    why = failure.summary if failure is not None else leaving.summary
    if seconds <= 0:
        return moves.start(spec, state, now, why)
    return moves.back_off(state, now, seconds, why)


def stuck(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """Processes survive SIGKILL: FATAL, as nothing may start beside an orphan."""
    assert isinstance(event, ev.SweepStuck)
    names = ", ".join(event.left)
    waits = "It is watched: the program starts again by itself when the last of these processes is gone."
    if event.denied:
        summary = f"may not be ended, as it runs as another user by now: {names}"
        advice = f"End it as that user or as root, or let the daemon do so (CAP_KILL). {waits}"
        failure = Failure("not_permitted", summary, advice, permanent=False)
    else:
        summary = f"survives SIGKILL for {duration_text(spec.stop.kill_grace)}: {names}"
        advice = f"It hangs in the kernel (a GPU driver, a dead network file system). {waits} "
        advice += "If that does not happen, reset the GPU or reboot."
        failure = Failure("unkillable", summary, advice, permanent=False)
    departure = state.leaving
    state, effects = moves.give_up(replace(state, orphaned=True), now, failure)
    # how it left decides what follows when the orphans are gone
    return replace(state, leaving=departure), (*effects, do.AwaitOrphans(state.incarnation))


def sweep_overdue(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The sweep itself has not answered: FATAL, as something may still live."""
    failure = Failure("sweep_overdue", "the sweep of its processes did not end", "See the daemon's log.")
    departure = state.leaving
    state, effects = moves.give_up(replace(state, orphaned=True), now, failure)
    return replace(state, leaving=departure), (*effects, do.AwaitOrphans(state.incarnation))


def orphans_gone(spec: ProgramSpec, state: State, event: Event, now: float) -> Outcome:
    """The last unkillable process is gone, and with it the reason for FATAL."""
    if state.startup.spawning:
        return state, ()  # a start that has not answered yet may be one more
    state, leaving = replace(state, orphaned=False), state.leaving
    if state.wanted is Wanted.DOWN:
        return moves.stop(state, now, "its last process is gone")
    by_itself = leaving is not None and leaving.cause not in (Cause.ASKED, Cause.LEFTOVER)
    if leaving is not None and by_itself and not restart.wanted_back(spec.restart.policy, failed=leaving.failed):
        return moves.stop(state, now, leaving.summary)
    return moves.start(spec, replace(state, history=restart.FRESH), now, "its last unkillable process is gone")
