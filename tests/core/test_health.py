"""From observations to a verdict: the folding, the words, the table and what follows from it.

To change a row of ``RULES``: change its line in ``EXAMPLES`` and its question in ``by_hand``. A new signal or a new
word goes into ``WORDS_OF`` and ``showing`` first.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core.health import (
    FAILED,
    NEW,
    Answer,
    Counters,
    Health,
    ProbeResult,
    Reaction,
    Word,
    observe,
    wants_canary,
)
from llm_supervisor.core.program import step
from llm_supervisor.core.spec import HealthSpec, ProgramSpec
from llm_supervisor.core.state import Phase
from llm_supervisor.core.verdict import RULES, Rule, Sign, Signs, fuse, next_judgement, readiness, signs

from .makers import ALL_OK, CHECKED, ENGINE, at, seen

SPEC = HealthSpec(failure_threshold=3, readiness_threshold=4, stall_grace=120.0, canary_interval=300.0)
NOW = 1000.0

# The table --------------------------------------------------------------------------------------------------
#
# One example of every row, in the order of the table: these words (of the others, the first in WORDS_OF) lead to this
# row.

EXAMPLES = """
rule                 | word      | action | because
gone                 | unhealthy | kill   | liveness gone
stalled              | unhealthy | kill   | progress stalled
working on the wrong | degraded  | keep   | progress moving, catalogue wrong, liveness failing
working, but         | degraded  | keep   | progress moving, canary failing
working              | busy      | keep   | progress moving, liveness failing, catalogue failing, tree stopped
failing              | unhealthy | leave  | liveness failing
silent               | unhealthy | leave  | liveness mute, canary none, tree stopped
catalogue failing    | unhealthy | leave  | catalogue failing
catalogue silent     | unhealthy | leave  | catalogue mute, canary none
frozen               | unhealthy | doubt  | tree stopped
waiting              | busy      | doubt  | progress still, liveness mute
standing             | unhealthy | doubt  | progress still, canary shaky
mute                 | unhealthy | doubt  | liveness mute
catalogue mute       | unhealthy | doubt  | catalogue mute
canary failing       | unhealthy | leave  | canary failing
canary shaky         | unhealthy | doubt  | canary shaky
wrong catalogue      | degraded  | keep   | catalogue wrong
wrong answer         | degraded  | keep   | canary wrong
wrong route          | degraded  | keep   | routes wrong
shaky                | ready     | doubt  | liveness shaky
catalogue shaky      | ready     | doubt  | catalogue shaky
not asked            | unknown   | keep   | liveness unknown
fine                 | ready     | keep   |
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in EXAMPLES.strip().splitlines()[1:]]

# What each signal can show. Only liveness speaks for the whole program: a catalogue that is refused is one that fails.
_ASKED = (Sign.FINE, Sign.WRONG, Sign.SHAKY, Sign.MUTE, Sign.FAILING, Sign.UNKNOWN)
WORDS_OF: dict[str, tuple[Sign, ...]] = {
    "tree": (Sign.FINE, Sign.STOPPED),
    "liveness": (*_ASKED, Sign.GONE),
    "progress": (Sign.IDLE, Sign.MOVED, Sign.MOVING, Sign.STILL, Sign.STALLED, Sign.UNKNOWN),
    "catalogue": _ASKED,
    "canary": (*_ASKED, Sign.NONE),
    "routes": (Sign.FINE, Sign.WRONG),
}
# What an example shows of the signals that it does not name
QUIET = {signal: words[0] for signal, words in WORDS_OF.items()}

Decision = tuple[str, Word, Reaction]


def by_hand(shown: Signs) -> Decision:
    """The decision, asked question by question. Written apart from ``RULES``."""
    # Is it dead, or hung for so long that nothing is worth a grace?
    if shown.liveness is Sign.GONE:
        return "gone", Word.UNHEALTHY, Reaction.KILL
    if shown.progress is Sign.STALLED:
        return "stalled", Word.UNHEALTHY, Reaction.KILL
    # Does it work? Then whatever fails may only be waiting; but what did get an answer, and a wrong one, is to be told.
    if shown.progress is Sign.MOVING:
        if shown.catalogue is Sign.WRONG:
            return "working on the wrong", Word.DEGRADED, Reaction.KEEP
        if shown.canary in (Sign.WRONG, Sign.SHAKY, Sign.FAILING):
            return "working, but", Word.DEGRADED, Reaction.KEEP
        return "working", Word.BUSY, Reaction.KEEP
    # Does it fail to answer? Silence may be business as long as a canary or the grace of a stall will tell.
    something_tells = shown.canary is not Sign.NONE or shown.progress is Sign.STILL
    for name, answer in (("", shown.liveness), ("catalogue ", shown.catalogue)):
        if answer is Sign.FAILING:
            return f"{name}failing", Word.UNHEALTHY, Reaction.LEAVE
        if answer is Sign.MUTE and not something_tells:
            return f"{name}silent", Word.UNHEALTHY, Reaction.LEAVE
    # May it be hung?
    if shown.tree is Sign.STOPPED:
        return "frozen", Word.UNHEALTHY, Reaction.DOUBT
    if shown.progress is Sign.STILL:
        # It answered when it was asked last: it may be at something long, and is asked again.
        if shown.canary is Sign.FINE:
            return "waiting", Word.BUSY, Reaction.DOUBT
        return "standing", Word.UNHEALTHY, Reaction.DOUBT
    for name, answer in (("", shown.liveness), ("catalogue ", shown.catalogue)):
        if answer is Sign.MUTE:
            return f"{name}mute", Word.UNHEALTHY, Reaction.DOUBT
    # Does it fail to work?
    if shown.canary is Sign.FAILING:
        return "canary failing", Word.UNHEALTHY, Reaction.LEAVE
    if shown.canary in (Sign.SHAKY, Sign.MUTE):
        return "canary shaky", Word.UNHEALTHY, Reaction.DOUBT
    # Does it answer something else than it should? A restart would bring the same again.
    if shown.catalogue is Sign.WRONG:
        return "wrong catalogue", Word.DEGRADED, Reaction.KEEP
    if shown.canary is Sign.WRONG:
        return "wrong answer", Word.DEGRADED, Reaction.KEEP
    if shown.routes is Sign.WRONG:
        return "wrong route", Word.DEGRADED, Reaction.KEEP
    # Once is not yet a reason.
    if shown.liveness is Sign.SHAKY:
        return "shaky", Word.READY, Reaction.DOUBT
    if shown.catalogue is Sign.SHAKY:
        return "catalogue shaky", Word.READY, Reaction.DOUBT
    if shown.liveness is Sign.UNKNOWN:
        return "not asked", Word.UNKNOWN, Reaction.KEEP
    return "fine", Word.READY, Reaction.KEEP


# Every combination of words, and what is to be decided
EXPECTED: dict[Signs, Decision] = {
    shown: by_hand(shown)
    for shown in (Signs(**dict(zip(WORDS_OF, words, strict=True))) for words in itertools.product(*WORDS_OF.values()))
}
# Which of them a row matches
MATCHED = [[shown for shown in EXPECTED if rule.matches(shown)] for rule in RULES]


def shown_by(because: str) -> Signs:
    """The signs of an example."""
    words = dict(QUIET)
    for part in filter(None, because.split(", ")):
        signal, word = part.split()
        words[signal] = Sign(word)
    return Signs(**words)


def showing(shown: Signs) -> Health:
    """A folded state that ``signs`` reads as these words, at NOW."""
    probes: dict[str, ProbeResult] = {}
    failures: dict[str, int] = {}
    answers = {
        Sign.FINE: (Answer.OK, 0),
        Sign.WRONG: (Answer.WRONG, 0),
        Sign.SHAKY: (Answer.SILENT, 1),
        Sign.MUTE: (Answer.SILENT, 4),
        Sign.FAILING: (Answer.INVALID, 4),
        Sign.GONE: (Answer.REFUSED, 1),
    }
    for signal in ("liveness", "catalogue", "canary"):
        word = getattr(shown, signal)
        if word in answers:
            answer, failures[signal] = answers[word]
            probes[signal] = ProbeResult(answer, f"the {signal} said {answer.value}")
    if shown.routes is Sign.WRONG:
        probes["route right"] = ProbeResult(Answer.OK, "gets 3 tokens")
        probes["route wrong"] = ProbeResult(Answer.INVALID, "gets nothing")
    load = 0 if shown.progress in (Sign.IDLE, Sign.MOVED) else 1
    return Health(
        probes=probes,
        failures=failures,
        counters=None if shown.progress is Sign.UNKNOWN else Counters((1.0,), running=2 * load, waiting=3 * load),
        moved=shown.progress in (Sign.MOVED, Sign.MOVING),
        suspect_since={Sign.STILL: NOW - 1, Sign.STALLED: NOW - SPEC.stall_grace}.get(shown.progress),
        stopped=("Core (pid 101) is stopped",) if shown.tree is Sign.STOPPED else (),
    )


def spec_of(shown: Signs) -> HealthSpec:
    """A program that has such signals."""
    return replace(SPEC, canary=shown.canary is not Sign.NONE)


def decided(rules: Sequence[Rule], shown: Signs) -> Decision | None:
    """What this table says; None when no row matches."""
    for rule in rules:
        if rule.matches(shown):
            return rule.name, rule.word, rule.action
    return None


def notices(rules: Sequence[Rule], among: Iterable[Signs]) -> bool:
    """Whether the enumeration shows that this table is not the right one."""
    return any(decided(rules, shown) != EXPECTED[shown] for shown in among)


def test_every_signal_is_enumerated() -> None:
    assert {field.name for field in dataclasses.fields(Signs)} == set(WORDS_OF)


def test_every_row_has_an_example() -> None:
    assert [rule for rule, *_ in ROWS] == [rule.name for rule in RULES]


@pytest.mark.parametrize(("rule", "word", "action", "because"), ROWS, ids=[row[0] for row in ROWS])
def test_example(rule: str, word: str, action: str, because: str) -> None:
    shown = shown_by(because)
    verdict = fuse(spec_of(shown), showing(shown), NOW)
    assert (verdict.rule, verdict.word, verdict.action) == (rule, word, action)


def test_a_state_can_show_every_combination() -> None:
    for shown in EXPECTED:
        assert signs(spec_of(shown), showing(shown), NOW) == shown


def test_the_table_says_what_the_questions_say() -> None:
    wrong = [
        f"{shown}: {decided(RULES, shown)}, by hand {expected}"
        for shown, expected in EXPECTED.items()
        if decided(RULES, shown) != expected
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(EXPECTED)} differ:", *wrong[:20]])


def test_the_verdict_is_the_tables() -> None:
    for shown, expected in EXPECTED.items():
        verdict = fuse(spec_of(shown), showing(shown), NOW)
        assert (verdict.rule, verdict.word, verdict.action) == expected
        assert verdict.reason
        assert "{" not in verdict.reason


# Would the enumeration notice a change of the table?


@pytest.mark.parametrize("row", range(len(RULES)), ids=[rule.name for rule in RULES])
def test_a_row_that_is_deleted_is_missed(row: int) -> None:
    assert notices([*RULES[:row], *RULES[row + 1 :]], MATCHED[row])


OVERLAPPING = [row for row in range(len(RULES) - 1) if set(MATCHED[row]) & set(MATCHED[row + 1])]


@pytest.mark.parametrize("row", OVERLAPPING, ids=[f"{RULES[row].name}, {RULES[row + 1].name}" for row in OVERLAPPING])
def test_neighbours_that_change_places_are_noticed(row: int) -> None:
    assert notices([*RULES[:row], RULES[row + 1], RULES[row], *RULES[row + 2 :]], MATCHED[row])


@pytest.mark.parametrize("row", range(len(RULES)), ids=[rule.name for rule in RULES])
def test_another_action_or_word_is_noticed(row: int) -> None:
    rule = RULES[row]
    changed = [replace(rule, action=action) for action in Reaction if action is not rule.action]
    changed += [replace(rule, word=word) for word in Word if word is not rule.word]
    for other in changed:
        assert notices([*RULES[:row], other, *RULES[row + 1 :]], MATCHED[row])


# What the table must never say, whatever its rows


def test_the_last_row_matches_everything() -> None:
    assert len(MATCHED[-1]) == len(EXPECTED)


def test_what_works_is_not_restarted() -> None:
    """Law 8. A refused connection, or a death by its own word, is no failed probe: nothing works there."""
    for shown, (_, _, action) in EXPECTED.items():
        if shown.progress is Sign.MOVING and shown.liveness is not Sign.GONE:
            assert action in (Reaction.KEEP, Reaction.DOUBT), shown


def test_nothing_is_restarted_below_its_threshold() -> None:
    over = {Sign.MUTE, Sign.FAILING, Sign.GONE, Sign.STALLED}
    for shown, (_, _, action) in EXPECTED.items():
        if not over & {shown.liveness, shown.progress, shown.catalogue, shown.canary}:
            assert action in (Reaction.KEEP, Reaction.DOUBT), shown


def test_a_wrong_list_a_wrong_answer_and_a_wrong_route_are_no_reasons_to_restart() -> None:
    """It would loop."""
    for signal in ("catalogue", "canary", "routes"):
        for shown, (_, _, action) in EXPECTED.items():
            if getattr(shown, signal) is Sign.WRONG:
                fine = EXPECTED[replace(shown, **{signal: Sign.FINE})][2]
                assert action is fine or action in (Reaction.KEEP, Reaction.DOUBT), shown


def test_a_wrong_list_does_not_hide_a_reason_to_restart() -> None:
    """A program that fails its liveness check is not kept because its list is wrong as well."""
    for shown, (_, _, action) in EXPECTED.items():
        if shown.catalogue is Sign.WRONG and EXPECTED[replace(shown, catalogue=Sign.FINE)][2] is Reaction.LEAVE:
            assert action is Reaction.LEAVE, shown


def test_doubt_has_an_end() -> None:
    """Doubt is for a canary to end, or for the grace of a stall. Where neither will come, silence is the last word."""
    for shown, (_, _, action) in EXPECTED.items():
        ends = shown.canary is not Sign.NONE or shown.progress in (Sign.MOVING, Sign.STILL)
        if Sign.MUTE in (shown.liveness, shown.catalogue) and not ends:
            assert action in (Reaction.LEAVE, Reaction.KILL), shown


def test_doubt_wants_a_canary() -> None:
    """Whoever waits for doubt asks here whether to send one: a no would make it ask again at once, for ever."""
    for shown, (rule, word, action) in EXPECTED.items():
        if action is Reaction.DOUBT and shown.canary is not Sign.NONE:
            health = replace(showing(shown), proved_at=NOW, verdict=hl.Verdict(rule, word, action, ""))
            assert wants_canary(spec_of(shown), health, NOW), shown


def test_ready_means_that_nothing_is_known_to_be_wrong() -> None:
    bad = {Sign.WRONG, Sign.MUTE, Sign.FAILING, Sign.STILL, Sign.STALLED, Sign.STOPPED}
    for shown, (_, word, _) in EXPECTED.items():
        if word is Word.READY:
            assert not bad & {shown.tree, shown.progress, shown.catalogue, shown.canary, shown.routes}, shown


@pytest.mark.parametrize(
    ("because", "reason"),
    [
        ("liveness gone", "liveness: the liveness said refused"),
        ("liveness failing", "liveness: the liveness said invalid (4 times in a row)"),
        ("liveness mute", "liveness: the liveness said silent (4 times in a row)"),
        ("catalogue failing", "catalogue: the catalogue said invalid (4 times in a row)"),
        ("catalogue wrong", "catalogue: the catalogue said wrong"),
        ("canary failing", "canary: the canary said invalid (4 times in a row)"),
        ("canary wrong", "canary: the canary said wrong"),
        ("routes wrong", "route wrong: gets nothing"),
        ("progress still", "no progress for 1 s while 2 running and 3 waiting"),
        ("progress stalled", "no progress for 120 s while 2 running and 3 waiting"),
        ("progress stalled, canary mute", "no progress for 120 s while the canary gets no answer"),
        ("progress moving", "2 running, 3 waiting"),
        ("progress moving, canary failing", "canary: the canary said invalid; 2 running, 3 waiting"),
        ("tree stopped", "Core (pid 101) is stopped"),
        ("liveness unknown", "not asked yet"),
        ("", "answers"),
    ],
)
def test_reasons_are_for_people(because: str, reason: str) -> None:
    assert fuse(SPEC, showing(shown_by(because)), NOW).reason == reason


# From the folded state to words -----------------------------------------------------------------------------


def words_of(answer: Answer | None, failures: int) -> list[Sign]:
    """Liveness, catalogue and canary, each with that answer."""
    asked = ("liveness", "catalogue", "canary")
    probes = {} if answer is None else {signal: ProbeResult(answer) for signal in asked}
    shown = signs(SPEC, Health(probes=probes, failures=dict.fromkeys(asked, failures)), NOW)
    return [shown.liveness, shown.catalogue, shown.canary]


@pytest.mark.parametrize(
    ("answer", "failures", "words"),
    # liveness and canary may fail 3 times, the catalogue 4 times
    [
        (None, 0, "unknown unknown unknown"),
        (Answer.OK, 0, "fine fine fine"),
        (Answer.WRONG, 0, "wrong wrong wrong"),
        (Answer.SILENT, 0, "fine fine fine"),  # forgiven: it waited behind work that was done
        (Answer.SILENT, 1, "shaky shaky shaky"),
        (Answer.SILENT, 2, "shaky shaky shaky"),
        (Answer.SILENT, 3, "mute shaky mute"),
        (Answer.SILENT, 4, "mute mute mute"),
        (Answer.INVALID, 2, "shaky shaky shaky"),
        (Answer.INVALID, 3, "failing shaky failing"),
        (Answer.INVALID, 4, "failing failing failing"),
        # of the whole program, only liveness can say that it is gone
        (Answer.REFUSED, 1, "gone shaky shaky"),
        (Answer.REFUSED, 3, "gone shaky failing"),
        (Answer.REFUSED, 4, "gone failing failing"),
        (Answer.DEAD, 1, "gone shaky shaky"),
        (Answer.DEAD, 3, "gone shaky failing"),
        (Answer.DEAD, 4, "gone failing failing"),
    ],
)
def test_an_answer_in_one_word(answer: Answer | None, failures: int, words: str) -> None:
    assert words_of(answer, failures) == words.split()


def test_who_has_no_canary_shows_none() -> None:
    assert signs(replace(SPEC, canary=False), fold(seen(canary=Answer.SILENT)), NOW).canary is Sign.NONE


@pytest.mark.parametrize(
    ("routes", "word"),
    [
        ({}, "fine"),
        ({"a": Answer.OK, "b": Answer.OK}, "fine"),
        ({"a": Answer.OK, "b": Answer.WRONG}, "wrong"),
        ({"a": Answer.SILENT}, "wrong"),
    ],
)
def test_all_routes_in_one_word(routes: dict[str, Answer], word: str) -> None:
    assert signs(SPEC, fold(seen(routes=routes)), NOW).routes == word


@pytest.mark.parametrize(
    ("counters", "moved", "since", "word"),
    [
        (None, False, None, "unknown"),
        (Counters((1.0,)), False, None, "idle"),
        (Counters((1.0,)), True, None, "moved"),
        (Counters((1.0,), running=1), True, None, "moving"),
        (Counters((1.0,), waiting=1), True, None, "moving"),
        (Counters((1.0,), running=1), False, NOW, "still"),
        (Counters((1.0,), running=1), False, NOW - 119.75, "still"),
        (Counters((1.0,), running=1), False, NOW - 120.0, "stalled"),
        (None, False, NOW - 1.0, "still"),  # the canary alone
    ],
)
def test_progress_in_one_word(counters: Counters | None, moved: bool, since: float | None, word: str) -> None:
    assert signs(SPEC, Health(counters=counters, moved=moved, suspect_since=since), NOW).progress == word


# The folding ------------------------------------------------------------------------------------------------


def fold(*observations: hl.Observation, start: Health = NEW, every: float = 10.0) -> Health:
    """One after the other, ``every`` seconds apart, the first at NOW."""
    health = start
    for turn, one in enumerate(observations):
        health = observe(health, one, NOW + turn * every)
    return health


def test_consecutive_failures_are_counted() -> None:
    for answer in Answer:
        health = fold(*[seen(liveness=answer)] * 3)
        assert health.failures["liveness"] == (3 if answer in FAILED else 0), answer


@pytest.mark.parametrize("answer", [Answer.OK, Answer.WRONG])
def test_a_valid_answer_ends_the_count(answer: Answer) -> None:
    failing = fold(seen(liveness=Answer.SILENT), seen(liveness=Answer.INVALID))
    assert failing.failures["liveness"] == 2
    assert fold(seen(liveness=answer), start=failing).failures["liveness"] == 0


def test_signals_are_counted_apart_and_one_that_was_not_asked_keeps_its_count() -> None:
    health = fold(seen(Answer.SILENT, Answer.SILENT), seen(catalogue=Answer.SILENT), seen(liveness=Answer.OK))
    assert health.failures == {"liveness": 0, "catalogue": 2}
    assert health.probes["catalogue"].answer is Answer.SILENT


def test_observing_does_not_judge() -> None:
    assert fold(*[seen(Answer.DEAD)] * 5).verdict is NEW.verdict


def test_a_growing_counter_is_progress() -> None:
    assert fold(seen(work=5.0), seen(work=6.0)).moved
    assert not fold(seen(work=5.0), seen(work=5.0)).moved
    assert not fold(seen(work=5.0), seen(work=6.0), seen(work=6.0)).moved


def test_one_growing_counter_among_many_is_enough() -> None:
    assert fold(seen(work=(5.0, 7.0)), seen(work=(5.0, 8.0))).moved


def test_the_first_look_at_counters_proves_nothing() -> None:
    health = fold(seen(work=5.0))
    assert not health.moved
    assert signs(SPEC, health, NOW).progress is Sign.IDLE


def test_counters_that_could_not_be_read_prove_no_progress() -> None:
    moving = fold(seen(work=5.0, running=1), seen(work=6.0, running=1))
    assert moving.moved
    unread = fold(seen(metrics=Answer.SILENT), start=moving)
    assert not unread.moved
    assert unread.pending, "what was pending still is"
    assert unread.suspect_since == NOW


@pytest.mark.parametrize("one", [seen(stopped=()), seen(Answer.SILENT, Answer.OK), seen(routes={"a": Answer.OK})])
def test_a_round_that_did_not_read_the_counters_keeps_what_is_known_of_progress(one: hl.Observation) -> None:
    moving = fold(seen(work=5.0, running=1), seen(work=6.0, running=1))
    health = fold(one, start=moving)
    assert health.moved
    assert health.suspect_since is None


def test_idle_is_not_suspect() -> None:
    assert fold(*[seen(Answer.OK, work=5.0)] * 5).suspect_since is None


def test_standing_still_with_something_to_do_is_suspect_from_its_first_moment() -> None:
    for load in ({"running": 1}, {"waiting": 1}):
        working = fold(seen(work=5.0, **load), seen(work=6.0, **load))
        assert working.suspect_since is None
        still = observe(working, seen(work=6.0, **load), NOW + 20)
        assert still.suspect_since == NOW + 20
        assert observe(still, seen(work=6.0, **load), NOW + 30).suspect_since == NOW + 20


@pytest.mark.parametrize(
    ("then", "since"),
    [
        (seen(work=7.0, running=1), None),  # it moves again
        (seen(work=6.0), None),  # nothing is left to do
        (seen(work=6.0, running=1, canary=Answer.OK), 30),  # it answers, whatever it counts: the grace begins anew
        (seen(work=6.0, running=1, canary=Answer.WRONG), 20),  # that may be the API server alone
        (seen(work=6.0, canary=Answer.WRONG), None),
        (seen(work=6.0, running=1), 20),
        (seen(work=6.0, running=1, canary=Answer.INVALID), 20),
        (seen(work=6.0, running=1, canary=Answer.SILENT), 20),
        (seen(metrics=Answer.SILENT), 20),  # what is known is that there was something to do
        (seen(liveness=Answer.OK), 20),
        (seen(stopped=("Core",)), 20),
    ],
)
def test_what_ends_the_suspicion(then: hl.Observation, since: int | None) -> None:
    load = {"running": 1}
    still = fold(seen(work=5.0, **load), seen(work=6.0, **load), seen(work=6.0, **load))
    assert still.suspect_since == NOW + 20
    assert observe(still, then, NOW + 30).suspect_since == (None if since is None else NOW + since)


def test_a_reading_without_an_answer_is_suspect_from_the_moment_it_was_asked_for() -> None:
    working = fold(seen(work=5.0, running=1), seen(work=6.0, running=1))
    unread = hl.Observation(metrics=ProbeResult(Answer.SILENT, took=60.0))
    assert observe(working, unread, NOW + 80).suspect_since == NOW + 20


@pytest.mark.parametrize("signal", ["liveness", "catalogue"])
def test_a_silence_behind_work_that_is_being_done_is_no_failure(signal: str) -> None:
    silences = [hl.Observation(**{signal: ProbeResult(Answer.SILENT)})] * 3
    before = fold(seen(work=5.0, running=1), *silences)
    assert before.failures[signal] == 3
    assert fold(seen(work=6.0, running=1), start=before).failures[signal] == 0
    assert fold(seen(work=5.0, running=1), start=before).failures[signal] == 3, "nothing is being done"
    assert fold(seen(work=6.0), start=before).failures[signal] == 3, "the work is gone"
    refused = fold(seen(work=5.0, running=1), *[hl.Observation(**{signal: ProbeResult(Answer.INVALID)})] * 3)
    assert fold(seen(work=6.0, running=1), start=refused).failures[signal] == 3, "an answer waited for nothing"


def test_a_canary_without_an_answer_is_suspect_from_the_moment_it_was_sent() -> None:
    health = fold(seen(work=5.0), seen(canary=Answer.SILENT, took=30.0))
    assert health.suspect_since == NOW + 10 - 30
    assert fold(seen(canary=Answer.OK), start=health).suspect_since is None


def test_a_canary_that_fails_at_once_is_no_stall() -> None:
    assert fold(seen(work=5.0), *[seen(canary=Answer.INVALID)] * 9).suspect_since is None


def test_a_canary_that_waited_behind_work_is_no_failure() -> None:
    moving = (seen(work=5.0, running=1), seen(work=6.0, running=1), seen(canary=Answer.SILENT, took=30.0))
    health = fold(*moving)
    assert health.failures["canary"] == 0
    assert health.suspect_since is None
    later = fold(seen(work=5.0, running=1), seen(canary=Answer.SILENT), seen(work=6.0, running=1))
    assert later.failures["canary"] == 0


@pytest.mark.parametrize("answer", Answer)
def test_a_canary_that_is_answered_is_a_proof(answer: Answer) -> None:
    assert fold(seen(work=5.0), seen(canary=answer)).proved_at == (None if answer in FAILED else NOW + 10)


def test_stopped_members_are_remembered_until_the_next_look() -> None:
    health = fold(seen(stopped=("Core",)), seen(liveness=Answer.OK))
    assert health.stopped == ("Core",)
    assert fold(seen(stopped=()), start=health).stopped == ()


def test_a_restart_of_the_counting_is_no_progress() -> None:
    health = fold(seen(work=500.0), seen(work=3.0))
    assert not health.moved
    assert fold(seen(work=4.0), start=health).moved


def test_a_restart_of_the_counting_is_no_stall() -> None:
    health = fold(seen(work=400.0, running=1), seen(work=500.0, running=1), seen(work=3.0, running=1))
    assert health.suspect_since is None


def test_the_first_look_at_a_busy_engine_is_no_stall() -> None:
    assert fold(seen(work=5.0, running=1)).suspect_since is None


def test_another_number_of_counters_is_a_restart_of_the_counting() -> None:
    """An engine that shows a series only once it has counted something must not end the daemon."""
    assert not fold(seen(work=(5.0, 7.0)), seen(work=(6.0,))).moved


def test_one_counter_that_went_backwards_makes_the_others_prove_nothing() -> None:
    assert not fold(seen(work=(5.0, 7.0)), seen(work=(1.0, 8.0))).moved


ANSWERS = st.none() | st.sampled_from(Answer)
OBSERVATIONS = st.builds(
    seen,
    ANSWERS,
    ANSWERS,
    ANSWERS,
    work=st.none() | st.integers(0, 3).map(float),
    running=st.integers(0, 1),
    waiting=st.integers(0, 1),
    stopped=st.none() | st.sampled_from([(), ("Core",)]),
    metrics=ANSWERS,
    routes=st.dictionaries(st.just("alias"), st.sampled_from(Answer)),
    took=st.sampled_from([0.0, 30.0]),
)


@given(st.lists(OBSERVATIONS, max_size=12), st.booleans())
def test_whatever_is_seen(observations: list[hl.Observation], canary: bool) -> None:
    """Any sequence folds, has a verdict, and what is suspect was so at some look."""
    spec, health, now = replace(SPEC, canary=canary), NEW, NOW
    for one in observations:
        before = health
        health = observe(health, one, now)
        assert health.suspect_since in (None, now, now - 30.0, before.suspect_since)
        assert not (health.moved and health.suspect_since is not None)
        assert all(count >= 0 for count in health.failures.values())
        assert signs(spec, health, now) in EXPECTED
        verdict = fuse(spec, health, now)
        assert (verdict.rule, verdict.word, verdict.action) == EXPECTED[signs(spec, health, now)]
        health = replace(health, verdict=verdict)
        if verdict.action is Reaction.DOUBT:
            assert wants_canary(spec, health, now) == canary
        now += 10.0


# A canary or none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "observations", "doubt", "wants"),
    # seconds since the first look: 10 for each; the interval is 300
    [
        ("nothing was proved yet", [seen(Answer.OK)], False, True),
        ("it was proved a moment ago", [seen(canary=Answer.OK)], False, False),
        ("a wrong answer is a proof of life", [seen(canary=Answer.WRONG)], False, False),
        ("the interval is over", [seen(canary=Answer.OK)] + [seen(work=5.0)] * 30, False, True),
        ("it works", [seen(work=5.0, running=1), seen(work=6.0, running=1)], False, False),
        ("it works, though doubted", [seen(work=5.0, running=1), seen(work=6.0, running=1)], True, False),
        ("it has worked, and is idle", [seen(work=5.0, running=1), seen(work=6.0)], False, True),
        ("it stands still", [seen(work=5.0, running=1)] * 2, True, True),
        ("doubt, though proved a moment ago", [seen(canary=Answer.OK)], True, True),
    ],
)
def test_when_a_canary_is_wanted(what: str, observations: list[hl.Observation], doubt: bool, wants: bool) -> None:
    health = fold(*observations)
    now = NOW + 10.0 * (len(observations) - 1)
    if doubt:
        health = replace(health, verdict=hl.Verdict("doubt", Word.UNHEALTHY, Reaction.DOUBT, ""))
    assert wants_canary(SPEC, health, now) is wants
    assert not wants_canary(replace(SPEC, canary=False), health, now)


# Readiness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("liveness", "catalogue", "canary", "rule", "reason"),
    [
        (None, None, None, "starting", "liveness: not asked"),
        (Answer.OK, None, None, "starting", "catalogue: not asked"),
        (None, Answer.OK, None, "starting", "liveness: not asked"),
        (Answer.REFUSED, None, None, "starting", "liveness: answered refused"),
        (Answer.SILENT, Answer.OK, Answer.OK, "starting", "liveness: answered silent"),
        (Answer.INVALID, Answer.OK, Answer.OK, "starting", "liveness: answered invalid"),
        (Answer.DEAD, Answer.OK, Answer.OK, "starting", "liveness: answered dead"),
        (Answer.OK, Answer.SILENT, None, "starting", "catalogue: answered silent"),
        (Answer.OK, Answer.INVALID, None, "starting", "catalogue: answered invalid"),
        (Answer.OK, Answer.OK, None, "starting", "canary: not asked"),
        (Answer.OK, Answer.OK, Answer.SILENT, "starting", "canary: answered silent"),
        (Answer.OK, Answer.OK, Answer.INVALID, "starting", "canary: answered invalid"),
        (Answer.OK, Answer.WRONG, Answer.SILENT, "starting", "canary: answered silent"),
        (Answer.OK, Answer.WRONG, Answer.OK, "wrong catalogue", "catalogue: answered wrong"),
        (Answer.OK, Answer.OK, Answer.WRONG, "wrong canary", "canary: answered wrong"),
        (Answer.OK, Answer.OK, Answer.OK, "ready", "answers"),
    ],
)
def test_readiness(
    liveness: Answer | None, catalogue: Answer | None, canary: Answer | None, rule: str, reason: str
) -> None:
    verdict = readiness(SPEC, fold(seen(liveness, catalogue, canary)))
    assert (verdict.rule, verdict.action, verdict.reason) == (rule, Reaction.KEEP, reason)
    words = {"starting": Word.STARTING, "ready": Word.READY}
    assert verdict.word is words.get(rule, Word.DEGRADED)


def test_who_has_no_canary_is_ready_without_one() -> None:
    assert readiness(replace(SPEC, canary=False), fold(seen(Answer.OK, Answer.OK))).word is Word.READY


def test_the_last_answer_counts() -> None:
    assert readiness(SPEC, fold(ALL_OK, seen(Answer.SILENT))).word is Word.STARTING
    assert readiness(SPEC, fold(seen(Answer.SILENT), ALL_OK)).word is Word.READY


def test_failures_while_starting_are_no_failures_of_a_running_one() -> None:
    """It refuses for as long as it loads; the first right answers end that count."""
    health = fold(*[seen(liveness=Answer.REFUSED)] * 50, ALL_OK)
    assert fuse(SPEC, health, NOW).word is Word.READY


# The clock --------------------------------------------------------------------------------------------------


def test_nothing_is_to_be_judged_anew_while_nothing_is_suspect() -> None:
    assert next_judgement(SPEC, fold(ALL_OK)) is None


def test_the_next_judgement_is_at_the_end_of_the_grace() -> None:
    still = fold(*[seen(work=6.0, running=1)] * 2, seen(Answer.OK, work=6.0, running=1))
    due = next_judgement(SPEC, still)
    assert due is not None
    assert still.suspect_since is not None
    assert due == still.suspect_since + SPEC.stall_grace
    assert fuse(SPEC, still, due - 0.001).rule == "standing"
    assert fuse(SPEC, still, due).rule == "stalled"


def test_at_the_next_judgement_the_verdict_changes() -> None:
    """8.2 + 120 - 8.2 is less than 120, in floats; a deadline that changes nothing is passed again at once."""
    still = replace(fold(seen(work=6.0, running=1)), suspect_since=8.2)
    due = next_judgement(SPEC, still)
    assert due is not None
    assert fuse(SPEC, still, due).rule == "stalled"


# What the reducer makes of a verdict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "observation", "times", "phase", "cause"),
    [
        (CHECKED, ALL_OK, 1, Phase.RUNNING, None),
        (CHECKED, seen(Answer.OK, Answer.WRONG), 9, Phase.RUNNING, None),
        (CHECKED, seen(Answer.SILENT), 2, Phase.RUNNING, None),
        (CHECKED, seen(Answer.SILENT), 3, Phase.TERMINATING, "unresponsive"),
        (CHECKED, seen(Answer.INVALID), 3, Phase.TERMINATING, "unresponsive"),
        (CHECKED, seen(Answer.OK, Answer.SILENT), 2, Phase.RUNNING, None),
        (CHECKED, seen(Answer.OK, Answer.SILENT), 3, Phase.TERMINATING, "unresponsive"),
        (CHECKED, seen(Answer.DEAD), 1, Phase.KILLING, "unresponsive"),
        (CHECKED, seen(stopped=("Core",)), 9, Phase.RUNNING, None),
        (CHECKED, seen(routes={"alias": Answer.REFUSED}), 9, Phase.RUNNING, None),
        (ENGINE, seen(Answer.SILENT), 9, Phase.RUNNING, None),  # a canary will tell
        (ENGINE, seen(Answer.INVALID), 3, Phase.TERMINATING, "unresponsive"),
        (ENGINE, seen(canary=Answer.INVALID), 2, Phase.RUNNING, None),
        (ENGINE, seen(canary=Answer.INVALID), 3, Phase.TERMINATING, "unresponsive"),
        (ENGINE, seen(canary=Answer.WRONG), 9, Phase.RUNNING, None),
        (ENGINE, seen(canary=Answer.SILENT, took=30.0), 9, Phase.RUNNING, None),
        (ENGINE, seen(canary=Answer.SILENT, took=30.0), 10, Phase.KILLING, "stalled"),
    ],
)
def test_a_verdict_becomes_a_departure(
    spec: ProgramSpec, observation: hl.Observation, times: int, phase: Phase, cause: str | None
) -> None:
    """So many times in a row, ten seconds apart."""
    state = at(Phase.RUNNING, spec)
    for turn in range(times):
        assert state.phase is Phase.RUNNING
        state, _ = step(spec, state, ev.Observed(1, observation), 10.0 * turn)
    assert state.phase is phase
    assert (state.leaving and state.leaving.cause) == cause


def test_a_stall_kills_at_its_deadline_though_nothing_more_is_seen() -> None:
    state = at(Phase.RUNNING)
    for turn in range(2):
        state, _ = step(CHECKED, state, ev.Observed(1, seen(Answer.OK, work=5.0, running=1)), 10.0 * turn)
    assert state.deadline is not None
    assert state.phase is Phase.RUNNING
    state, _ = step(CHECKED, state, ev.DeadlinePassed(), state.deadline)
    assert state.phase is Phase.KILLING
    assert state.leaving is not None
    assert state.leaving.cause == "stalled"


def test_the_words_that_count_as_ready() -> None:
    for word in Word:
        state = at(Phase.RUNNING)
        state = replace(state, health=replace(state.health, verdict=replace(state.health.verdict, word=word)))
        assert state.ready == (word in (Word.READY, Word.BUSY)), word


# Several engines behind one API server ----------------------------------------------------------------------


def ranks(*shown: tuple[float, int], canary: Answer | None = None) -> hl.Observation:
    """A reading of the counters: of each engine its work, and how many requests it has."""
    each = {str(n): hl.Rank((work,), running=running) for n, (work, running) in enumerate(shown)}
    counters = Counters((sum(work for work, _ in shown),), sum(running for _, running in shown), ranks=each)
    canary_probe = None if canary is None else hl.ProbeResult(canary)
    return hl.Observation(metrics=hl.ProbeResult(Answer.OK), counters=counters, canary=canary_probe)


def test_an_engine_that_hangs_is_not_hidden_by_the_others() -> None:
    """Not by their work, and not by a canary, which one of the others has answered."""
    health = fold(ranks((1.0, 1), (1.0, 1)), ranks((2.0, 1), (2.0, 1)))
    assert (health.moved, health.suspect_since) == (True, None)
    for turn in range(2, 20):
        health = observe(health, ranks((turn + 1.0, 1), (2.0, 3), canary=Answer.OK), NOW + 10 * turn)
        assert health.suspect_since == NOW + 20
    judged = fuse(SPEC, health, NOW + 20 + SPEC.stall_grace)
    assert (judged.rule, judged.action) == ("stalled", Reaction.KILL)
    assert "while engine 1 has 3 running and 0 waiting" in judged.reason


@pytest.mark.parametrize(
    ("then", "since"),
    [
        (ranks((9.0, 1), (3.0, 1)), None),  # it moves again
        (ranks((9.0, 1), (2.0, 0)), None),  # it has nothing to do any more
        (ranks((9.0, 1)), None),  # it has left: there is one engine, which moves
        (ranks((3.0, 1), (2.0, 1)), 20),  # the other one hangs, too
        (seen(liveness=Answer.OK), 20),
        (seen(metrics=Answer.SILENT), 20),
    ],
)
def test_what_ends_the_suspicion_of_one_of_several(then: hl.Observation, since: int | None) -> None:
    still = fold(ranks((1.0, 1), (1.0, 1)), ranks((2.0, 1), (2.0, 1)), ranks((3.0, 1), (2.0, 1)))
    assert still.suspect_since == NOW + 20
    assert observe(still, then, NOW + 30).suspect_since == (None if since is None else NOW + since)


def test_an_idle_engine_among_several_is_not_suspect() -> None:
    assert fold(*(ranks((float(turn), 1), (5.0, 0)) for turn in range(9))).suspect_since is None


def test_a_wrong_list_hides_no_wrong_route() -> None:
    spec = HealthSpec(canary=False)
    probes = {
        "liveness": ProbeResult(Answer.OK),
        "catalogue": ProbeResult(Answer.WRONG, "b is missing"),
        "route glm": ProbeResult(Answer.WRONG, "answers 401"),
    }
    health = replace(hl.Health(), probes=probes)
    for verdict in (fuse(spec, health, 0.0), readiness(spec, health)):
        assert verdict.word is hl.Word.DEGRADED
        assert "b is missing" in verdict.reason and "route glm: answers 401" in verdict.reason
