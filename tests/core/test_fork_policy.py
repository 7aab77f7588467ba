"""The table of the fork servers: one row for each case in which one is made, believed or dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_supervisor.core import fork_policy as policy
from llm_supervisor.core.fork_policy import NO_EXPERIENCE, Choice, Life, Seen, Trust

ROOM = policy.START_ROOM
SEEN = Seen(now=1000.0, life=Life.NONE, available=ROOM)
GIVEN_UP = Trust(failures=policy.DISTRUST, distrusted=("old",))


def seen(**more: object) -> Seen:
    return replace(SEEN, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (seen(life=Life.NONE), None),
        (seen(life=Life.NONE, available=0), None),
        (seen(life=Life.READY), None),
        (seen(life=Life.READY, forks=policy.MAX_FORKS - 1), None),
        (seen(life=Life.READY, forks=policy.MAX_FORKS), "it has forked 100 times"),
        (seen(life=Life.IMPORTING, forks=policy.MAX_FORKS), None),
        (seen(life=Life.READY, available=policy.LEAST_ROOM), None),
        (seen(life=Life.READY, available=policy.LEAST_ROOM - 1), "memory is short"),
        (seen(life=Life.IMPORTING, available=policy.LEAST_ROOM - 1), "memory is short"),
        (seen(life=Life.DEAD, death="was killed by SIGKILL"), "it was killed by SIGKILL"),
        (seen(life=Life.DEAD, death="died", available=0, forks=policy.MAX_FORKS), "it died"),
    ],
)
def test_dropped(now: Seen, why: str | None) -> None:
    assert policy.why_drop(now) == why


@pytest.mark.parametrize(
    ("trust", "now", "choice", "reason"),
    [
        (NO_EXPERIENCE, seen(), Choice.MAKE, ""),
        (NO_EXPERIENCE, seen(life=Life.DEAD), Choice.MAKE, ""),
        (NO_EXPERIENCE, seen(life=Life.READY), Choice.LEAVE, ""),
        (NO_EXPERIENCE, seen(life=Life.IMPORTING), Choice.LEAVE, ""),
        (Trust(failures=policy.DISTRUST - 1), seen(), Choice.MAKE, ""),
        (GIVEN_UP, seen(packages=("old",)), Choice.LEAVE, ""),
        (GIVEN_UP, seen(packages=("new",)), Choice.MAKE, ""),
        (GIVEN_UP, seen(packages=("old",), available=0), Choice.LEAVE, ""),
        (Trust(not_before=1000.5), seen(), Choice.LEAVE, ""),
        (Trust(not_before=1000.0), seen(), Choice.MAKE, ""),
        (NO_EXPERIENCE, seen(starting=frozenset("qp")), Choice.WAIT, "waits until p, q has started"),
        (
            Trust(held_off_since=1000.0 - policy.HOLD_OFF + 1),
            seen(starting=frozenset("p")),
            Choice.WAIT,
            "waits until p",
        ),
        (Trust(held_off_since=1000.0 - policy.HOLD_OFF), seen(starting=frozenset("p")), Choice.MAKE, ""),
        (NO_EXPERIENCE, seen(available=ROOM - 1), Choice.WAIT, "3071 MiB of memory are available, less than 3072"),
        (NO_EXPERIENCE, seen(available=0, starting=frozenset("p")), Choice.WAIT, "waits until p has started"),
    ],
)
def test_made(trust: Trust, now: Seen, choice: Choice, reason: str) -> None:
    decision = policy.decide(trust, now)
    assert decision.choice is choice
    assert decision.reason.startswith(reason) and bool(decision.reason) == bool(reason)


@pytest.mark.parametrize(
    ("trust", "now", "since"),
    [
        (NO_EXPERIENCE, seen(starting=frozenset("p")), 1000.0),
        (Trust(held_off_since=900.0), seen(starting=frozenset("p")), 900.0),
        (Trust(held_off_since=900.0), seen(), None),
        (Trust(held_off_since=900.0), seen(available=0), None),
        (Trust(held_off_since=900.0, not_before=2000.0), seen(), 900.0),
        (Trust(held_off_since=900.0), seen(life=Life.READY), 900.0),
    ],
)
def test_since_when_it_waits_for_others(trust: Trust, now: Seen, since: float | None) -> None:
    assert policy.decide(trust, now).trust.held_off_since == since


def test_other_packages_are_believed_anew() -> None:
    trust = policy.decide(GIVEN_UP, seen(packages=("new",), available=0)).trust
    assert (trust.failures, trust.given_up) == (0, False)
    assert policy.decide(GIVEN_UP, seen(packages=("old",))).trust == GIVEN_UP


def test_given_up_after_so_many_failures_in_a_row() -> None:
    trust = NO_EXPERIENCE
    for number in range(policy.DISTRUST):
        assert not trust.given_up
        assert policy.why_failed(trust, "it died") == "it died"
        trust = policy.start_failed(trust, (number,), counts=True)
    assert trust.given_up
    assert trust.distrusted == (policy.DISTRUST - 1,)
    assert policy.why_failed(trust, "it died") == "3 starts from it failed: it died"


def test_a_success_or_a_stale_one_does_not_count() -> None:
    trust = policy.start_failed(NO_EXPERIENCE, (), counts=True)
    assert policy.start_failed(trust, (), counts=False) == trust
    assert policy.start_succeeded(trust) == NO_EXPERIENCE


def test_the_pause_after_failed_imports_doubles_up_to_its_cap() -> None:
    trust, pauses = NO_EXPERIENCE, []
    for _ in range(9):
        trust = policy.import_failed(trust, 0.0)
        pauses.append(trust.not_before)
    assert pauses == [15, 30, 60, 120, 240, 480, 960, 1800, 1800]
    assert policy.import_failed(policy.import_succeeded(trust), 0.0).not_before == policy.IMPORT_PAUSE


def test_the_last_rule_always_holds() -> None:
    assert policy.MAKE[-1].holds(GIVEN_UP, seen(life=Life.READY, available=0, starting=frozenset("p")))
