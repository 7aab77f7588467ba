"""The table phase × event: total, and "nothing happens" means nothing."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace

import pytest

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.program import TABLE, ignore, step
from llm_supervisor.core.state import WORDS, Phase

from . import diagram
from .makers import CHECKED, CHILD_CLASSES, EVENT_CLASSES, at, events

CELLS = [(phase, kind) for phase in Phase for kind in EVENT_CLASSES]
SILENT_CELLS = [(phase, kind) for phase, kind in CELLS if TABLE[phase][kind] is ignore]
REQUESTS = (ev.StartRequested, ev.StopRequested, ev.RestartRequested)


def ids(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def test_the_union_names_every_event_class() -> None:
    defined = {kind for _, kind in inspect.getmembers(ev, dataclasses.is_dataclass) if kind.__module__ == ev.__name__}
    assert set(EVENT_CLASSES) == defined - {ev.ExitStatus}


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(Phase)
    for phase in Phase:
        assert set(TABLE[phase]) == set(EVENT_CLASSES), f"row {phase}"
        assert all(callable(handler) for handler in TABLE[phase].values())


def test_every_phase_has_its_word() -> None:
    assert set(WORDS) == set(Phase)


def test_events_of_a_child_carry_its_incarnation_and_others_carry_none() -> None:
    for kind in EVENT_CLASSES:
        carries = "incarnation" in {field.name for field in dataclasses.fields(kind)}
        assert carries == (kind not in (*REQUESTS, ev.DeadlinePassed, ev.Overslept)), kind


def test_the_samples_cover_every_event_class() -> None:
    assert {type(event) for event in events(1)} == set(EVENT_CLASSES)


@pytest.mark.parametrize(("phase", "kind"), SILENT_CELLS, ids=ids)
def test_ignore_leaves_the_very_same_state_and_asks_for_nothing(phase: Phase, kind: type) -> None:
    state = at(phase)
    now = 1e9  # past every deadline
    for event in events(state.incarnation):
        if type(event) is kind:
            after, effects = step(CHECKED, state, event, now)
            assert after is state
            assert effects == ()


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", CHILD_CLASSES, ids=ids)
@pytest.mark.parametrize("off", [-1, 1])
def test_another_incarnation_changes_nothing(phase: Phase, kind: type, off: int) -> None:
    state = at(phase)
    for event in events(state.incarnation + off):
        if type(event) is kind:
            after, effects = step(CHECKED, state, event, 1.0)
            assert after is state
            assert effects == ()


@pytest.mark.parametrize("phase", Phase)
def test_a_deadline_that_is_not_reached_changes_nothing(phase: Phase) -> None:
    state = at(phase, now=100.0)
    now = 1e9 if state.deadline is None else state.deadline - 0.001
    after, effects = step(CHECKED, state, ev.DeadlinePassed(), now)
    assert after is state
    assert effects == ()


@pytest.mark.parametrize("phase", [phase for phase in Phase if at(phase).deadline is not None])
def test_a_deadline_that_is_reached_moves_on(phase: Phase) -> None:
    state = at(phase, now=100.0)
    assert state.deadline is not None
    after, _ = step(CHECKED, state, ev.DeadlinePassed(), state.deadline)
    assert after.phase is not phase


@pytest.mark.parametrize("phase", Phase)
def test_only_resting_phases_have_no_deadline(phase: Phase) -> None:
    resting = phase in (Phase.STOPPED, Phase.RUNNING, Phase.FATAL)
    assert (at(phase).deadline is None) == resting


@pytest.mark.parametrize("phase", Phase)
def test_a_state_is_a_value(phase: Phase) -> None:
    """Frozen, and equal to a copy of itself."""
    state = at(phase)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.phase = Phase.FATAL  # type: ignore[misc]
    assert replace(state) == state


def test_no_event_is_too_much_for_any_state_that_can_be_reached() -> None:
    """A total table could still raise in a cell that was thought impossible."""
    reached: set[Phase] = set()
    for spec, state, now in diagram.walk(diagram.ENGINE, diagram.COMMAND):
        reached.add(state.phase)
        for event in events(state.incarnation):
            after, effects = step(spec, state, event, now)
            assert after.phase in Phase
            assert isinstance(effects, tuple)
    assert reached == set(Phase)


def test_the_event_is_handled_by_its_class_alone() -> None:
    """Whoever adds an event without a row gets a KeyError, not silence."""

    class Unheard:
        pass

    with pytest.raises(KeyError):
        step(CHECKED, at(Phase.RUNNING), Unheard(), 0.0)  # type: ignore[arg-type]


def test_requests_are_answered_in_every_phase() -> None:
    """A stop is heard wherever it comes: afterwards nothing wants the program up."""
    for phase in Phase:
        stop: Event = ev.StopRequested()
        assert step(CHECKED, at(phase), stop, 1.0)[0].wanted == "down", phase
        start: Event = ev.StartRequested()
        assert step(CHECKED, at(phase), start, 1.0)[0].wanted == "up", phase
