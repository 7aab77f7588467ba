"""May it come back, and when: the grid restart policy × departure × wanted, and the arithmetic behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import fleet, restart
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Answer, Health, Word
from llm_supervisor.core.program import step
from llm_supervisor.core.recovery import leftover
from llm_supervisor.core.request import settled
from llm_supervisor.core.restart import FRESH, History
from llm_supervisor.core.spec import ProgramSpec, RestartPolicy, RestartSpec
from llm_supervisor.core.state import Phase, State, Wanted

from .makers import ALL_OK, BUSY, CHECKED, PERMANENT, PID, RESTART, SOME, UNCHECKED, seen, walk

ALWAYS, ON_FAILURE, NEVER = RestartPolicy.ALWAYS, RestartPolicy.ON_FAILURE, RestartPolicy.NEVER

# The grid ---------------------------------------------------------------------------------------------------
#
# How it leaves, under which policy, and what is wanted when it is gone; then where it ends up and supervisord's word
# for that. STARTING: at once. BACKOFF n: it waits n seconds (backoff 5). `wanted down` is a stop asked for while it
# leaves, `wanted up` a start asked for where the departure itself was a stop.

GRID = """
departure                   | policy     | wanted | end       | word
exit 0 before ready         | always     | up     | BACKOFF 5 | BACKOFF
exit 0 before ready         | always     | down   | STOPPED   | STOPPED
exit 0 before ready         | on-failure | up     | BACKOFF 5 | BACKOFF
exit 0 before ready         | on-failure | down   | STOPPED   | STOPPED
exit 0 before ready         | never      | up     | STOPPED   | EXITED
exit 0 before ready         | never      | down   | STOPPED   | STOPPED
exit 1 before ready         | always     | up     | BACKOFF 5 | BACKOFF
exit 1 before ready         | always     | down   | STOPPED   | STOPPED
exit 1 before ready         | on-failure | up     | BACKOFF 5 | BACKOFF
exit 1 before ready         | on-failure | down   | STOPPED   | STOPPED
exit 1 before ready         | never      | up     | STOPPED   | EXITED
exit 1 before ready         | never      | down   | STOPPED   | STOPPED
exit 0 after ready          | always     | up     | STARTING  | STARTING
exit 0 after ready          | always     | down   | STOPPED   | STOPPED
exit 0 after ready          | on-failure | up     | STOPPED   | EXITED
exit 0 after ready          | on-failure | down   | STOPPED   | STOPPED
exit 0 after ready          | never      | up     | STOPPED   | EXITED
exit 0 after ready          | never      | down   | STOPPED   | STOPPED
exit 1 after ready          | always     | up     | STARTING  | STARTING
exit 1 after ready          | always     | down   | STOPPED   | STOPPED
exit 1 after ready          | on-failure | up     | STARTING  | STARTING
exit 1 after ready          | on-failure | down   | STOPPED   | STOPPED
exit 1 after ready          | never      | up     | STOPPED   | EXITED
exit 1 after ready          | never      | down   | STOPPED   | STOPPED
signal after ready          | always     | up     | STARTING  | STARTING
signal after ready          | always     | down   | STOPPED   | STOPPED
signal after ready          | on-failure | up     | STARTING  | STARTING
signal after ready          | on-failure | down   | STOPPED   | STOPPED
signal after ready          | never      | up     | STOPPED   | EXITED
signal after ready          | never      | down   | STOPPED   | STOPPED
unknown status after ready  | always     | up     | STARTING  | STARTING
unknown status after ready  | always     | down   | STOPPED   | STOPPED
unknown status after ready  | on-failure | up     | STARTING  | STARTING
unknown status after ready  | on-failure | down   | STOPPED   | STOPPED
unknown status after ready  | never      | up     | STOPPED   | EXITED
unknown status after ready  | never      | down   | STOPPED   | STOPPED
member lost                 | always     | up     | STARTING  | STARTING
member lost                 | always     | down   | STOPPED   | STOPPED
member lost                 | on-failure | up     | STARTING  | STARTING
member lost                 | on-failure | down   | STOPPED   | STOPPED
member lost                 | never      | up     | STOPPED   | EXITED
member lost                 | never      | down   | STOPPED   | STOPPED
unresponsive                | always     | up     | STARTING  | STARTING
unresponsive                | always     | down   | STOPPED   | STOPPED
unresponsive                | on-failure | up     | STARTING  | STARTING
unresponsive                | on-failure | down   | STOPPED   | STOPPED
unresponsive                | never      | up     | STOPPED   | EXITED
unresponsive                | never      | down   | STOPPED   | STOPPED
stop requested              | always     | up     | STARTING  | STARTING
stop requested              | always     | down   | STOPPED   | STOPPED
stop requested              | on-failure | up     | STARTING  | STARTING
stop requested              | on-failure | down   | STOPPED   | STOPPED
stop requested              | never      | up     | STARTING  | STARTING
stop requested              | never      | down   | STOPPED   | STOPPED
restart requested           | always     | up     | STARTING  | STARTING
restart requested           | always     | down   | STOPPED   | STOPPED
restart requested           | on-failure | up     | STARTING  | STARTING
restart requested           | on-failure | down   | STOPPED   | STOPPED
restart requested           | never      | up     | STARTING  | STARTING
restart requested           | never      | down   | STOPPED   | STOPPED
spawn refused               | always     | up     | BACKOFF 5 | BACKOFF
spawn refused               | always     | down   | STOPPED   | STOPPED
spawn refused               | on-failure | up     | BACKOFF 5 | BACKOFF
spawn refused               | on-failure | down   | STOPPED   | STOPPED
spawn refused               | never      | up     | STOPPED   | EXITED
spawn refused               | never      | down   | STOPPED   | STOPPED
spawn refused, permanent    | always     | up     | FATAL     | FATAL
spawn refused, permanent    | always     | down   | STOPPED   | STOPPED
spawn refused, permanent    | on-failure | up     | FATAL     | FATAL
spawn refused, permanent    | on-failure | down   | STOPPED   | STOPPED
spawn refused, permanent    | never      | up     | STOPPED   | EXITED
spawn refused, permanent    | never      | down   | STOPPED   | STOPPED
spawn refused, busy         | always     | up     | BACKOFF 5 | BACKOFF
spawn refused, busy         | always     | down   | STOPPED   | STOPPED
spawn refused, busy         | on-failure | up     | BACKOFF 5 | BACKOFF
spawn refused, busy         | on-failure | down   | STOPPED   | STOPPED
spawn refused, busy         | never      | up     | BACKOFF 5 | BACKOFF
spawn refused, busy         | never      | down   | STOPPED   | STOPPED
startup budget over         | always     | up     | BACKOFF 5 | BACKOFF
startup budget over         | always     | down   | STOPPED   | STOPPED
startup budget over         | on-failure | up     | BACKOFF 5 | BACKOFF
startup budget over         | on-failure | down   | STOPPED   | STOPPED
startup budget over         | never      | up     | STOPPED   | EXITED
startup budget over         | never      | down   | STOPPED   | STOPPED
startup stall               | always     | up     | BACKOFF 5 | BACKOFF
startup stall               | always     | down   | STOPPED   | STOPPED
startup stall               | on-failure | up     | BACKOFF 5 | BACKOFF
startup stall               | on-failure | down   | STOPPED   | STOPPED
startup stall               | never      | up     | STOPPED   | EXITED
startup stall               | never      | down   | STOPPED   | STOPPED
diagnosed before ready      | always     | up     | BACKOFF 5 | BACKOFF
diagnosed before ready      | always     | down   | STOPPED   | STOPPED
diagnosed before ready      | on-failure | up     | BACKOFF 5 | BACKOFF
diagnosed before ready      | on-failure | down   | STOPPED   | STOPPED
diagnosed before ready      | never      | up     | STOPPED   | EXITED
diagnosed before ready      | never      | down   | STOPPED   | STOPPED
permanent before ready      | always     | up     | FATAL     | FATAL
permanent before ready      | always     | down   | STOPPED   | STOPPED
permanent before ready      | on-failure | up     | FATAL     | FATAL
permanent before ready      | on-failure | down   | STOPPED   | STOPPED
permanent before ready      | never      | up     | STOPPED   | EXITED
permanent before ready      | never      | down   | STOPPED   | STOPPED
permanent after ready       | always     | up     | STARTING  | STARTING
permanent after ready       | always     | down   | STOPPED   | STOPPED
permanent after ready       | on-failure | up     | STARTING  | STARTING
permanent after ready       | on-failure | down   | STOPPED   | STOPPED
permanent after ready       | never      | up     | STOPPED   | EXITED
permanent after ready       | never      | down   | STOPPED   | STOPPED
busy before ready           | always     | up     | BACKOFF 5 | BACKOFF
busy before ready           | always     | down   | STOPPED   | STOPPED
busy before ready           | on-failure | up     | BACKOFF 5 | BACKOFF
busy before ready           | on-failure | down   | STOPPED   | STOPPED
busy before ready           | never      | up     | BACKOFF 5 | BACKOFF
busy before ready           | never      | down   | STOPPED   | STOPPED
busy after ready            | always     | up     | BACKOFF 5 | BACKOFF
busy after ready            | always     | down   | STOPPED   | STOPPED
busy after ready            | on-failure | up     | BACKOFF 5 | BACKOFF
busy after ready            | on-failure | down   | STOPPED   | STOPPED
busy after ready            | never      | up     | BACKOFF 5 | BACKOFF
busy after ready            | never      | down   | STOPPED   | STOPPED
found by a new daemon       | always     | up     | STARTING  | STARTING
found by a new daemon       | always     | down   | STOPPED   | STOPPED
found by a new daemon       | on-failure | up     | STARTING  | STARTING
found by a new daemon       | on-failure | down   | STOPPED   | STOPPED
found by a new daemon       | never      | up     | STARTING  | STARTING
found by a new daemon       | never      | down   | STOPPED   | STOPPED
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in GRID.strip().splitlines()[1:]]

NOW = 10_000.0


def starting(spec: ProgramSpec, since: float = NOW) -> State:
    return walk(spec, State(), ev.StartRequested(), ev.Spawned(1, PID), now=since)


def running(spec: ProgramSpec) -> State:
    return walk(spec, starting(spec), ev.Observed(1, ALL_OK), now=NOW)


def asked(spec: ProgramSpec, *happened: Event) -> State:
    return walk(spec, State(), ev.StartRequested(), *happened, now=NOW)


def not_ready_in_time(spec: ProgramSpec) -> State:
    """It lives, and says so to the end, but is never ready."""
    state = starting(spec, NOW - spec.health.startup_budget)
    state = walk(spec, state, ev.Advanced(1, loading=False), now=NOW - 1)
    return walk(spec, state, ev.DeadlinePassed(), now=NOW)


def silent_start(spec: ProgramSpec) -> State:
    return walk(spec, starting(spec, NOW - spec.health.startup_stall), ev.DeadlinePassed(), now=NOW)


def unresponsive(spec: ProgramSpec) -> State:
    silence = ev.Observed(1, seen(Answer.SILENT, Answer.SILENT))
    return walk(spec, running(spec), *[silence] * spec.health.failure_threshold, now=NOW)


# Each leads to the moment in which it begins to leave, at NOW
DEPARTURES: dict[str, Callable[[ProgramSpec], State]] = {
    "exit 0 before ready": lambda spec: walk(spec, starting(spec), ev.Exited(1, ExitStatus(0)), now=NOW),
    "exit 1 before ready": lambda spec: walk(spec, starting(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "exit 0 after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus(0)), now=NOW),
    "exit 1 after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "signal after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus(signal=9)), now=NOW),
    "unknown status after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus()), now=NOW),
    "member lost": lambda spec: walk(spec, running(spec), ev.MemberLost(1, PID + 1, "Core"), now=NOW),
    "unresponsive": unresponsive,
    "stop requested": lambda spec: walk(spec, running(spec), ev.StopRequested(), now=NOW),
    "restart requested": lambda spec: walk(spec, running(spec), ev.RestartRequested(), now=NOW),
    "spawn refused": lambda spec: asked(spec, ev.SpawnFailed(1, SOME)),
    "spawn refused, permanent": lambda spec: asked(spec, ev.SpawnFailed(1, PERMANENT)),
    "spawn refused, busy": lambda spec: asked(spec, ev.SpawnFailed(1, BUSY)),
    "startup budget over": not_ready_in_time,
    "startup stall": silent_start,
    "diagnosed before ready": lambda spec: walk(spec, starting(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "permanent before ready": lambda spec: walk(spec, starting(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "permanent after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "busy before ready": lambda spec: walk(spec, starting(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "busy after ready": lambda spec: walk(spec, running(spec), ev.Exited(1, ExitStatus(1)), now=NOW),
    "found by a new daemon": lambda spec: leftover(spec, State(), NOW)[0],
}
# What its last words say about why it left, where they say anything; the sweep brings it
DIAGNOSES: dict[str, Failure] = {
    "diagnosed before ready": SOME,
    "permanent before ready": PERMANENT,
    "permanent after ready": PERMANENT,
    "busy before ready": BUSY,
    "busy after ready": BUSY,
}
LEAVING = (Phase.TERMINATING, Phase.KILLING, Phase.SWEEPING)


def leave(departure: str, spec: ProgramSpec, wanted: Wanted) -> State:
    """Depart, want that while it leaves, and let the world do its work, all at NOW."""
    state = DEPARTURES[departure](spec)
    assert state.phase in LEAVING
    if state.wanted is not wanted:
        state = walk(spec, state, ev.StartRequested() if wanted is Wanted.UP else ev.StopRequested(), now=NOW)
    if state.phase is not Phase.SWEEPING:
        state = walk(spec, state, ev.Exited(1, ExitStatus(signal=15)), now=NOW)
    assert state.phase is Phase.SWEEPING
    return walk(spec, state, ev.SweepFinished(state.incarnation, 0, DIAGNOSES.get(departure)), now=NOW)


def end(state: State) -> str:
    if state.phase is Phase.BACKOFF:
        assert state.deadline is not None
        return f"BACKOFF {state.deadline - NOW:g}"
    return state.phase.name


def with_policy(policy: RestartPolicy, spec: ProgramSpec = CHECKED) -> ProgramSpec:
    return replace(spec, restart=replace(spec.restart, policy=policy))


def test_the_grid_is_whole() -> None:
    """Every departure under every policy with either wish, once."""
    cells = [(departure, policy, wanted) for departure, policy, wanted, _, _ in ROWS]
    assert cells == [(d, p.value, w.value) for d in DEPARTURES for p in RestartPolicy for w in Wanted]


@pytest.mark.parametrize(("departure", "policy", "wanted", "expected", "word"), ROWS)
def test_grid(departure: str, policy: str, wanted: str, expected: str, word: str) -> None:
    state = leave(departure, with_policy(RestartPolicy(policy)), Wanted(wanted))
    assert (end(state), state.word) == (expected, word)
    assert state.wanted == wanted
    assert state.incarnation == (0 if "daemon" in departure else 1) + (expected == "STARTING")


@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize("departure", [name for name in DEPARTURES if name != "stop requested"])
def test_a_restart_asked_for_while_it_leaves_is_immediate_whatever_it_left_for(
    departure: str, policy: RestartPolicy
) -> None:
    spec = with_policy(policy)
    state = walk(spec, DEPARTURES[departure](spec), ev.RestartRequested(), now=NOW)
    assert state.phase in LEAVING
    state = walk(spec, state, ev.Exited(1, ExitStatus(1)), now=NOW)
    state = walk(spec, state, ev.SweepFinished(state.incarnation, 0, DIAGNOSES.get(departure)), now=NOW)
    assert state.phase is Phase.STARTING


@pytest.mark.parametrize("policy", RestartPolicy)
@pytest.mark.parametrize("departure", DEPARTURES)
def test_no_end_strands_whoever_waits_for_a_start(departure: str, policy: RestartPolicy) -> None:
    """Law 5: who waits looks at snapshots, so a snapshot in which nothing moves any more must tell that it is over."""
    state = leave(departure, with_policy(policy), Wanted.UP)
    if state.phase in (Phase.STOPPED, Phase.FATAL):
        assert settled("start", state, since=0)


# What a departure leaves behind -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("departure", "kind"),
    [
        ("exit 1 before ready", "exited"),
        ("exit 0 after ready", None),
        ("signal after ready", "exited"),
        ("member lost", "tree_incomplete"),
        ("unresponsive", "unresponsive"),
        ("stop requested", None),
        ("restart requested", None),
        ("spawn refused", "log"),
        ("spawn refused, busy", "port_taken"),
        ("startup budget over", "startup_budget"),
        ("startup stall", "startup_stall"),
        ("diagnosed before ready", "log"),  # what its last words say is better than how it ended
        ("permanent after ready", "spawn_failed"),
        ("found by a new daemon", None),
    ],
)
def test_a_failure_is_kept_for_people(departure: str, kind: str | None) -> None:
    state = leave(departure, CHECKED, Wanted.UP)
    assert (state.failure and state.failure.kind) == kind


def test_the_incident_of_a_refused_spawn_is_kept() -> None:
    state = DEPARTURES["spawn refused"](CHECKED)
    state = walk(CHECKED, state, ev.SweepFinished(1, 0, replace(SOME, incident="incidents/1")), now=NOW)
    assert state.failure is not None
    assert state.failure.incident == "incidents/1"


def test_a_busy_resource_is_no_strike() -> None:
    state = leave("spawn refused, busy", CHECKED, Wanted.UP)
    assert state.history == FRESH
    for turn in range(2, 20):  # far more often than the intensity allows failures
        assert state.deadline is not None
        refused = ev.SpawnFailed(turn, BUSY)
        state = walk(CHECKED, state, ev.DeadlinePassed(), refused, ev.SweepFinished(turn), now=state.deadline)
        assert state.phase is Phase.BACKOFF


def test_a_busy_resource_is_never_waited_for_in_a_loop_without_a_pause() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, backoff=0.0))
    state = leave("spawn refused, busy", spec, Wanted.UP)
    assert end(state) == "BACKOFF 1"


def test_a_permanent_failure_counts_once_however_patient_the_policy_is() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, intensity=1000))
    state = leave("spawn refused, permanent", spec, Wanted.UP)
    assert state.phase is Phase.FATAL
    assert state.failure is not None
    assert (state.failure.kind, state.failure.permanent) == ("spawn_failed", True)


def test_a_start_that_is_refused_is_not_taken_for_the_clean_exit_before_it() -> None:
    spec = with_policy(NEVER)
    state = leave("exit 0 after ready", spec, Wanted.UP)
    assert fleet.satisfied(state)
    refused = ev.SpawnFailed(2, PERMANENT)
    state = walk(spec, state, ev.StartRequested(), refused, ev.SweepFinished(2), now=NOW)
    assert not fleet.satisfied(state)


def test_who_was_ended_for_a_failure_is_not_done_though_it_exits_cleanly() -> None:
    spec = with_policy(NEVER)
    state = walk(spec, unresponsive(spec), ev.Exited(1, ExitStatus(0)), ev.SweepFinished(1), now=NOW)
    assert state.phase is Phase.STOPPED
    assert state.exited == ExitStatus(0)
    assert state.failure is not None
    assert not fleet.satisfied(state)


def test_a_clean_exit_is_done_though_it_failed_before() -> None:
    """Within the probation of a program without a check, while the failure before is still told."""
    spec = replace(UNCHECKED, restart=replace(UNCHECKED.restart, policy=ON_FAILURE))
    state = fail(spec, starting(spec), NOW)
    assert state.deadline is not None
    state = walk(spec, state, ev.DeadlinePassed(), ev.Spawned(2, PID), now=state.deadline)
    state = walk(spec, state, ev.DeadlinePassed(), now=NOW + 6)
    assert state.phase is Phase.RUNNING
    state = walk(spec, state, ev.Exited(2, ExitStatus(0)), ev.SweepFinished(2), now=NOW + 7)
    assert (state.phase, state.exited) == (Phase.STOPPED, ExitStatus(0))
    assert fleet.satisfied(state)


@pytest.mark.parametrize(
    ("departure", "policy", "phase"),
    [
        ("unresponsive", NEVER, Phase.TERMINATING),
        ("member lost", NEVER, Phase.KILLING),
        ("exit 1 after ready", NEVER, Phase.SWEEPING),
        ("exit 0 after ready", NEVER, Phase.SWEEPING),
        ("exit 0 after ready", ON_FAILURE, Phase.SWEEPING),
    ],
)
def test_a_start_asked_for_while_it_leaves_is_heard_where_the_policy_would_not_bring_it_back(
    departure: str, policy: RestartPolicy, phase: Phase
) -> None:
    spec = with_policy(policy)
    state = DEPARTURES[departure](spec)
    assert (state.phase, state.wanted) == (phase, Wanted.UP)
    gone = (ev.Exited(1, ExitStatus(signal=15)), ev.SweepFinished(1))
    assert walk(spec, state, *gone, now=NOW).phase is Phase.STOPPED
    assert walk(spec, state, ev.StartRequested(), *gone, now=NOW).phase is Phase.STARTING
    assert walk(spec, state, ev.StartRequested(), ev.StopRequested(), *gone, now=NOW).phase is Phase.STOPPED


def test_a_start_asked_for_while_it_leaves_does_not_forgive_what_the_policy_brings_back() -> None:
    state = walk(CHECKED, DEPARTURES["exit 1 before ready"](CHECKED), ev.StartRequested(), now=NOW)
    assert walk(CHECKED, state, ev.SweepFinished(1), now=NOW).phase is Phase.BACKOFF


def test_a_stop_that_got_stuck_is_done_when_the_last_orphan_is_gone() -> None:
    stuck = walk(CHECKED, DEPARTURES["stop requested"](CHECKED), ev.Exited(1, ExitStatus(0)), now=NOW)
    stuck = walk(CHECKED, stuck, ev.SweepStuck(1, ("Core (pid 101, state D)",)), now=NOW)
    assert (stuck.phase, stuck.wanted) == (Phase.FATAL, Wanted.DOWN)
    assert walk(CHECKED, stuck, ev.OrphansGone(1), now=NOW).phase is Phase.STOPPED


@pytest.mark.parametrize("departure", ["exit 1 after ready", "exit 0 after ready"])
def test_an_orphans_end_starts_nothing_that_the_policy_would_not_bring_back(departure: str) -> None:
    spec = with_policy(NEVER)
    state = walk(spec, DEPARTURES[departure](spec), ev.SweepStuck(1, ("Core (pid 101, state D)",)), now=NOW)
    assert state.phase is Phase.FATAL
    assert walk(spec, state, ev.OrphansGone(1), now=NOW).phase is not Phase.STARTING


def test_a_sweep_that_was_overdue_starts_nothing_that_the_policy_would_not_bring_back_either() -> None:
    spec = with_policy(NEVER)
    state = DEPARTURES["exit 1 after ready"](spec)
    assert state.deadline is not None
    state = walk(spec, state, ev.DeadlinePassed(), now=state.deadline)
    assert state.phase is Phase.FATAL
    assert walk(spec, state, ev.OrphansGone(1), now=NOW).phase is not Phase.STARTING


def test_orphans_that_go_bring_the_program_back() -> None:
    state = walk(CHECKED, DEPARTURES["signal after ready"](CHECKED), ev.SweepStuck(1, ("Core",)), now=NOW)
    assert (state.phase, state.orphaned) == (Phase.FATAL, True)
    state = walk(CHECKED, state, ev.OrphansGone(1), now=NOW)
    assert (state.phase, state.orphaned, state.history) == (Phase.STARTING, False, FRESH)


def test_what_may_not_be_ended_is_not_said_to_hang() -> None:
    """It has changed its user: a reset of the GPU would not help."""
    stuck = ev.SweepStuck(1, ("python (pid 101, state S)",), denied=True)
    state = walk(CHECKED, DEPARTURES["signal after ready"](CHECKED), stuck, now=NOW)
    assert (state.phase, state.orphaned) == (Phase.FATAL, True)
    assert state.failure is not None
    assert state.failure.kind == "not_permitted"
    assert "runs as another user by now: python (pid 101, state S)" in state.failure.summary
    assert "CAP_KILL" in state.failure.advice and "GPU" not in state.failure.advice
    assert walk(CHECKED, state, ev.OrphansGone(1), now=NOW).phase is Phase.STARTING


def test_orphans_that_go_after_a_stop_leave_nothing_to_sweep() -> None:
    state = walk(CHECKED, DEPARTURES["signal after ready"](CHECKED), ev.SweepStuck(1, ("Core",)), now=NOW)
    state = walk(CHECKED, state, ev.StopRequested(), now=NOW)
    assert (state.phase, state.orphaned) == (Phase.STOPPED, True)
    assert state.health_word is Word.UNHEALTHY, "it is not gone, whatever was asked for"
    assert walk(CHECKED, state, ev.StartRequested(), now=NOW).phase is Phase.SWEEPING
    state = walk(CHECKED, state, ev.OrphansGone(1), now=NOW)
    assert (state.phase, state.orphaned) == (Phase.STOPPED, False)
    assert walk(CHECKED, state, ev.StartRequested(), now=NOW).phase is Phase.STARTING


def test_a_person_cannot_start_beside_an_orphan_either() -> None:
    state = walk(CHECKED, DEPARTURES["signal after ready"](CHECKED), ev.SweepStuck(1, ("Core",)), now=NOW)
    state = walk(CHECKED, state, ev.StartRequested(), now=NOW)
    assert state.phase is Phase.SWEEPING
    assert walk(CHECKED, state, ev.SweepFinished(1), now=NOW).phase is Phase.STARTING
    assert walk(CHECKED, state, ev.SweepStuck(1, ("Core",)), now=NOW).phase is Phase.FATAL


def test_a_spawn_that_answers_only_after_its_sweep_is_not_forgotten() -> None:
    """A start is a request that yields a pid, perhaps late (a fork server): here after both graces and the sweep."""
    state = walk(CHECKED, State(), ev.StartRequested(), ev.RestartRequested(), now=NOW)
    for _ in range(2):  # the graces of TERMINATING and KILLING
        assert state.deadline is not None
        state = walk(CHECKED, state, ev.DeadlinePassed(), now=state.deadline)
    assert state.phase is Phase.SWEEPING
    state = walk(CHECKED, state, ev.SweepFinished(1), now=NOW)
    assert state.phase is Phase.SWEEPING, "nobody knows yet whether incarnation 1 lives"
    assert walk(CHECKED, state, ev.SpawnFailed(1, SOME), ev.SweepFinished(1), now=NOW).phase is Phase.STARTING
    state = walk(CHECKED, state, ev.Spawned(1, PID), now=NOW)
    assert (state.phase, state.pid) == (Phase.SWEEPING, None)
    assert walk(CHECKED, state, ev.SweepFinished(1), now=NOW).phase is Phase.STARTING


def test_a_spawn_that_answers_during_its_sweep_is_swept_too() -> None:
    """The sweep may have looked before it was there; so both must have ended."""
    state = walk(CHECKED, State(), ev.StartRequested(), ev.RestartRequested(), now=NOW)
    for _ in range(2):
        assert state.deadline is not None
        state = walk(CHECKED, state, ev.DeadlinePassed(), now=state.deadline)
    state, effects = step(CHECKED, state, ev.Spawned(1, PID), NOW)
    assert effects == (do.Sweep(1, CHECKED.stop.sweep_grace, CHECKED.stop.kill_grace),)
    state = walk(CHECKED, state, ev.SweepFinished(1), now=NOW)
    assert state.phase is Phase.SWEEPING
    assert walk(CHECKED, state, ev.SweepFinished(1), now=NOW).phase is Phase.STARTING


def test_a_spawn_that_answers_only_in_fatal_is_not_waited_for_afterwards() -> None:
    state = walk(CHECKED, State(), ev.StartRequested(), ev.RestartRequested(), now=NOW)
    while state.phase is not Phase.FATAL:  # nobody answers anything
        assert state.deadline is not None
        state = walk(CHECKED, state, ev.DeadlinePassed(), now=state.deadline)
    state, effects = step(CHECKED, state, ev.Spawned(1, PID), NOW)
    assert state.orphaned
    assert effects == (do.SendSignal(1, 9, tree=True), do.AwaitOrphans(1))
    state = walk(CHECKED, state, ev.StartRequested(), ev.SweepFinished(1), now=NOW)
    assert (state.phase, state.incarnation) == (Phase.STARTING, 2)


def given_up_without_an_answer() -> State:
    state = walk(CHECKED, State(), ev.StartRequested(), ev.RestartRequested(), now=NOW)
    while state.phase is not Phase.FATAL:
        assert state.deadline is not None
        state = walk(CHECKED, state, ev.DeadlinePassed(), now=state.deadline)
    return state


def test_orphans_that_go_before_the_spawn_answered_start_nothing_beside_it() -> None:
    state = walk(CHECKED, given_up_without_an_answer(), ev.OrphansGone(1), now=NOW)
    assert (state.phase, state.orphaned) == (Phase.FATAL, True)
    state, effects = step(CHECKED, state, ev.Spawned(1, PID), NOW)
    assert do.AwaitOrphans(1) in effects
    assert walk(CHECKED, state, ev.OrphansGone(1), now=NOW).phase is Phase.STARTING


def test_a_spawn_that_is_refused_after_the_orphans_went_leaves_nothing_to_wait_for() -> None:
    state = walk(CHECKED, given_up_without_an_answer(), ev.OrphansGone(1), now=NOW)
    state, effects = step(CHECKED, state, ev.SpawnFailed(1, SOME), NOW)
    if do.AwaitOrphans(1) in effects:
        state = walk(CHECKED, state, ev.OrphansGone(1), now=NOW)
    assert state.phase is Phase.STARTING


# A failure after a failure ----------------------------------------------------------------------------------


def fail(spec: ProgramSpec, state: State, now: float) -> State:
    """The present incarnation dies, and is swept at once."""
    dead = ev.Exited(state.incarnation, ExitStatus(1))
    return walk(spec, state, dead, ev.SweepFinished(state.incarnation), now=now)


def waits(spec: ProgramSpec, state: State, count: int) -> list[str]:
    """Where ``count`` failures lead, one after the other, each as soon as its predecessor's wait is over."""
    ends, now = [], NOW
    for _ in range(count):
        state = fail(spec, state, now)
        if state.phase is Phase.BACKOFF:
            assert state.deadline is not None
            ends.append(f"{state.deadline - now:g}")
            now = state.deadline
            state = walk(spec, state, ev.DeadlinePassed(), now=now)
        else:
            ends.append("at once" if state.phase is Phase.STARTING else state.phase.name)
        if state.phase is not Phase.STARTING:
            break
        state = walk(spec, state, ev.Spawned(state.incarnation, PID), now=now)
    return ends


def test_failing_starts_wait_longer_each_time_and_end_in_fatal() -> None:
    assert waits(CHECKED, starting(CHECKED), 9) == ["5", "10", "20", "40", "FATAL"]


def test_the_first_restart_after_readiness_is_free_and_the_backoff_begins_with_the_next() -> None:
    assert waits(CHECKED, running(CHECKED), 9) == ["at once", "5", "10", "20", "FATAL"]


def test_the_wait_has_a_cap() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, backoff_cap=15.0, intensity=7))
    assert waits(spec, starting(spec), 9) == ["5", "10", "15", "15", "15", "15", "FATAL"]


def test_without_a_backoff_every_restart_is_immediate_until_fatal() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, backoff=0.0))
    assert waits(spec, starting(spec), 9) == ["at once"] * 4 + ["FATAL"]


def test_fatal_says_how_often_and_what_last() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, intensity=1))
    state = fail(spec, starting(spec), NOW)
    assert state.phase is Phase.FATAL
    assert state.failure is not None
    assert "1 failures within 3600 s without a lasting readiness" in state.failure.summary
    assert "exited with status 1 before it was ready" in state.failure.summary


def readied(spec: ProgramSpec, state: State, now: float) -> State:
    """The start that is under way gets its leader, and is ready at once."""
    number = state.incarnation
    return walk(spec, state, ev.Spawned(number, PID), ev.Observed(number, ALL_OK), now=now)


def test_readiness_forgives_when_it_has_lasted_twice_as_long_for_each_failure() -> None:
    state = starting(CHECKED)
    for failures, probation in enumerate((10.0, 20.0, 40.0), start=1):
        state = walk(CHECKED, fail(CHECKED, state, NOW), ev.DeadlinePassed(), now=NOW + 1000)
        ready = readied(CHECKED, state, NOW + 1000)
        assert (ready.phase, len(ready.history.failures), ready.failure) == (Phase.RUNNING, failures, None)
        assert ready.deadline == NOW + 1000 + probation
        over = walk(CHECKED, ready, ev.DeadlinePassed(), now=ready.deadline)
        assert (over.history, over.deadline) == (FRESH, None)
        assert fail(CHECKED, over, NOW + 5000).phase is Phase.STARTING, "the first restart after it is immediate"
        state = walk(CHECKED, state, ev.Spawned(state.incarnation, PID), now=NOW + 1000)


@pytest.mark.parametrize("lives", [0.0, 1.0, 9.0])
def test_ready_dead_ready_dead_ends_like_any_other_loop(lives: float) -> None:
    """However short its readiness is: it is no reason to start it at once, for ever."""
    state, now, ends = running(CHECKED), NOW, []
    for _ in range(9):
        state, now = fail(CHECKED, state, now + lives), now + lives
        ends.append(state.phase.name if state.deadline is None else f"{state.deadline - now:g}")
        if state.phase is Phase.FATAL:
            break
        if state.phase is Phase.BACKOFF:
            assert state.deadline is not None
            now = state.deadline
            state = walk(CHECKED, state, ev.DeadlinePassed(), now=now)
        else:
            ends[-1] = "at once"
        state = readied(CHECKED, state, now)
    assert ends == ["at once", "5", "10", "20", "FATAL"]


def test_one_permanent_failure_after_readiness_may_be_wrong_and_the_second_is_not() -> None:
    """Also when it was ready for long in between: the diagnosis said that it would come again, and it came again."""
    state = running(CHECKED)
    died = (ev.Exited(1, ExitStatus(1)), ev.SweepFinished(1, 0, PERMANENT))
    state = walk(CHECKED, state, *died, now=NOW)
    assert state.phase is Phase.STARTING
    state = readied(CHECKED, state, NOW)
    assert state.deadline is not None
    state = walk(CHECKED, state, ev.DeadlinePassed(), now=state.deadline + 600)
    assert state.history.failures == ()
    again = (ev.Exited(2, ExitStatus(1)), ev.SweepFinished(2, 0, PERMANENT))
    assert walk(CHECKED, state, *again, now=NOW + 3700).phase is Phase.STARTING, "the window is over"
    state = walk(CHECKED, state, *again, now=NOW + 3000)
    assert (state.phase, state.failure) == (Phase.FATAL, PERMANENT)
    assert walk(CHECKED, state, ev.StartRequested(), now=NOW + 3001).history == FRESH


def test_a_persons_word_forgives() -> None:
    spec = replace(CHECKED, restart=replace(RESTART, intensity=1))
    state = fail(spec, starting(spec), NOW)
    assert state.phase is Phase.FATAL
    state = walk(spec, state, ev.StartRequested(), now=NOW)
    assert (state.phase, state.history, state.failure) == (Phase.STARTING, FRESH, None)


@pytest.mark.parametrize(
    ("third", "expected", "kept"),
    # seconds after the first failure | where the third leads | how many still count
    [(59, "FATAL", 3), (60, "BACKOFF 10", 2), (65, "BACKOFF 10", 2), (66, "BACKOFF 5", 1)],
)
def test_failures_older_than_the_window_are_forgotten(third: float, expected: str, kept: int) -> None:
    """A program that is never ready fails at 0, at 6 and once more; three within a minute are too many."""
    spec = replace(CHECKED, restart=replace(RESTART, intensity=3, window=60.0))
    state = starting(spec)
    for at in (0, 6):
        state = fail(spec, state, NOW + at)
        assert state.deadline is not None
        state = walk(spec, state, ev.DeadlinePassed(), ev.Spawned(state.incarnation + 1, PID), now=state.deadline)
    state = fail(spec, state, NOW + third)
    wait = f" {state.deadline - NOW - third:g}" if state.deadline is not None else ""
    assert (state.phase.name + wait, len(state.history.failures)) == (expected, kept)


def test_a_new_incarnation_inherits_nothing_of_the_one_before() -> None:
    state = starting(CHECKED)
    state = walk(CHECKED, state, ev.Advanced(1, True, "loading weights", 3, 5), now=NOW + 10)
    state = walk(CHECKED, state, ev.Observed(1, ALL_OK), now=NOW + 20)
    state = walk(CHECKED, state, ev.Exited(1, ExitStatus(1)), ev.SweepFinished(1), now=NOW + 30)
    assert (state.phase, state.incarnation, state.starts, state.restarts) == (Phase.STARTING, 2, 2, 1)
    assert (state.pid, state.ready_since, state.startup.loaded_at, state.startup.loading, state.leaving) == (None,) * 5
    assert state.health == Health()
    state = walk(CHECKED, state, ev.Spawned(2, PID), now=NOW + 30)
    late = walk(CHECKED, state, ev.Advanced(2, loading=False), now=NOW + 1800)
    assert late.deadline == NOW + 30 + CHECKED.health.startup_budget, "its predecessor's loading extends nothing"
    state = fail(CHECKED, state, NOW + 40)
    assert state.phase is Phase.BACKOFF, "its predecessor's readiness is not its own"
    assert "before it was ready" in state.reason


@pytest.mark.parametrize("request_", [ev.StartRequested(), ev.RestartRequested()], ids=["start", "restart"])
def test_a_persons_word_ends_the_backoff_and_forgives(request_: Event) -> None:
    state = fail(CHECKED, starting(CHECKED), NOW)
    assert state.phase is Phase.BACKOFF
    state = walk(CHECKED, state, request_, now=NOW + 1)
    assert (state.phase, state.history) == (Phase.STARTING, FRESH)


def test_a_restart_by_a_persons_word_forgives() -> None:
    state = fail(CHECKED, starting(CHECKED), NOW)
    assert state.deadline is not None
    state = walk(CHECKED, state, ev.DeadlinePassed(), ev.Spawned(2, PID), now=state.deadline)
    assert state.history != FRESH
    assert walk(CHECKED, state, ev.RestartRequested(), now=NOW + 10).history == FRESH


def test_the_first_reason_to_leave_stays_the_reason() -> None:
    """A restart was asked for; that the spawn is refused as well is the next start's business, not this one's."""
    state = walk(CHECKED, State(), ev.StartRequested(), ev.RestartRequested(), now=NOW)
    state = walk(CHECKED, state, ev.SpawnFailed(1, PERMANENT), ev.SweepFinished(1), now=NOW)
    assert (state.phase, state.incarnation) == (Phase.STARTING, 2)


# Without a readiness check ----------------------------------------------------------------------------------


def test_without_a_check_it_is_ready_by_age_and_forgiven_only_after_its_probation() -> None:
    state = starting(UNCHECKED)
    assert state.deadline == NOW + 1
    state = fail(UNCHECKED, state, NOW)
    assert state.deadline is not None
    state = walk(UNCHECKED, state, ev.DeadlinePassed(), ev.Spawned(2, PID), now=state.deadline)
    began = state.startup.spawned
    assert began is not None
    state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=began + 1)
    assert state.phase is Phase.RUNNING
    assert state.ready
    assert len(state.history.failures) == 1, "being alive is no proof"
    assert state.failure is not None
    assert state.deadline == began + 10, "twice the backoff"
    state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=began + 10)
    assert state.phase is Phase.RUNNING
    assert (state.history, state.failure, state.deadline) == (FRESH, None, None)


def test_without_a_check_a_death_during_the_probation_is_a_strike() -> None:
    """Else a program that dies after two seconds would be restarted for ever."""
    state = starting(UNCHECKED)
    ends, now = [], NOW
    for _ in range(9):
        state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=now + 1)
        assert state.phase is Phase.RUNNING
        now += 2
        state = fail(UNCHECKED, state, now)
        ends.append(state.phase)
        if state.phase is Phase.FATAL:
            break
        if state.phase is Phase.BACKOFF:
            assert state.deadline is not None
            now = state.deadline
            state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=now)
        state = walk(UNCHECKED, state, ev.Spawned(state.incarnation, PID), now=now)
    assert ends == [Phase.STARTING, *[Phase.BACKOFF] * 3, Phase.FATAL]


def test_without_a_check_it_is_not_ready_before_it_lives() -> None:
    """The spawn's answer comes after ``ready_after``: nothing lives that could be ready."""
    state = walk(UNCHECKED, State(), ev.StartRequested(), now=NOW)
    state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=NOW + 1)
    assert state.phase is Phase.STARTING


def test_without_a_check_the_pid_of_a_slow_spawn_is_not_lost() -> None:
    state = walk(UNCHECKED, State(), ev.StartRequested(), now=NOW)
    state = walk(UNCHECKED, state, ev.DeadlinePassed(), now=NOW + 1)
    assert walk(UNCHECKED, state, ev.Spawned(1, PID), now=NOW + 2).pid == PID


# The arithmetic ---------------------------------------------------------------------------------------------


def after(count: int, spec: RestartSpec = RESTART, *, was_ready: bool = False, apart: float = 0.0) -> History:
    """The history after so many failures, ``apart`` seconds each."""
    history = FRESH
    for n in range(count):
        history = restart.record(spec, history, NOW + n * apart, was_ready=was_ready and n == 0)
    return history


@pytest.mark.parametrize(
    ("failures", "unready", "was_ready"),
    # failures since ready | seconds when it never was ready | seconds when the first of them was of a ready one
    [(0, 0, 0), (1, 5, 0), (2, 10, 5), (3, 20, 10), (4, 40, 20), (6, 160, 80), (7, 300, 160), (8, 300, 300)],
)
def test_delay(failures: int, unready: float, was_ready: float) -> None:
    assert restart.delay(RESTART, after(failures)) == unready
    assert restart.delay(RESTART, after(failures, was_ready=True)) == was_ready


def test_delay_does_not_overflow() -> None:
    endless = RestartSpec(intensity=10**6, window=1e12)
    history = History(tuple(float(n) for n in range(5000)))
    assert restart.delay(endless, history) == endless.backoff_cap


def test_a_constant_factor_does_not_grow() -> None:
    constant = replace(RESTART, backoff_factor=1.0)
    assert [restart.delay(constant, after(n)) for n in range(1, 5)] == [5, 5, 5, 5]


def test_only_the_first_failure_after_readiness_is_free() -> None:
    history = restart.record(RESTART, after(1), NOW, was_ready=True)
    assert not history.free, "it was not ready before the failure that came first"
    assert restart.delay(RESTART, history) == 10


@pytest.mark.parametrize(("failures", "exhausted"), [(0, False), (4, False), (5, True), (6, True)])
def test_intensity(failures: int, exhausted: bool) -> None:
    assert restart.exhausted(RESTART, after(failures)) is exhausted


@pytest.mark.parametrize(
    ("apart", "kept"),
    # seconds between failures | how many of six are within the window of an hour
    [(0.0, 6), (600.0, 6), (720.0, 5), (1200.0, 3), (3599.0, 2), (3600.0, 1), (86400.0, 1)],
)
def test_window(apart: float, kept: int) -> None:
    history = after(6, apart=apart)
    assert len(history.failures) == kept
    assert list(history.failures) == sorted(history.failures)


@pytest.mark.parametrize(
    ("backoff", "ready_after", "failures", "probation"),
    [
        (5.0, None, 1, 10.0),
        (5.0, None, 4, 80.0),
        (5.0, None, 5000, 600.0),
        (60.0, None, 1, 120.0),
        (0.0, None, 1, 10.0),  # it has answered, which may be worth little
        (400.0, None, 2, 800.0),
        # without a check
        (5.0, 1.0, 1, 10.0),
        (5.0, 60.0, 1, 60.0),
        (0.0, 1.0, 1, 1.0),  # nobody wants to wait for a proof
        (0.0, 1.0, 3, 4.0),
        (0.0, 3600.0, 2, 3600.0),
    ],
)
def test_probation(backoff: float, ready_after: float | None, failures: int, probation: float) -> None:
    history = History(tuple(float(n) for n in range(failures)))
    assert restart.probation(replace(RESTART, backoff=backoff), history, ready_after) == probation


@pytest.mark.parametrize(
    ("policy", "failed", "back"),
    [
        (ALWAYS, True, True),
        (ALWAYS, False, True),
        (ON_FAILURE, True, True),
        (ON_FAILURE, False, False),
        (NEVER, True, False),
        (NEVER, False, False),
    ],
)
def test_wanted_back(policy: RestartPolicy, failed: bool, back: bool) -> None:
    assert restart.wanted_back(policy, failed=failed) is back


# The deadlines of a start -----------------------------------------------------------------------------------


def test_loading_extends_the_budget_and_being_alive_does_not() -> None:
    budget, stall = CHECKED.health.startup_budget, CHECKED.health.startup_stall
    state = starting(CHECKED)
    assert state.deadline == NOW + stall
    state = walk(CHECKED, state, ev.Advanced(1, loading=False), now=NOW + 1700)
    assert state.deadline == NOW + budget
    state = walk(CHECKED, state, ev.Advanced(1, True, "loading weights", 3, 5), now=NOW + 1750)
    assert state.deadline == NOW + 1750 + stall
    assert str(state.startup.loading) == "loading weights 3/5"
    state = walk(CHECKED, state, ev.Advanced(1, loading=False), now=NOW + 1760)
    assert state.deadline == NOW + 1750 + stall
    assert str(state.startup.loading) == "loading weights 3/5"


def test_a_stall_is_called_a_stall_at_its_very_deadline() -> None:
    """8.2 + 120 - 8.2 is less than 120, in floats."""
    spec = replace(CHECKED, health=replace(CHECKED.health, startup_stall=120.0))
    state = starting(spec, 8.2)
    assert state.deadline is not None
    state = walk(spec, state, ev.DeadlinePassed(), now=state.deadline)
    assert state.leaving is not None
    assert state.leaving.cause == "startup_stall"


def test_step_is_a_function() -> None:
    """The same question has the same answer."""
    state = running(CHECKED)
    event = ev.Exited(1, ExitStatus(1))
    assert step(CHECKED, state, event, NOW) == step(CHECKED, state, event, NOW)


# The same unexplained exception at every start --------------------------------------------------------------


def _starts(*failures: Failure | None, spec: ProgramSpec = CHECKED) -> State:
    """Starts that die one after the other, each with what its last words say; a None is one that became ready."""
    state, now = State(), NOW
    for failure in failures:
        if state.phase is Phase.STOPPED:
            state = walk(spec, state, ev.StartRequested(), now=now)
        elif state.phase is Phase.BACKOFF:
            assert state.deadline is not None
            now = state.deadline
            state = walk(spec, state, ev.DeadlinePassed(), now=now)
        assert state.phase is Phase.STARTING, state.phase
        state = walk(spec, state, ev.Spawned(state.incarnation, PID), now=now)
        state = walk(spec, state, ev.Exited(state.incarnation, ExitStatus(1)), now=now)
        state = walk(spec, state, ev.SweepFinished(state.incarnation, 0, failure), now=now)
    return state


def _unknown(words: str) -> Failure:
    return Failure("unknown", words, "No known cause.")


def test_three_starts_that_die_of_the_same_exception_end_in_fatal() -> None:
    odd = "exited with status 1: ValueError: odd (raised in step (engine/core.py))"
    assert _starts(*[_unknown(odd)] * 2).phase is Phase.BACKOFF
    state = _starts(*[_unknown(odd)] * 3)
    assert state.phase is Phase.FATAL
    assert state.failure is not None
    assert "3 starts in a row died of the same exception" in state.failure.summary
    assert "ValueError: odd" in state.failure.summary


def test_addresses_and_numbers_make_no_other_exception_of_it() -> None:
    words = [f"KeyError: <Thing at 0x7f{n}a> in process {n}" for n in range(3)]
    assert _starts(*map(_unknown, words)).phase is Phase.FATAL


def test_other_exceptions_and_known_ones_are_counted_by_the_intensity_alone() -> None:
    assert _starts(_unknown("a"), _unknown("b"), _unknown("a"), _unknown("b")).phase is Phase.BACKOFF
    assert _starts(_unknown("a"), _unknown("a"), SOME, _unknown("a")).phase is Phase.BACKOFF
    assert _starts(*[SOME] * 4).phase is Phase.BACKOFF
    assert _starts(*[None] * 4).phase is Phase.BACKOFF


def test_what_an_engine_dies_of_after_it_was_ready_is_not_counted_as_a_start() -> None:
    history = FRESH
    for at in range(4):
        history = restart.record(RESTART, history, float(at), was_ready=True)
    assert not restart.repeats(history)


def test_a_readiness_that_has_lasted_forgets_the_exception() -> None:
    history = FRESH
    for at in range(2):
        history = restart.record(RESTART, history, float(at), was_ready=False, unexplained="ValueError: odd")
    history = restart.record(RESTART, restart.forgiven(history), 3.0, was_ready=False, unexplained="ValueError: odd")
    assert not restart.repeats(history)
