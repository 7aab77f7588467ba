"""How long requests may wait for an engine that is not there."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from llm_supervisor.core import event as ev
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.hold import LEAST, LONGEST, MENDING, Addresses, Why, addresses, hold, hold_elsewhere, holds
from llm_supervisor.core.program import step
from llm_supervisor.core.state import Phase, Startup, State, Wanted

from .makers import CHECKED

DOWN = State(phase=Phase.STARTING, wanted=Wanted.UP, down_since=100.0, reason="was killed by signal 9")


def test_one_that_runs_is_waited_for_by_nobody() -> None:
    seen = hold(State(phase=Phase.RUNNING), None, 5.0)
    assert (seen.up, seen.final, seen.why) == (True, False, Why.UP)


@pytest.mark.parametrize(
    ("cold_took", "limit", "until"),
    [
        (None, None, 100 + LONGEST),
        (40.0, None, 100 + 60.0),
        (1.0, None, 100 + LEAST),
        (4000.0, None, 100 + LONGEST),
        (40.0, 7.0, 107.0),
        (40.0, 0.0, 100.0),
    ],
)
def test_until_when(cold_took: float | None, limit: float | None, until: float) -> None:
    seen = hold(replace(DOWN, cold_took=cold_took), limit, 120.0)
    assert (seen.up, seen.final, seen.until) == (False, False, until)
    assert seen.why is Why.STARTING, "not the reason itself"


SECRET = "port 8000 is taken by `python serve.py --token abc` (pid 7), see /root/keys.env"


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("wanted", Wanted)
def test_clients_learn_nothing_of_the_reason(phase: Phase, wanted: Wanted) -> None:
    seen = hold(State(phase, wanted, reason=SECRET, down_since=1.0, failure=Failure("k", SECRET)), None, 2.0)
    assert seen.why in Why and seen.up is (seen.why is Why.UP) is (phase is Phase.RUNNING)
    assert SECRET not in str(asdict(seen))


@pytest.mark.parametrize(
    ("phase", "wanted", "why"),
    [
        (Phase.STARTING, Wanted.UP, Why.STARTING),
        (Phase.TERMINATING, Wanted.UP, Why.RESTARTING),
        (Phase.TERMINATING, Wanted.DOWN, Why.STOPPED),
        (Phase.SWEEPING, Wanted.UP, Why.RESTARTING),
        (Phase.BACKOFF, Wanted.UP, Why.WAITING),
        (Phase.STOPPED, Wanted.UP, Why.ENDED),
        (Phase.STOPPED, Wanted.DOWN, Why.STOPPED),
        (Phase.FATAL, Wanted.UP, Why.GIVEN_UP),
    ],
)
def test_what_clients_are_told(phase: Phase, wanted: Wanted, why: Why) -> None:
    assert hold(State(phase, wanted, reason=SECRET), None, 2.0).why is why


def test_a_warm_start_is_tried_first_at_nobodys_cost() -> None:
    """It may hang until it is given up, and a cold one must still be waited for."""
    cold = hold(replace(DOWN, cold_took=40.0), None, 120.0).until
    for tried in (replace(DOWN, startup=Startup(warm=True)), replace(DOWN, cold_next=True)):
        seen = hold(replace(tried, cold_took=40.0), None, 120.0)
        assert seen.until - 100 == 2 * (cold - 100)
        assert hold(replace(tried, cold_took=40.0), 7.0, 120.0).until == 107.0, "who says how long is heeded"


def test_a_restart_that_was_asked_for_is_waited_for_from_when_it_has_left() -> None:
    state = State(
        Phase.RUNNING, Wanted.UP, incarnation=1, pid=5, ready_since=1.0, startup=Startup(spawned=0.0), cold_took=20.0
    )
    state, _ = step(CHECKED, state, ev.RestartRequested(), 50.0)
    assert (state.phase, state.down_since) == (Phase.TERMINATING, 50.0)
    assert state.deadline is not None
    assert hold(state, None, 51.0).until == state.deadline + 30.0, "it answers what it has in hand until then"
    state, _ = step(CHECKED, state, ev.Exited(1, ExitStatus(0)), 55.0)
    assert state.down_since == 55.0
    state, _ = step(CHECKED, state, ev.SweepFinished(1), 56.0)
    assert hold(state, None, 56.0).until == 55.0 + 30.0


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_final(phase: Phase) -> None:
    seen = hold(replace(DOWN, phase=phase), None, 120.0)
    assert seen.final is (phase in (Phase.STOPPED, Phase.FATAL))
    assert seen.up is (phase is Phase.RUNNING)
    if seen.final:
        assert seen.retry_after == MENDING
    leaving = hold(replace(DOWN, phase=phase, wanted=Wanted.DOWN), None, 120.0)
    assert leaving.final is (phase is not Phase.RUNNING), "nobody waits for what is told to leave"


def test_an_outage_begins_when_it_stops_running_and_lasts_until_it_runs() -> None:
    """However often it is started meanwhile."""
    state = State(Phase.RUNNING, Wanted.UP, incarnation=1, pid=5, ready_since=1.0, startup=Startup(spawned=0.0))
    state, _ = step(CHECKED, state, ev.Exited(1, ExitStatus(1)), 50.0)
    assert state.down_since == 50.0
    state, _ = step(CHECKED, state, ev.SweepFinished(1), 51.0)
    assert (state.phase, state.down_since) == (Phase.STARTING, 50.0)
    state, _ = step(CHECKED, state, ev.Spawned(2, 6), 51.0)
    state, _ = step(CHECKED, state, ev.Exited(2, ExitStatus(1)), 60.0)
    state, _ = step(CHECKED, state, ev.SweepFinished(2), 61.0)
    assert state.down_since == 50.0


def test_a_start_by_hand_is_an_outage_of_its_own() -> None:
    state = State(phase=Phase.FATAL, down_since=50.0)
    state, _ = step(CHECKED, state, ev.StartRequested(), 500.0)
    assert state.down_since == 500.0


def test_where_it_is_not_requests_wait_as_if_it_were_down() -> None:
    up = State(Phase.RUNNING, Wanted.UP, cold_took=20.0)
    seen = hold_elsewhere(up, None, 100.0, 120.0)
    assert (seen.up, seen.final, seen.until, seen.retry_after) == (False, False, 130.0, 20)
    assert seen.why is Why.ELSEWHERE
    assert hold_elsewhere(DOWN, None, 110.0, 120.0) == hold(DOWN, None, 120.0), "down is down everywhere"
    stopped = State(Phase.STOPPED, Wanted.DOWN)
    assert hold_elsewhere(stopped, None, 110.0, 120.0).final


OLD, NEW = "http://old/v1", "http://new/v1"


@pytest.mark.parametrize(
    ("is_at", "configured", "before", "expected"),
    [
        (OLD, OLD, {}, {OLD: None}),
        (OLD, OLD, {OLD: None}, {OLD: None}),
        (OLD, NEW, {OLD: None}, {OLD: None, NEW: 50.0}),
        (OLD, NEW, {OLD: None, NEW: 40.0}, {OLD: None, NEW: 40.0}),
        (NEW, NEW, {OLD: None, NEW: 40.0}, {NEW: None, OLD: 50.0}),
        (NEW, NEW, {NEW: None, OLD: 45.0}, {NEW: None, OLD: 45.0}),
        (NEW, NEW, {}, {NEW: None}),
        (OLD, OLD, {NEW: None, OLD: 45.0}, {OLD: None, NEW: 50.0}),
    ],
)
def test_where_an_engine_is_looked_for(
    is_at: str, configured: str, before: dict[str, float | None], expected: dict[str, float | None]
) -> None:
    assert addresses(is_at, configured, before, 50.0) == expected


def test_what_each_address_is_told() -> None:
    up = State(Phase.RUNNING, Wanted.UP, cold_took=20.0)
    told = holds([(up, {NEW: None, OLD: 100.0}), (DOWN, {"http://two/v1": None})], None, 120.0)
    assert told == {
        NEW: hold(up, None, 120.0),
        OLD: hold_elsewhere(up, None, 100.0, 120.0),
        "http://two/v1": hold(DOWN, None, 120.0),
    }


@pytest.mark.parametrize("moved_first", [True, False])
def test_an_address_that_another_engine_has_by_now_is_that_ones(moved_first: bool) -> None:
    up = State(Phase.RUNNING, Wanted.UP)
    engines: list[tuple[State, Addresses]] = [(up, {NEW: None, OLD: 100.0}), (up, {OLD: None})]
    told = holds(engines if moved_first else engines[::-1], None, 120.0)
    assert told[OLD].up
    assert told[NEW].up
