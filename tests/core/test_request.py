"""What is told to who asked for a stop, by the state that it ended in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core import event as ev
from llm_supervisor.core.request import outcome, settled, still_alive
from llm_supervisor.core.state import Phase, State, Wanted
from tests.core.makers import CHECKED, at, walk

NOW = 1000.0

STUCK = ev.SweepStuck(1, ("VLLM::Worker (pid 101, state D)",))


def swept(*events: ev.Event) -> State:
    """A program that was asked to stop, and whose tree is being swept; then these events."""
    return walk(CHECKED, replace(at(Phase.SWEEPING, CHECKED), wanted=Wanted.DOWN, incarnation=1), *events, now=NOW)


@pytest.mark.parametrize(
    "events",
    [(STUCK,), (STUCK, ev.StopRequested()), (STUCK, ev.StopRequested(), ev.StopRequested())],
    ids=["asked once", "asked again", "and again"],
)
def test_a_stop_of_what_survives_says_what_is_alive_and_why(events: tuple[ev.Event, ...]) -> None:
    state = swept(*events)
    assert settled("stop", state, 1)
    done, words = outcome("stop", state)
    assert not done
    assert words.startswith("still alive: survives SIGKILL for 30 s: VLLM::Worker (pid 101, state D)")
    assert "reset the GPU or reboot" in words
    assert still_alive(state) == words


@pytest.mark.parametrize(
    "events",
    [(ev.SweepFinished(1),), (STUCK, ev.OrphansGone(1)), (STUCK, ev.StopRequested(), ev.OrphansGone(1))],
    ids=["all ended", "ended late", "ended after another stop"],
)
def test_a_stop_of_what_is_gone_has_come_about(events: tuple[ev.Event, ...]) -> None:
    state = swept(*events)
    assert outcome("stop", state) == (True, "stopped")
    assert still_alive(state) is None


def test_another_failure_is_not_why_something_is_alive() -> None:
    state = replace(swept(ev.SweepFinished(1)), orphaned=True)
    assert state.failure is not None
    assert outcome("stop", state).words.startswith("still alive: what a start has made that answered too late")


def test_a_sweep_that_does_not_end_is_no_stop() -> None:
    state = replace(swept(), deadline=NOW, incarnation=1)
    state = walk(CHECKED, state, ev.DeadlinePassed(), now=NOW)
    assert outcome("stop", state)[0] is False
