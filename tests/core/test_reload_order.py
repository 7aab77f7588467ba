"""In which order a plan is carried out, and what becomes of a change when its turn has come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core.reload import Action, Change, Order, absent_replica, due, order
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.spec import Kind
from llm_supervisor.core.state import Phase, State, Wanted

from .makers import CHECKED

KINDS = {"t": Kind.COMMAND, "one": Kind.VLLM, "two": Kind.VLLM, "g": Kind.LITELLM, "g-2": Kind.LITELLM}
SPECS = {name: replace(CHECKED, name=name, kind=kind) for name, kind in KINDS.items()}
UP, LOST, DOWN = State(Phase.RUNNING, Wanted.UP), State(Phase.BACKOFF, Wanted.UP), State(Phase.STOPPED, Wanted.DOWN)
ALL_UP = dict.fromkeys(SPECS, UP)
LETTERS = {"+": Action.START, "-": Action.STOP, "!": Action.RESTART, "~": Action.ROLLING, "=": Action.NOTHING,
           "u": Action.UPDATE}  # fmt: skip


def plan(text: str) -> list[Change]:
    """``+t !one ~g``: one change a word."""
    return [Change(word[1:], LETTERS[word[0]], "because") for word in text.split()]


def words(order: Order) -> tuple[str, str, str, str]:
    at_once, surplus, engines = (
        " ".join(one.program for one in part) for part in (order.at_once, order.surplus, order.engines)
    )
    return at_once, " ".join(order.rolling), surplus, engines


# The plan, how the programs are, which engines are reached as before; then what goes at once, which replicas one after
# the other, which of them leave then, and which engines come last
ORDERS = [
    ("", {}, "", ("", "", "", "")),
    ("=t uone =g", {}, "one", ("", "", "", "")),
    ("+t !one -two", {}, "one two", ("t one two", "", "", "")),
    ("!t !one !two ~g ~g-2", {}, "one two", ("t", "g g-2", "", "one two")),
    ("!one !two ~g ~g-2", {}, "one", ("two", "g g-2", "", "one")),
    ("!one !two ~g ~g-2", {}, "", ("one two", "g g-2", "", "")),
    ("!one ug -g-2", {}, "one", ("", "", "g-2", "one")),
    ("!one ~g -g-2", {}, "one", ("", "g", "g-2", "one")),
    ("-one +two ~g", {}, "one two", ("one two", "g", "", "")),
    ("!one ~g", {"one": LOST}, "one", ("one", "g", "", "")),
    ("!one ~g", {"g": LOST, "g-2": DOWN}, "one", ("one", "g", "", "")),
    ("!one ~g", {"g": LOST}, "one", ("", "g", "", "one")),
    ("+g-2 ug !one", {}, "one", ("g-2 one", "", "", "")),
]


@pytest.mark.parametrize(("text", "states", "kept", "expected"), ORDERS)
def test_the_order(text: str, states: dict[str, State], kept: str, expected: tuple[str, str, str, str]) -> None:
    todo = plan(text)
    found = order(todo, SPECS, {**ALL_UP, **states}, kept.split())
    assert words(found) == expected
    done = [one.program for part in (found.at_once, found.surplus, found.engines) for one in part]
    asked = [one.program for one in todo if one.action not in (Action.NOTHING, Action.UPDATE)]
    assert sorted([*done, *found.rolling]) == sorted(asked), "everything once, and nothing else"


OK, NO = RequestOutcome(True, "restarted"), RequestOutcome(False, "BACKOFF")


@pytest.mark.parametrize(
    ("results", "name"),
    [
        ({}, None),
        ({"g": OK, "g-2": OK, "one": NO}, None),
        ({"g": OK, "g-2": NO}, "g-2"),
        ({"one": NO, "g": NO, "g-2": NO}, "g"),
        ({"new": NO}, None),
    ],
)
def test_which_replica_is_missing(results: dict[str, RequestOutcome], name: str | None) -> None:
    assert absent_replica(results, SPECS) == name


GONE, STOPPED = (
    RequestOutcome(False, "is no longer configured"),
    RequestOutcome(False, "not restarted: was stopped meanwhile"),
)
# The change; whether it is configured, was stopped by somebody, and has the new process already
DUE = [
    (Action.STOP, False, False, False, Action.STOP),
    (Action.STOP, True, True, True, Action.STOP),
    (Action.START, True, False, False, Action.START),
    (Action.START, True, True, True, Action.START),
    (Action.START, False, False, False, GONE),
    (Action.RESTART, True, False, False, Action.RESTART),
    (Action.RESTART, True, False, True, Action.START),
    (Action.RESTART, True, True, False, STOPPED),
    (Action.RESTART, True, True, True, STOPPED),
    (Action.RESTART, False, True, True, GONE),
]


@pytest.mark.parametrize(("action", "configured", "told_down", "is_new", "expected"), DUE)
def test_what_is_asked_when_its_turn_has_come(
    action: Action, configured: bool, told_down: bool, is_new: bool, expected: Action | RequestOutcome
) -> None:
    change = Change("one", action, "because")
    assert due(change, configured=configured, told_down=told_down, is_new=is_new) == expected
