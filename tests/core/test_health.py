"""From observations to a verdict: the folding, the words, the table and what follows from it.

To change a row of ``RULES``: change its line in ``EXAMPLES`` and its question in ``by_hand``. A new signal or a new word
goes into ``WORDS_OF`` and ``showing`` first.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core.health import (
    FAILED,
    NEW,
    RULES,
    Action,
    Answer,
    Counters,
    Health,
    Probe,
    Rule,
    Sign,
    Signs,
    Word,
    fuse,
    next_judgement,
    observe,
    readiness,
    signs,
)
from llm_supervisor.core.program import NEEDED, step
from llm_supervisor.core.spec import HealthSpec
from llm_supervisor.core.state import Phase

from .makers import ALL_OK, CHECKED, at, seen

SPEC = HealthSpec(failure_threshold=3, readiness_threshold=4, stall_grace=120.0)
NOW = 1000.0

# The table --------------------------------------------------------------------------------------------------
#
# One example of every row, in the order of the table: these words (the others are fine, or unknown where nothing was
# asked) lead to this row.

EXAMPLES = """
rule            | word      | action | because
gone            | unhealthy | kill   | liveness gone
stalled         | unhealthy | kill   | progress stalled
working         | busy      | keep   | progress moving, liveness failing, catalogue failing
frozen          | unhealthy | doubt  | tree stopped
standing        | unhealthy | doubt  | progress still
silent          | unhealthy | leave  | liveness failing, progress unknown
mute            | unhealthy | doubt  | liveness failing
canary failing  | unhealthy | doubt  | canary failing
no catalogue    | unhealthy | leave  | catalogue failing
wrong catalogue | degraded  | keep   | catalogue wrong
wrong answer    | degraded  | keep   | canary wrong
shaky           | ready     | doubt  | liveness shaky
shaky catalogue | ready     | doubt  | catalogue shaky
not asked       | unknown   | keep   | liveness unknown
fine            | ready     | keep   |
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in EXAMPLES.strip().splitlines()[1:]]

# What each signal can show
WORDS_OF: dict[str, tuple[Sign, ...]] = {
    "tree": (Sign.FINE, Sign.STOPPED),
    "liveness": (Sign.FINE, Sign.WRONG, Sign.SHAKY, Sign.FAILING, Sign.GONE, Sign.UNKNOWN),
    "progress": (Sign.IDLE, Sign.MOVING, Sign.STILL, Sign.STALLED, Sign.UNKNOWN),
    "catalogue": (Sign.FINE, Sign.WRONG, Sign.SHAKY, Sign.FAILING, Sign.GONE, Sign.UNKNOWN),
    "canary": (Sign.FINE, Sign.WRONG, Sign.FAILING, Sign.UNKNOWN),
}
# What an example shows of the signals that it does not name: the first of each
QUIET = {signal: words[0] for signal, words in WORDS_OF.items()}

Decision = tuple[str, Word, Action]


def by_hand(shown: Signs) -> Decision:
    """The decision as DESIGN.md's fourth chapter has it, asked question by question. Written apart from ``RULES``."""
    # Is it dead, or hung for so long that nothing is worth a grace?
    if shown.liveness is Sign.GONE:
        return "gone", Word.UNHEALTHY, Action.KILL
    if shown.progress is Sign.STALLED:
        return "stalled", Word.UNHEALTHY, Action.KILL
    # Does it work? Then it is only busy, whatever fails; but a wrong list is wrong under load too, so that is told.
    if shown.progress is Sign.MOVING and shown.catalogue is not Sign.WRONG:
        return "working", Word.BUSY, Action.KEEP
    # May it be hung? Look closer.
    if shown.tree is Sign.STOPPED:
        return "frozen", Word.UNHEALTHY, Action.DOUBT
    if shown.progress is Sign.STILL:
        return "standing", Word.UNHEALTHY, Action.DOUBT
    # Does it not answer? Who can show its work is doubted, who cannot is replaced.
    if shown.liveness is Sign.FAILING:
        if shown.progress is Sign.UNKNOWN:
            return "silent", Word.UNHEALTHY, Action.LEAVE
        return "mute", Word.UNHEALTHY, Action.DOUBT
    if shown.canary is Sign.FAILING:
        return "canary failing", Word.UNHEALTHY, Action.DOUBT
    if shown.catalogue is Sign.FAILING:
        return "no catalogue", Word.UNHEALTHY, Action.LEAVE
    # Does it answer the wrong thing? A restart would bring the same again.
    if shown.catalogue is Sign.WRONG:
        return "wrong catalogue", Word.DEGRADED, Action.KEEP
    if shown.canary is Sign.WRONG:
        return "wrong answer", Word.DEGRADED, Action.KEEP
    # Once is not yet a reason.
    if shown.liveness is Sign.SHAKY:
        return "shaky", Word.READY, Action.DOUBT
    if shown.catalogue in (Sign.SHAKY, Sign.GONE):
        return "shaky catalogue", Word.READY, Action.DOUBT
    if shown.liveness is Sign.UNKNOWN:
        return "not asked", Word.UNKNOWN, Action.KEEP
    return "fine", Word.READY, Action.KEEP


def everything() -> Iterator[Signs]:
    """Every combination of words."""
    for words in itertools.product(*WORDS_OF.values()):
        yield Signs(**dict(zip(WORDS_OF, words, strict=True)))


EVERYTHING = list(everything())


def shown_by(because: str) -> Signs:
    """The signs of an example."""
    words = dict(QUIET)
    for part in filter(None, because.split(", ")):
        signal, word = part.split()
        words[signal] = Sign(word)
    return Signs(**words)


def showing(shown: Signs) -> Health:
    """A folded state that ``signs`` reads as these words, at NOW."""
    probes: dict[str, Probe] = {}
    failures: dict[str, int] = {}
    answers = {
        Sign.FINE: (Answer.OK, 0),
        Sign.WRONG: (Answer.WRONG, 0),
        Sign.SHAKY: (Answer.SILENT, 1),
        Sign.FAILING: (Answer.SILENT, 4),
        Sign.GONE: (Answer.REFUSED, 1),
    }
    for signal in ("liveness", "catalogue", "canary"):
        word = getattr(shown, signal)
        if word is not Sign.UNKNOWN:
            answer, failures[signal] = answers[word]
            probes[signal] = Probe(answer, f"the {signal} said {answer.value}")
    since = {Sign.STILL: NOW - 1, Sign.STALLED: NOW - SPEC.stall_grace}.get(shown.progress)
    return Health(
        probes=probes,
        failures=failures,
        counters=None if shown.progress is Sign.UNKNOWN else Counters((1.0,), running=2, waiting=3),
        moved=shown.progress is Sign.MOVING,
        suspect_since=since,
        stopped=("Core (pid 101) is stopped",) if shown.tree is Sign.STOPPED else (),
    )


def decided(rules: Sequence[Rule], shown: Signs) -> Decision | None:
    """What this table says; None when no row matches."""
    for rule in rules:
        if rule.matches(shown):
            return rule.name, rule.word, rule.action
    return None


def differences(rules: Sequence[Rule]) -> list[Signs]:
    """All combinations of which this table says something else than ``by_hand``."""
    return [shown for shown in EVERYTHING if decided(rules, shown) != by_hand(shown)]


def test_every_signal_is_enumerated() -> None:
    assert {field.name for field in dataclasses.fields(Signs)} == set(WORDS_OF)


def test_every_row_has_an_example() -> None:
    assert [rule for rule, *_ in ROWS] == [rule.name for rule in RULES]


@pytest.mark.parametrize(("rule", "word", "action", "because"), ROWS, ids=[row[0] for row in ROWS])
def test_example(rule: str, word: str, action: str, because: str) -> None:
    verdict = fuse(SPEC, showing(shown_by(because)), NOW)
    assert (verdict.rule, verdict.word, verdict.action) == (rule, word, action)


def test_a_state_can_show_every_combination() -> None:
    for shown in EVERYTHING:
        assert signs(SPEC, showing(shown), NOW) == shown


def test_the_table_says_what_the_questions_say() -> None:
    wrong = [f"{shown}: {decided(RULES, shown)}, by hand {by_hand(shown)}" for shown in differences(RULES)]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(EVERYTHING)} differ:", *wrong[:20]])


def test_the_verdict_is_the_tables() -> None:
    for shown in EVERYTHING:
        verdict = fuse(SPEC, showing(shown), NOW)
        assert (verdict.rule, verdict.word, verdict.action) == by_hand(shown)
        assert verdict.reason
        assert "{" not in verdict.reason


# Would the enumeration notice a change of the table?


def overlap(one: Rule, other: Rule) -> bool:
    return any(one.matches(shown) and other.matches(shown) for shown in EVERYTHING)


@pytest.mark.parametrize("row", range(len(RULES)), ids=[rule.name for rule in RULES])
def test_a_row_that_is_deleted_is_missed(row: int) -> None:
    assert differences([*RULES[:row], *RULES[row + 1 :]])


@pytest.mark.parametrize(
    "row",
    [row for row in range(len(RULES) - 1) if overlap(RULES[row], RULES[row + 1])],
    ids=lambda row: f"{RULES[row].name} after {RULES[row + 1].name}",
)
def test_two_rows_that_change_places_are_noticed(row: int) -> None:
    assert differences([*RULES[:row], RULES[row + 1], RULES[row], *RULES[row + 2 :]])


@pytest.mark.parametrize("row", range(len(RULES)), ids=[rule.name for rule in RULES])
def test_another_action_or_word_is_noticed(row: int) -> None:
    rule = RULES[row]
    for action in set(Action) - {rule.action}:
        assert differences([*RULES[:row], replace(rule, action=action), *RULES[row + 1 :]])
    for word in set(Word) - {rule.word}:
        assert differences([*RULES[:row], replace(rule, word=word), *RULES[row + 1 :]])


# What the table must never say, whatever its rows


def test_the_last_row_matches_everything() -> None:
    assert all(RULES[-1].matches(shown) for shown in EVERYTHING)


def test_what_works_is_not_restarted() -> None:
    """Law 8. A refused connection, or a death by its own word, is no failed probe: nothing works there."""
    for shown in EVERYTHING:
        if shown.progress is Sign.MOVING and shown.liveness is not Sign.GONE:
            assert by_hand(shown)[2] in (Action.KEEP, Action.DOUBT), shown


def test_nothing_is_restarted_below_its_threshold() -> None:
    over = {Sign.FAILING, Sign.GONE, Sign.STALLED}
    for shown in EVERYTHING:
        if not over & {shown.liveness, shown.progress, shown.catalogue}:
            assert by_hand(shown)[2] in (Action.KEEP, Action.DOUBT), shown


def test_a_wrong_list_alone_is_never_a_reason_to_restart() -> None:
    for shown in EVERYTHING:
        if shown.catalogue is Sign.WRONG:
            better = by_hand(replace(shown, catalogue=Sign.FINE))
            assert by_hand(shown)[2] == better[2] or by_hand(shown)[2] in (Action.KEEP, Action.DOUBT), shown


def test_ready_means_that_nothing_is_known_to_be_wrong() -> None:
    bad = {Sign.WRONG, Sign.FAILING, Sign.STILL, Sign.STALLED, Sign.STOPPED}
    for shown in EVERYTHING:
        if by_hand(shown)[1] is Word.READY:
            words = {shown.tree, shown.progress, shown.catalogue, shown.canary}
            assert not bad & words, shown


@pytest.mark.parametrize(
    ("because", "reason"),
    [
        ("liveness gone", "liveness: the liveness said refused"),
        ("liveness failing, progress unknown", "liveness: the liveness said silent (4 times in a row)"),
        ("catalogue failing", "catalogue: the catalogue said silent (4 times in a row)"),
        ("catalogue wrong", "catalogue: the catalogue said wrong"),
        ("canary failing", "canary: the canary said silent"),
        ("progress still", "no progress for 1 s while 2 running and 3 waiting"),
        ("progress stalled", "no progress for 120 s while 2 running and 3 waiting"),
        ("progress stalled, canary failing", "no progress for 120 s while the canary fails"),
        ("progress moving", "2 running, 3 waiting"),
        ("tree stopped", "Core (pid 101) is stopped"),
        ("liveness unknown", "not asked yet"),
        ("", "answers"),
    ],
)
def test_reasons_are_for_people(because: str, reason: str) -> None:
    assert fuse(SPEC, showing(shown_by(because)), NOW).reason == reason


# From the folded state to words -----------------------------------------------------------------------------


def word_of(signal: str, answer: Answer | None, failures: int) -> Sign:
    probes = {} if answer is None else {signal: Probe(answer)}
    return getattr(signs(SPEC, Health(probes=probes, failures={signal: failures}), NOW), signal)


@pytest.mark.parametrize(
    ("answer", "failures", "liveness", "catalogue", "canary"),
    # liveness may fail 3 times, the catalogue 4 times, the canary not once
    [
        (None, 0, "unknown", "unknown", "unknown"),
        (Answer.OK, 0, "fine", "fine", "fine"),
        (Answer.WRONG, 0, "wrong", "wrong", "wrong"),
        (Answer.SILENT, 1, "shaky", "shaky", "failing"),
        (Answer.SILENT, 2, "shaky", "shaky", "failing"),
        (Answer.SILENT, 3, "failing", "shaky", "failing"),
        (Answer.SILENT, 4, "failing", "failing", "failing"),
        (Answer.INVALID, 2, "shaky", "shaky", "failing"),
        (Answer.INVALID, 4, "failing", "failing", "failing"),
        (Answer.REFUSED, 1, "gone", "gone", "failing"),
        (Answer.DEAD, 1, "gone", "gone", "failing"),
    ],
)
def test_an_answer_in_one_word(
    answer: Answer | None, failures: int, liveness: str, catalogue: str, canary: str
) -> None:
    words = [word_of(signal, answer, failures) for signal in ("liveness", "catalogue", "canary")]
    assert words == [liveness, catalogue, canary]


@pytest.mark.parametrize(
    ("counters", "moved", "since", "word"),
    [
        (False, False, None, "unknown"),
        (True, True, None, "moving"),
        (True, False, None, "idle"),
        (True, False, NOW, "still"),
        (True, False, NOW - 119.9, "still"),
        (True, False, NOW - 120.0, "stalled"),
        (False, False, NOW - 1.0, "still"),  # the canary alone
    ],
)
def test_progress_in_one_word(counters: bool, moved: bool, since: float | None, word: str) -> None:
    health = Health(counters=Counters((1.0,)) if counters else None, moved=moved, suspect_since=since)
    assert signs(SPEC, health, NOW).progress == word


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


def test_a_round_without_counters_proves_no_progress() -> None:
    moving = fold(seen(work=5.0, running=1), seen(work=6.0, running=1))
    assert moving.moved
    assert not fold(seen(liveness=Answer.SILENT), start=moving).moved


def test_a_look_at_the_tree_alone_keeps_what_is_known_of_progress() -> None:
    moving = fold(seen(work=5.0, running=1), seen(work=6.0, running=1))
    health = fold(seen(stopped=()), start=moving)
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
    ("then", "suspect"),
    [
        (seen(work=7.0, running=1), False),  # it moves again
        (seen(work=6.0), False),  # nothing is left to do
        (seen(work=6.0, running=1, canary=Answer.OK), False),  # it answers
        (seen(work=6.0, running=1, canary=Answer.WRONG), False),  # it answers nonsense, which is alive
        (seen(work=6.0, running=1), True),
        (seen(work=6.0, running=1, canary=Answer.SILENT), True),
        (seen(liveness=Answer.OK), True),  # no counters, and what is known is that there was something to do
        (seen(stopped=("Core",)), True),
    ],
)
def test_what_ends_the_suspicion(then: hl.Observation, suspect: bool) -> None:
    load = {"running": 1}
    still = fold(seen(work=5.0, **load), seen(work=6.0, **load), seen(work=6.0, **load))
    assert still.suspect_since == NOW + 20
    assert observe(still, then, NOW + 30).suspect_since == (NOW + 20 if suspect else None)


def test_a_failing_canary_is_suspect_without_any_load() -> None:
    health = fold(seen(work=5.0), seen(work=5.0, canary=Answer.SILENT))
    assert health.suspect_since == NOW + 10
    assert fold(seen(canary=Answer.OK), start=health).suspect_since is None


def test_a_failing_canary_is_not_suspect_while_work_advances() -> None:
    assert fold(seen(work=5.0), seen(work=6.0, canary=Answer.SILENT)).suspect_since is None


def test_stopped_members_are_remembered_until_the_next_look() -> None:
    health = fold(seen(stopped=("Core",)), seen(liveness=Answer.OK))
    assert health.stopped == ("Core",)
    assert fold(seen(stopped=()), start=health).stopped == ()


def test_a_restart_of_the_counting_is_no_progress() -> None:
    health = fold(seen(work=500.0), seen(work=3.0))
    assert not health.moved
    assert fold(seen(work=4.0), start=health).moved


@pytest.mark.xfail(strict=True, reason="a counter that went backwards counts as standing still")
def test_a_restart_of_the_counting_is_no_stall() -> None:
    health = fold(seen(work=400.0, running=1), seen(work=500.0, running=1), seen(work=3.0, running=1))
    assert health.suspect_since is None


@pytest.mark.xfail(strict=True, reason="one look at a busy engine makes it suspect: standing still takes two")
def test_the_first_look_at_a_busy_engine_is_no_stall() -> None:
    assert fold(seen(work=5.0, running=1)).suspect_since is None


@pytest.mark.xfail(strict=True, raises=ValueError, reason="zip(strict=True): the daemon would end")
def test_another_number_of_counters_is_a_restart_of_the_counting() -> None:
    """An engine that shows a series only once it has counted something must not end the daemon."""
    assert not fold(seen(work=(5.0, 7.0)), seen(work=(5.0,))).moved


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
)


@given(st.lists(OBSERVATIONS, max_size=12))
def test_whatever_is_seen(observations: list[hl.Observation]) -> None:
    """Any sequence folds, has a verdict, and what is suspect was so at some look."""
    health, now = NEW, NOW
    for one in observations:
        before = health
        health = observe(health, one, now)
        assert health.suspect_since in (None, now, before.suspect_since)
        assert not (health.moved and health.suspect_since is not None)
        assert all(count >= 0 for count in health.failures.values())
        assert fuse(SPEC, health, now).rule in {rule.name for rule in RULES}
        assert signs(SPEC, health, now) in EVERYTHING
        now += 10.0


# Readiness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("liveness", "catalogue", "word", "reason"),
    [
        (None, None, "starting", "liveness: not asked yet"),
        (Answer.OK, None, "starting", "catalogue: not asked yet"),
        (None, Answer.OK, "starting", "liveness: not asked yet"),
        (Answer.REFUSED, None, "starting", "catalogue: not asked yet"),
        (Answer.REFUSED, Answer.OK, "starting", "liveness: answered refused"),
        (Answer.SILENT, Answer.OK, "starting", "liveness: answered silent"),
        (Answer.INVALID, Answer.OK, "starting", "liveness: answered invalid"),
        (Answer.DEAD, Answer.OK, "starting", "liveness: answered dead"),
        (Answer.OK, Answer.SILENT, "starting", "catalogue: answered silent"),
        (Answer.OK, Answer.INVALID, "starting", "catalogue: answered invalid"),
        (Answer.WRONG, Answer.SILENT, "starting", "catalogue: answered silent"),
        (Answer.OK, Answer.WRONG, "degraded", "catalogue: answered wrong"),
        (Answer.WRONG, Answer.OK, "degraded", "liveness: answered wrong"),
        (Answer.OK, Answer.OK, "ready", "answers"),
    ],
)
def test_readiness(liveness: Answer | None, catalogue: Answer | None, word: str, reason: str) -> None:
    verdict = readiness(SPEC, fold(seen(liveness, catalogue)), NEEDED)
    assert (verdict.word, verdict.action, verdict.reason) == (word, Action.KEEP, reason)


def test_the_last_answer_counts() -> None:
    assert readiness(SPEC, fold(seen(Answer.OK, Answer.OK), seen(Answer.SILENT)), NEEDED).word is Word.STARTING
    assert readiness(SPEC, fold(seen(Answer.SILENT), seen(Answer.OK, Answer.OK)), NEEDED).word is Word.READY


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


@pytest.mark.xfail(strict=True, reason="signs() subtracts where next_judgement() adds: the runner would turn in place")
def test_at_the_next_judgement_the_verdict_changes() -> None:
    """8.2 + 120 - 8.2 is less than 120, in floats; a deadline that changes nothing is passed again at once."""
    still = replace(fold(seen(work=6.0, running=1)), suspect_since=8.2)
    due = next_judgement(SPEC, still)
    assert due is not None
    assert fuse(SPEC, still, due).rule == "stalled"


# What the reducer makes of a verdict ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "times", "phase", "cause"),
    [
        (ALL_OK, 1, Phase.RUNNING, None),
        (seen(Answer.OK, Answer.WRONG), 9, Phase.RUNNING, None),
        (seen(Answer.SILENT), 2, Phase.RUNNING, None),
        (seen(Answer.SILENT), 3, Phase.TERMINATING, "unresponsive"),
        (seen(Answer.INVALID), 3, Phase.TERMINATING, "unresponsive"),
        (seen(Answer.OK, Answer.SILENT), 2, Phase.RUNNING, None),
        (seen(Answer.OK, Answer.SILENT), 3, Phase.TERMINATING, "unresponsive"),
        (seen(Answer.DEAD), 1, Phase.KILLING, "unresponsive"),
        (seen(stopped=("Core",)), 9, Phase.RUNNING, None),
    ],
)
def test_a_verdict_becomes_a_departure(
    observation: hl.Observation, times: int, phase: Phase, cause: str | None
) -> None:
    state = at(Phase.RUNNING)
    for turn in range(times):
        assert state.phase is Phase.RUNNING
        state, _ = step(CHECKED, state, ev.Observed(1, observation), 10.0 * turn)
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
