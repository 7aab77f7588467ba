"""Changing any row of ``RULES`` is noticed: by a scenario's timeline, by a recording's, or, where neither can show it,
by the table of signs below.

Each row is changed in every way (another word, another action, gone); then those scenarios and recordings are played in
which the row has decided something.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from llm_supervisor.core import health as hl
from llm_supervisor.core import verdict as vd
from llm_supervisor.core.health import Health, Reaction, Word
from llm_supervisor.core.spec import HealthSpec
from llm_supervisor.core.verdict import Rule, Sign, Signs

from .script import differences, perform
from .test_recorded import STORIES, problems
from .test_scenarios import SCENARIOS, played

# What no timeline can show: the word of a row that ends the program (its state says the same), doubt about a gateway
# (which has no canary) or about what works (which gets none), and the row before the first answer
SIGNS = """
rule                 | word      | action | because
gone                 | unhealthy | kill   | liveness gone
stalled              | unhealthy | kill   | progress stalled
working on the wrong | degraded  | keep   | progress moving, catalogue wrong
working, but         | degraded  | keep   | progress moving, canary failing
working              | busy      | keep   | progress moving, liveness failing
failing              | unhealthy | leave  | liveness failing
silent               | unhealthy | leave  | liveness mute, canary none
catalogue failing    | unhealthy | leave  | catalogue failing
catalogue silent     | unhealthy | leave  | catalogue mute, canary none
canary failing       | unhealthy | leave  | canary failing
wrong route          | degraded  | keep   | routes wrong
not asked            | unknown   | keep   | liveness unknown
"""
FINE = Signs(Sign.FINE, Sign.FINE, Sign.IDLE, Sign.FINE, Sign.FINE, Sign.FINE)


def wrong_signs() -> list[str]:
    """The lines of the table that do not hold."""
    wrong = []
    for line in SIGNS.strip().splitlines()[1:]:
        name, word, action, because = (cell.strip() for cell in line.split("|"))
        named = dict(part.split() for part in because.split(", "))
        seen = replace(FINE, **{signal: Sign(sign) for signal, sign in named.items()})
        rule = next(rule for rule in vd.RULES if rule.matches(seen))
        if (rule.name, rule.word, rule.action) != (name, word, action):
            wrong.append(line)
    return wrong


@dataclass
class Turns:
    """Ends a table with which the runner would turn in place."""

    count: Counter[float]

    def watch(self, function: Callable[[HealthSpec, Health, float], object]) -> Callable[..., object]:
        def watched(spec: HealthSpec, health: Health, now: float) -> object:
            self.count[now] += 1
            if self.count[now] > 200:
                raise RuntimeError("it turns in place")
            return function(spec, health, now)

        return watched


@pytest.fixture(scope="module")
def turns() -> Iterator[Turns]:
    turns = Turns(Counter())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hl, "wants_canary", turns.watch(hl.wants_canary))
        patch.setattr(vd, "fuse", turns.watch(vd.fuse))
        yield turns


@pytest.fixture(scope="module")
def deciders() -> dict[str, list[Callable[[], list[str]]]]:
    """For every row, what it decided something in, the quickest first."""
    found: dict[str, list[tuple[float, int, Callable[[], list[str]]]]] = defaultdict(list)
    for story in STORIES:
        began = time.process_time()
        rules = story.play().rules
        for rule in rules:
            found[rule].append((time.process_time() - began, len(found[rule]), partial(problems, story)))
    for index, scenario in enumerate(SCENARIOS):
        if not scenario.bug:
            it, took = played(index)
            play = partial(lambda one: differences(one, perform(one)), scenario)
            for rule in it.rules:
                found[rule].append((took, len(found[rule]), play))
    return {rule: [play for *_, play in sorted(plays)] for rule, plays in found.items()}


def changed(number: int) -> Iterator[tuple[str, tuple[Rule, ...]]]:
    """The table with that row changed, in every way."""
    rule = vd.RULES[number]
    before, after = vd.RULES[:number], vd.RULES[number + 1 :]
    for word in Word:
        if word is not rule.word:
            yield f"word {word}", (*before, replace(rule, word=word), *after)
    for action in Reaction:
        if action is not rule.action:
            yield f"action {action}", (*before, replace(rule, action=action), *after)
    yield "gone", before + after


def fails(play: Callable[[], list[str]], turns: Turns) -> bool:
    turns.count.clear()
    try:
        return bool(play())
    except (RuntimeError, StopIteration, AssertionError, ExceptionGroup):
        return True


def test_the_table_of_signs_holds() -> None:
    assert not wrong_signs()


@pytest.mark.parametrize("number", range(len(vd.RULES)), ids=[rule.name for rule in vd.RULES])
def test_a_changed_row_is_noticed(
    number: int, deciders: dict[str, list[Callable[[], list[str]]]], turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays = [*deciders.get(vd.RULES[number].name, []), wrong_signs]
    unnoticed = []
    for what, table in list(changed(number)):
        monkeypatch.setattr(vd, "RULES", table)
        if not any(fails(play, turns) for play in plays):
            unnoticed.append(what)
        monkeypatch.undo()
    assert not unnoticed
