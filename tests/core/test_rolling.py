"""The restart of the gateway's replicas, as one decision: who is meant, who waits for whom, and who may leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.rolling import (
    ANSWERS,
    Facts,
    Turn,
    addressed,
    behind,
    left_behind,
    may_leave,
    one_by_one,
    serving,
    turn,
)
from llm_supervisor.core.spec import Kind
from llm_supervisor.core.state import Phase, State, Wanted

from .makers import CHECKED, at

KINDS = {
    "tunnel": Kind.COMMAND,
    "glm": Kind.VLLM,
    "gateway": Kind.LITELLM,
    "gateway-2": Kind.LITELLM,
    "gateway-3": Kind.LITELLM,
}
SPECS = {name: replace(CHECKED, name=name, kind=kind) for name, kind in KINDS.items()}
REPLICAS = ["gateway", "gateway-2", "gateway-3"]
SPARE = ["gateway-3"]


# Who is meant: action, names, spare replicas, programs
ADDRESSED = [
    ("restart", ["glm"], [], ["glm"]),
    ("restart", ["glm", "tunnel", "glm"], [], ["glm", "tunnel"]),
    ("restart", ["gateway"], [], REPLICAS),
    ("restart", ["gateway-2"], [], ["gateway-2"]),
    ("restart", ["gateway-2", "gateway"], [], ["gateway-2", "gateway", "gateway-3"]),
    ("restart", ["gateway"], SPARE, ["gateway", "gateway-2"]),
    ("restart", ["all"], [], list(SPECS)),
    ("restart", ["all"], SPARE, ["tunnel", "glm", "gateway", "gateway-2"]),
    ("restart", ["gateway-3"], SPARE, ["gateway-3"]),
    ("restart", ["gateway", "gateway-3"], SPARE, REPLICAS),
    ("start", ["gateway"], SPARE, ["gateway", "gateway-2"]),
    ("stop", ["gateway"], SPARE, REPLICAS),
    ("stop", ["all"], SPARE, list(SPECS)),
    ("stop", ["glm", "glmm"], [], ["glm", "glmm"]),
    ("stop", ["all", "glmm"], [], list(SPECS)),
    ("stop", [], [], []),
]


@pytest.mark.parametrize(("action", "names", "spares", "programs"), ADDRESSED)
def test_which_programs_are_meant(action: str, names: list[str], spares: list[str], programs: list[str]) -> None:
    assert addressed(action, names, SPECS, spares) == programs


def test_where_a_program_has_the_name_of_all_it_alone_is_meant() -> None:
    specs = {**SPECS, "all": CHECKED}
    assert addressed("stop", ["all"], specs) == ["all"]


def test_without_a_gateway_that_name_is_unknown_or_any_programs() -> None:
    assert addressed("stop", ["gateway"], {"glm": SPECS["glm"]}) == ["gateway"]
    plain = {"gateway": replace(CHECKED, kind=Kind.COMMAND), "glm": SPECS["glm"]}
    assert addressed("restart", ["gateway"], plain) == ["gateway"]


@pytest.mark.parametrize(
    ("action", "names", "one_after_the_other"),
    [
        ("restart", list(SPECS), REPLICAS),
        ("restart", ["gateway-2"], ["gateway-2"]),
        ("restart", ["glm", "tunnel"], []),
        ("stop", list(SPECS), []),
        ("start", list(SPECS), []),
    ],
)
def test_who_waits_for_whom(action: str, names: list[str], one_after_the_other: list[str]) -> None:
    assert one_by_one(action, names, SPECS) == one_after_the_other


UP = State(Phase.RUNNING, Wanted.UP)
LEAVING = State(Phase.TERMINATING, Wanted.UP)
DOWN = State(Phase.STOPPED, Wanted.DOWN)
TOLD = State(Phase.TERMINATING, Wanted.DOWN)
LOST = State(Phase.BACKOFF, Wanted.UP)
GIVEN_UP = State(Phase.FATAL, Wanted.UP)
ALONE = Facts(UP, may_spare=True)
AMONG_OTHERS = Facts(UP, may_spare=True, others_serve=True)

# What is true, and what is decided: for an explicit request, for one about a replica that was down, for a change
TURNS = [
    (AMONG_OTHERS, Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (ALONE, Turn.BEHIND_SPARE, Turn.BEHIND_SPARE, Turn.BEHIND_SPARE),
    (replace(ALONE, may_spare=False), Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (replace(ALONE, state=LEAVING), Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (replace(ALONE, state=LOST), Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (replace(ALONE, state=GIVEN_UP), Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (replace(ALONE, state=DOWN), Turn.STAYS_DOWN, Turn.RESTART, Turn.STAYS_DOWN),
    (replace(ALONE, state=TOLD), Turn.STAYS_DOWN, Turn.RESTART, Turn.STAYS_DOWN),
    (replace(ALONE, is_new=True), Turn.BEHIND_SPARE, Turn.BEHIND_SPARE, Turn.IS_NEW),
    (replace(AMONG_OTHERS, is_new=True), Turn.RESTART, Turn.RESTART, Turn.IS_NEW),
    (replace(ALONE, is_new=True, state=LOST), Turn.RESTART, Turn.RESTART, Turn.RESTART),
    (replace(ALONE, is_new=True, state=DOWN), Turn.STAYS_DOWN, Turn.RESTART, Turn.STAYS_DOWN),
    (replace(ALONE, handing_over=True), Turn.PUT_OFF, Turn.PUT_OFF, Turn.PUT_OFF),
    (replace(ALONE, handing_over=True, state=DOWN), Turn.PUT_OFF, Turn.PUT_OFF, Turn.PUT_OFF),
    (replace(ALONE, ending=True), Turn.REFUSED, Turn.REFUSED, Turn.REFUSED),
    (replace(ALONE, ending=True, handing_over=True), Turn.REFUSED, Turn.REFUSED, Turn.REFUSED),
    (replace(ALONE, state=None), Turn.REFUSED, Turn.REFUSED, Turn.REFUSED),
    (replace(ALONE, state=None, handing_over=True), Turn.REFUSED, Turn.REFUSED, Turn.REFUSED),
]


@pytest.mark.parametrize(("facts", "request_", "though_down", "change"), TURNS)
def test_what_happens_when_its_turn_has_come(facts: Facts, request_: Turn, though_down: Turn, change: Turn) -> None:
    assert turn(facts, changed=False, was_down=False) is request_
    assert turn(facts, changed=False, was_down=True) is though_down
    assert turn(facts, changed=True, was_down=False) is change
    assert turn(facts, changed=True, was_down=True) is change, "a change starts nothing that was stopped"


def test_every_turn_has_an_answer_or_is_a_restart() -> None:
    assert set(Turn) == {*ANSWERS, Turn.RESTART, Turn.BEHIND_SPARE}
    assert not ANSWERS.keys() & {Turn.RESTART, Turn.BEHIND_SPARE}


@pytest.mark.parametrize("phase", list(Phase))
def test_only_one_that_serves_alone_is_restarted_behind_a_spare_one(phase: Phase) -> None:
    facts = Facts(replace(at(phase), wanted=Wanted.UP), may_spare=True)
    expected = Turn.BEHIND_SPARE if phase is Phase.RUNNING else Turn.RESTART
    assert turn(facts, changed=False, was_down=False) is expected


READY, NOT_READY = RequestOutcome(True, "started"), RequestOutcome(False, "BACKOFF: exit 3")


@pytest.mark.parametrize(
    ("spare", "state", "words"),
    [
        (READY, UP, None),
        (READY, LOST, None),
        (READY, DOWN, "not restarted: was stopped meanwhile"),
        (NOT_READY, TOLD, "not restarted: was stopped meanwhile"),
        (NOT_READY, UP, "left as it is, as a new one did not get ready: BACKOFF: exit 3"),
    ],
)
def test_what_its_spare_one_means_for_it(spare: RequestOutcome, state: State, words: str | None) -> None:
    assert behind(spare, state) == (None if words is None else RequestOutcome(False, words))


def test_the_rest_is_left_as_it_is() -> None:
    assert left_behind("gateway") == RequestOutcome(False, "left as it is, as gateway did not get ready")


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("wanted", list(Wanted))
def test_who_serves(phase: Phase, wanted: Wanted) -> None:
    state = State(phase, wanted)
    assert serving([DOWN, state]) is (phase is Phase.RUNNING and wanted is Wanted.UP)


@pytest.mark.parametrize(
    ("others", "configured", "leaves"),
    [
        ([UP], [UP], True),
        ([LOST], [LOST], False),
        ([DOWN, UP], [DOWN, UP], True),
        ([DOWN], [DOWN], True),
        ([TOLD, DOWN], [TOLD, DOWN], True),
        ([DOWN, GIVEN_UP], [DOWN, GIVEN_UP], False),
        ([LEAVING], [LEAVING], False),
        ([LOST], [LOST, UP], False),
        ([], [], True),
    ],
)
def test_when_a_spare_one_may_leave(others: list[State], configured: list[State], leaves: bool) -> None:
    assert may_leave(others, configured) is leaves
