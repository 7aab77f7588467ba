"""What a new daemon does with what a former one has recorded: every state that can be reached, through the file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core import health as hl
from llm_supervisor.core.effect import Effect
from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.core.health import Answer
from llm_supervisor.core.hold import hold
from llm_supervisor.core.program import step
from llm_supervisor.core.recovery import Remnant, leftover, recovered
from llm_supervisor.core.restart import History
from llm_supervisor.core.serialize import from_record, to_record
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Cause, Loading, Phase, Startup, State, Wanted

from .diagram import walk as every_state
from .fake_world import FakeWorld, Stage, act
from .makers import ALL_OK, CHECKED, PID, UNCHECKED, at, walk

NOW = 1000.0
ALIVE = Remnant(PID, remains=True, began=True)
DEAD = Remnant(None, remains=False, began=True)
HEADLESS = Remnant(None, remains=True, began=True)
NEVER = Remnant(None, remains=False, began=False)
FOUND = (ALIVE, DEAD, HEADLESS, NEVER)


def test_a_record_is_plain_and_says_all_but_the_health() -> None:
    seen = 0
    for _, state, _ in every_state():
        text = json.dumps(to_record(state))
        assert from_record(json.loads(text)) == replace(state, health=hl.NEW)
        seen += 1
    assert seen > 100


# As version 0.1.0 wrote it before ``Startup`` was a value of its own
FLAT = """
{"phase": "starting", "wanted": "up", "incarnation": 3, "pid": 4711, "deadline": 1890.5, "began": 90.25,
"spawned": 90.5, "alive_since": 90.5, "spawning": false, "warm": true, "cold_next": false, "cold_took": 41.5,
"down_since": 88.0, "sweeps": 0, "ready_since": null, "loaded_at": 99.0, "stirred_at": 99.5,
"loading": {"step": "loading weights", "done": 3, "total": 5}, "leaving": null,
"exited": {"code": null, "signal": 9}, "failure": {"kind": "x", "summary": "was killed by signal 9", "advice": "",
"permanent": null, "incident": null, "busy": false}, "history": {"failures": [88.0], "free": true}, "orphaned": false,
"starts": 3, "restarts": 2, "reason": "not asked yet"}
"""


def test_a_record_of_the_first_version_is_read_and_written_as_it_was() -> None:
    record = json.loads(FLAT)
    state = from_record(record)
    startup = Startup(
        90.5, 90.5, False, True, loaded_at=99.0, stirred_at=99.5, loading=Loading("loading weights", 3, 5)
    )
    assert (state.phase, state.startup, state.history) == (Phase.STARTING, startup, History((88.0,), True))
    record["history"] |= {"permanent": [], "unexplained": "", "in_a_row": 0}  # which an older daemon leaves out
    assert json.loads(json.dumps(to_record(state))) == record, "an older daemon reads it as well"


def test_a_record_of_another_version() -> None:
    record = to_record(at(Phase.RUNNING))
    assert from_record(record | {"mood": "fine"}) == from_record(record), "what we do not know is left out"
    del record["restarts"]
    assert from_record(record).restarts == 0, "what it does not say is as at the beginning"
    for wrong in ({}, record | {"phase": "dancing"}, record | {"history": {"failures": 3}}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            from_record(wrong)


@pytest.mark.parametrize("found", FOUND, ids=str)
def test_whatever_was_recorded_it_goes_on(found: Remnant) -> None:
    """Nothing starts that was not wanted, nor beside what lives, and every waiting phase has its deadline."""
    for spec, state, _ in every_state():
        after, effects = recovered(spec, replace(state, health=hl.NEW), found, NOW)
        assert after.wanted is state.wanted
        assert not [effect for effect in effects if isinstance(effect, do.Spawn)], "first it is looked what is there"
        waits = after.phase not in (Phase.STOPPED, Phase.FATAL, Phase.RUNNING)
        assert not waits or after.deadline is not None
        assert not waits or after.down_since is not None, "nobody waits for it for ever"
        if found.remains and after.phase in (Phase.STOPPED, Phase.BACKOFF):
            pytest.fail(f"{state} is {after.phase} though something of it lives")
        assert (after.restarts, after.starts, after.history) == (state.restarts, state.starts, state.history)


@pytest.mark.parametrize("found", FOUND, ids=str)
def test_a_record_that_does_not_say_since_when_it_is_down_says_so_from_now_on(found: Remnant) -> None:
    """Another version's. Else a request would wait as long as it is not back, whatever the limit."""
    for spec, state, _ in every_state():
        after, _ = recovered(spec, replace(state, health=hl.NEW, down_since=None), found, NOW)
        if after.phase not in (Phase.STOPPED, Phase.FATAL, Phase.RUNNING):
            assert (after.down_since, hold(after, 30.0, NOW + 900).until) == (NOW, NOW + 30)


def test_what_a_former_daemon_left_is_waited_for_within_the_limit() -> None:
    state, _ = leftover(CHECKED, State(), NOW)
    assert state.phase is Phase.SWEEPING
    assert hold(state, 30.0, NOW + 900).until == NOW + 30
    state = walk(CHECKED, state, ev.SweepFinished(state.incarnation), now=NOW + 1)
    assert state.phase is Phase.STARTING
    assert hold(state, 30.0, NOW + 900).until == NOW + 30


def go_on(phase: Phase, found: Remnant, spec: ProgramSpec = CHECKED) -> tuple[State, tuple[Effect, ...]]:
    return recovered(spec, replace(at(phase, spec), health=hl.NEW), found, NOW)


def test_what_runs_runs_on() -> None:
    state, effects = go_on(Phase.RUNNING, ALIVE)
    assert state.phase is Phase.RUNNING
    assert effects == (do.BeginProbing(1), do.TakeBaseline(1))
    assert state.health_word is hl.Word.UNKNOWN, "nobody has asked it yet"
    assert not state.ready
    after, effects = step(CHECKED, state, ev.Observed(1, ALL_OK), NOW + 1)
    assert (after.ready, effects) == (True, ())


def test_what_has_no_check_is_ready_for_being_alive() -> None:
    assert go_on(Phase.RUNNING, ALIVE, UNCHECKED)[0].ready


def test_one_wrong_answer_of_an_adopted_program_ends_nothing() -> None:
    state, _ = go_on(Phase.RUNNING, ALIVE)
    silent = replace(ALL_OK, liveness=hl.ProbeResult(Answer.SILENT), catalogue=None, canary=None)
    assert walk(CHECKED, state, ev.Observed(1, silent), now=NOW + 1).phase is Phase.RUNNING


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.STARTING])
@pytest.mark.parametrize("found", [DEAD, HEADLESS], ids=["dead", "headless"])
def test_what_died_meanwhile_has_died(phase: Phase, found: Remnant) -> None:
    """Swept, and then back as if somebody had seen it: at once after readiness, else with a strike."""
    state, effects = go_on(phase, found)
    assert state.phase is Phase.SWEEPING
    assert isinstance(effects[-1], do.Sweep)
    assert state.leaving is not None
    assert (state.leaving.cause, state.leaving.was_ready) == (Cause.EXITED, phase is Phase.RUNNING)
    assert state.exited == ExitStatus()
    after = walk(CHECKED, state, ev.SweepFinished(1), now=NOW + 1)
    assert after.phase is (Phase.STARTING if phase is Phase.RUNNING else Phase.BACKOFF)
    assert (after.down_since is not None) and len(after.history.failures) == 1


def test_a_start_goes_on_with_new_patience() -> None:
    spec = replace(CHECKED, health=replace(CHECKED.health, startup_budget=50.0, startup_stall=20.0))
    state, effects = recovered(spec, replace(at(Phase.STARTING, spec), health=hl.NEW), ALIVE, NOW)
    assert (state.phase, effects) == (Phase.STARTING, (do.BeginProbing(1),))
    assert state.deadline == NOW + 20.0, "though its budget was over long ago: nobody was there to see it advance"
    assert walk(spec, state, ev.Observed(1, ALL_OK), now=NOW + 1).phase is Phase.RUNNING


def test_a_start_of_which_nobody_knows_whether_it_began_is_swept_without_a_strike() -> None:
    state = walk(CHECKED, State(), ev.StartRequested())
    after, _ = recovered(CHECKED, replace(state, health=hl.NEW), NEVER, NOW)
    assert after.phase is Phase.SWEEPING
    again = walk(CHECKED, after, ev.SweepFinished(1), now=NOW)
    assert again.phase is Phase.STARTING
    assert again.history.failures == ()


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.FATAL, Phase.BACKOFF])
def test_what_waits_or_was_given_up_stays_so(phase: Phase) -> None:
    before = at(phase, UNCHECKED)
    if phase is Phase.FATAL:
        before = replace(before, orphaned=False)
    after, effects = recovered(UNCHECKED, replace(before, health=hl.NEW), DEAD, NOW)
    assert after == replace(before, health=hl.NEW, sweeps=0)
    assert effects == (() if phase is Phase.BACKOFF else (do.CloseListener(),))


def test_orphans_that_could_not_be_killed_are_waited_for_again() -> None:
    state, effects = go_on(Phase.FATAL, HEADLESS)
    assert state.phase is Phase.FATAL
    assert do.AwaitOrphans(1) in effects
    assert walk(CHECKED, state, ev.OrphansGone(1), now=NOW).phase is Phase.STARTING


@pytest.mark.parametrize("wanted", list(Wanted))
def test_what_was_leaving_goes_on_leaving(wanted: Wanted) -> None:
    before = replace(at(Phase.TERMINATING), wanted=wanted, health=hl.NEW)
    state, effects = recovered(CHECKED, before, ALIVE, NOW)
    assert state.phase is Phase.TERMINATING
    assert do.SendSignal(1, CHECKED.stop.signal) in effects
    done = walk(CHECKED, state, ev.Exited(1, ExitStatus()), ev.SweepFinished(1), now=NOW)
    assert done.phase is (Phase.STOPPED if wanted is Wanted.DOWN else Phase.STARTING)


def test_an_adopted_program_is_asked_at_once() -> None:
    """Otherwise nobody would know for a whole period how it is."""

    async def scene(stage: Stage) -> None:
        await stage.at(0.5)
        assert stage.state.ready

    stage = act(scene, recorded=at(Phase.RUNNING), prepare=_found)
    assert stage.world.diary[0] == (0.0, "adopt 1")
    assert "spawn" not in str(stage.world.diary)
    assert {signal for _, signal, _ in stage.world.asks} == {"liveness", "catalogue"}


def test_its_exit_is_noticed() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.exit(ExitStatus())
        await stage.until(Phase.RUNNING, 2)

    stage = act(scene, recorded=at(Phase.RUNNING), prepare=_found)
    assert stage.state.restarts == 1


def _found(world: FakeWorld) -> None:
    world.found = ALIVE
