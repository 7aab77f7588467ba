"""What another configuration does to what runs: only what it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core.reload import Action, changes
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State, Wanted

from .makers import CHECKED, at

MODEL = replace(CHECKED, name="m", digest="a", settings="1")
GATEWAY = replace(MODEL, name="gateway", kind=Kind.LITELLM)


def one(old: ProgramSpec | None, new: ProgramSpec | None, state: State, running: str | None = None) -> Action:
    """The only line of a plan about one program."""
    befores, afters = ({spec.name: spec for spec in specs if spec} for specs in ((old,), (new,)))
    name = next(iter({**befores, **afters}))
    (line,) = changes(befores, afters, {name: state}, {} if running is None else {name: running})
    assert line.program == name
    assert line.why
    return line.action


def test_new_and_gone() -> None:
    assert one(None, MODEL, State()) is Action.START
    assert one(None, replace(MODEL, autostart=False), State()) is Action.NOTHING
    assert one(MODEL, None, at(Phase.RUNNING)) is Action.STOP


UP = (Phase.STARTING, Phase.RUNNING, Phase.KILLING, Phase.SWEEPING, Phase.BACKOFF)


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_the_same_is_not_touched(phase: Phase) -> None:
    assert one(MODEL, MODEL, at(phase)) is Action.NOTHING
    assert one(MODEL, MODEL, at(phase), running="a") is Action.NOTHING


@pytest.mark.parametrize("phase", list(Phase))
def test_another_way_of_watching_needs_no_new_process(phase: Phase) -> None:
    assert one(MODEL, replace(MODEL, settings="2"), at(phase)) is Action.UPDATE


@pytest.mark.parametrize("phase", UP)
def test_another_process_is_needed(phase: Phase) -> None:
    state = replace(at(phase), wanted=Wanted.UP)
    assert one(MODEL, replace(MODEL, digest="b", settings="2"), state) is Action.RESTART
    assert one(GATEWAY, replace(GATEWAY, digest="b", settings="2"), state) is Action.ROLLING


def test_what_a_person_stopped_stays_stopped() -> None:
    for phase in (Phase.STOPPED, Phase.TERMINATING):
        state = replace(at(phase), wanted=Wanted.DOWN)
        assert one(MODEL, replace(MODEL, digest="b", settings="2"), state) is Action.UPDATE


@pytest.mark.parametrize("phase", list(Phase))
def test_what_another_configuration_told_to_leave_comes_back(phase: Phase) -> None:
    """With the one that has it again; as something new would."""
    state = {"m": replace(at(phase), wanted=Wanted.DOWN)}
    for running in ("a", "b"):
        (line,) = changes({"m": MODEL}, {"m": MODEL}, state, {"m": running}, {"m"})
        assert line.action is Action.START
    by_hand = replace(MODEL, autostart=False)
    (line,) = changes({"m": by_hand}, {"m": by_hand}, state, {}, {"m"})
    assert line.action is Action.NOTHING


def test_what_was_given_up_is_tried_again_with_something_else_only() -> None:
    state = at(Phase.FATAL)
    assert one(MODEL, replace(MODEL, digest="b", settings="2"), state) is Action.START
    assert one(MODEL, MODEL, state) is Action.NOTHING
    down = replace(state, wanted=Wanted.DOWN)
    assert one(MODEL, replace(MODEL, digest="b", settings="2"), down) is Action.UPDATE


def test_it_is_the_running_process_that_counts() -> None:
    """A change and its reversal, while the restart between them has not come about."""
    assert one(replace(MODEL, digest="b"), MODEL, at(Phase.RUNNING), running="a") is Action.UPDATE
    assert one(MODEL, MODEL, at(Phase.RUNNING), running="b") is Action.RESTART


def test_a_name_that_is_something_else_now() -> None:
    assert one(MODEL, replace(MODEL, kind=Kind.COMMAND, digest="b"), at(Phase.RUNNING)) is Action.RESTART
