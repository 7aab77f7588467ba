"""The runner, on virtual time: what it performs and when, how often it asks, and how it ends.

Times are seconds since the scene began; nothing here takes any.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest

from llm_supervisor.core import event as ev
from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.core.health import Answer, ProbeResult, Word
from llm_supervisor.core.probe import ProbePlan, Step
from llm_supervisor.core.program import TABLE
from llm_supervisor.core.state import Cause, Phase, Wanted
from llm_supervisor.supervision.runner import HEARTBEAT
from tests.core.fake_world import ASKING, ENGINE_ASKING, FakeWorld, Stage, act
from tests.core.makers import BUSY, CHECKED, ENGINE, PERMANENT, PID, SOME, UNCHECKED
from tests.support.virtual_time import Stranded, play


def given(**facts: object) -> Callable[[FakeWorld], None]:
    """A world with these attributes."""

    def prepare(world: FakeWorld) -> None:
        for name, value in facts.items():
            assert hasattr(world, name)
            setattr(world, name, value)

    return prepare


def never(at: float) -> Callable[[Stage], object]:
    """A scene in which nobody does anything until then."""

    async def scene(stage: Stage) -> None:
        await stage.at(at)

    return scene


NOBODY_ANSWERS = {"liveness": Answer.REFUSED}


# A life -----------------------------------------------------------------------------------------------------


def test_a_whole_life() -> None:
    """Start, ready, death, sweep, start: each at its time."""

    async def scene(stage: Stage) -> None:
        await stage.at(10)
        stage.world.exit(ExitStatus(1))
        await stage.until(Phase.RUNNING, 2)

    stage = act(scene, prepare=given(spawn_takes=0.25, answers_from=3.0, sweep_takes=2.0))
    assert stage.phases == [
        (0.0, "STARTING"),
        (3.25, "RUNNING"),
        (10.0, "SWEEPING"),
        (12.0, "STARTING"),
        (15.25, "RUNNING"),
    ]
    assert stage.world.diary == [
        (0.0, "spawn 1"),
        (3.25, "baseline 1"),
        (10.0, "sweep"),
        (12.0, "spawn 2"),
        (15.25, "baseline 2"),
    ]
    assert (stage.state.pid, stage.state.restarts, stage.state.exited) == (PID + 2, 1, ExitStatus(1))


def test_a_program_that_is_not_to_start_by_itself_waits_for_a_word() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(1000)
        assert stage.state.phase is Phase.STOPPED
        assert stage.world.diary == []
        stage.runner.post(ev.StartRequested())
        assert await stage.until(Phase.RUNNING) == 1000

    act(scene, replace(CHECKED, autostart=False))


@pytest.mark.parametrize(("autostart", "then"), [(True, (2.0, "STARTING")), (False, (2.0, "STOPPED"))])
def test_what_a_former_daemon_left_is_swept_before_anything_else(autostart: bool, then: tuple[float, str]) -> None:
    spec = replace(CHECKED, autostart=autostart)
    stage = act(never(2.5), spec, sweep_first=True, prepare=given(sweep_takes=2.0, answers_from=9.0))
    assert stage.phases == [(0.0, "SWEEPING"), then]
    assert stage.world.diary[0] == (0.0, "sweep")
    assert stage.world.diary[1] == (2.0, "spawn 1" if autostart else "close listener")


def test_the_loss_of_a_member_kills_the_tree_without_a_grace() -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(Phase.RUNNING)
        await stage.at(7)
        stage.world.lose_member()
        await stage.until(Phase.RUNNING, 2)

    stage = act(scene)
    assert stage.world.diary[2:5] == [(7.0, "signal 9 tree"), (7.0, "sweep"), (7.0, "spawn 2")]
    assert stage.published[-1][2].exited == ExitStatus(signal=9)


def test_a_late_word_of_an_older_incarnation_is_not_even_published() -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(Phase.RUNNING)
        stage.world.exit(ExitStatus(1))
        await stage.until(Phase.RUNNING, 2)
        count = len(stage.published)
        stage.runner.post(ev.Exited(1, ExitStatus(1)))
        stage.runner.post(ev.MemberLost(1, PID + 1, "Core"))
        await stage.at(stage.now + 1)
        assert len(stage.published) == count

    act(scene)


# The budget of a start --------------------------------------------------------------------------------------


def test_a_start_has_half_an_hour() -> None:
    """It lives and burns CPU time, but never answers."""
    stage = act(never(1810), prepare=given(busy=True, answers=NOBODY_ANSWERS))
    assert stage.phases == [
        (0.0, "STARTING"),
        (1800.0, "TERMINATING"),
        (1801.0, "SWEEPING"),
        (1801.0, "BACKOFF"),
        (1806.0, "STARTING"),
    ]
    assert stage.state.failure is not None
    assert stage.state.failure.kind == Cause.BUDGET
    assert stage.state.failure.summary == "not ready within 1800 s: liveness: refused"


def test_a_start_without_any_sign_of_life_has_ten_minutes() -> None:
    stage = act(never(601.5), prepare=given(answers=NOBODY_ANSWERS))
    assert stage.phases[1] == (600.0, "TERMINATING")
    assert stage.state.failure is not None
    assert stage.state.failure.kind == Cause.STARTUP_STALL


def test_who_worked_once_and_then_stands_still_has_ten_minutes_from_then() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100.2)
        stage.world.busy = False
        await stage.until(Phase.TERMINATING)

    assert act(scene, prepare=given(answers=NOBODY_ANSWERS, busy=True)).now == 700.0


def test_a_line_of_output_is_a_sign_of_life() -> None:
    stage = act(never(1200), prepare=given(answers=NOBODY_ANSWERS, lines=[(500.0, b"still here")]))
    assert stage.phases[1] == (1100.0, "TERMINATING")


def read(line: bytes) -> Step | None:
    """The fake program's way to tell how far it is."""
    if not line.startswith(b"loading "):
        return None
    done, _, total = line.removeprefix(b"loading ").partition(b"/")
    return Step("loading weights", int(done), int(total))


def test_loading_extends_the_budget_for_as_long_as_it_advances() -> None:
    lines = [(100.0 * n, b"loading %d/20" % n) for n in range(1, 21)]
    stage = act(never(2605), reader=read, prepare=given(answers=NOBODY_ANSWERS, lines=lines, busy=True))
    assert stage.phases[1] == (2600.0, "TERMINATING"), "ten minutes after the last step, at 2000"
    assert stage.state.failure is not None
    assert "(last: loading weights 20/20)" in stage.state.failure.summary


def test_a_download_that_goes_on_extends_the_budget() -> None:
    """Of which vLLM says no word."""

    async def scene(stage: Stage) -> None:
        await stage.at(2500.2)
        assert str(stage.state.startup.loading) == "downloading"
        stage.world.downloads = 0
        await stage.until(Phase.TERMINATING)

    assert act(scene, prepare=given(answers=NOBODY_ANSWERS, downloads=1000)).now == 3100.0


def test_what_it_is_doing_is_published() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(1.2)
        assert str(stage.state.startup.loading) == "loading weights 3/5"

    lines = [(1.0, b"loading 2/5"), (1.0, b"loading 3/5"), (1.0, b"chatter")]
    act(scene, reader=read, prepare=given(answers=NOBODY_ANSWERS, lines=lines))


def test_an_answer_that_does_not_come_does_not_hide_the_progress() -> None:
    """The watch goes on while a question hangs: else a long time-out would look like a stall."""
    facts = given(busy=True, ask_takes={"liveness": 5000.0})
    stage = act(never(1790), prepare=facts, startup_timeout=5000.0)
    assert stage.phases == [(0.0, "STARTING")]


# Leaving ----------------------------------------------------------------------------------------------------


def stopped_at(time: float) -> Callable[[Stage], object]:
    async def scene(stage: Stage) -> None:
        await stage.at(time)
        stage.runner.post(ev.StopRequested())
        await stage.at(time + 1000)

    return scene


def test_a_stop_is_sigterm_and_the_sweep_of_what_remains() -> None:
    stage = act(stopped_at(10), prepare=given(leaves_after=4.0))
    assert stage.world.diary[2:] == [
        (10.0, "signal 15"),
        (10.0, "close listener"),  # who comes now is refused at once
        (14.0, "sweep"),
        (14.0, "close listener"),
    ]
    assert stage.phases[2:] == [(10.0, "TERMINATING"), (14.0, "SWEEPING"), (14.0, "STOPPED")]


def test_who_does_not_leave_is_killed_after_the_grace() -> None:
    stage = act(stopped_at(10), prepare=given(leaves_after=None))
    assert stage.world.diary[2:] == [
        (10.0, "signal 15"),
        (10.0, "close listener"),
        (40.0, "signal 9 tree"),
        (40.0, "sweep"),
        (40.0, "close listener"),
    ]
    assert [phase for _, phase in stage.phases[2:]] == ["TERMINATING", "KILLING", "SWEEPING", "STOPPED"]


def test_who_survives_sigkill_is_named_and_nothing_starts_beside_it() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(10)
        stage.runner.post(ev.RestartRequested())
        assert await stage.until(Phase.FATAL) == 75.0
        assert stage.state.orphaned
        assert stage.state.failure is not None
        assert "Core (pid 101, state D)" in stage.state.failure.summary
        await stage.at(5000)
        assert stage.state.phase is Phase.FATAL
        stage.world.stuck = ()
        stage.world.orphans_end.set()
        await stage.until(Phase.RUNNING, 2)
        assert stage.now == 5000.0

    facts = given(leaves_after=None, dies_of_sigkill=False, sweep_takes=5.0, stuck=("Core (pid 101, state D)",))
    stage = act(scene, prepare=facts)
    assert stage.world.diary[2:] == [
        (10.0, "signal 15"),
        (40.0, "signal 9 tree"),
        (70.0, "sweep"),
        (75.0, "close listener"),
        (75.0, "await orphans"),
        (5000.0, "spawn 2"),
        (5000.0, "baseline 2"),
    ]


def test_a_sweep_that_does_not_answer_ends_in_fatal() -> None:
    stage = act(stopped_at(10), prepare=given(sweep_takes=1e9))
    # both graces of the sweep, and two minutes for what the tree held
    assert stage.phases[-1] == (11.0 + 5 + 30 + 120, "FATAL")
    assert stage.world.diary[-1][1] == "await orphans"


def test_a_stop_during_the_backoff_needs_no_work() -> None:
    async def scene(stage: Stage) -> None:
        stage.world.exit(ExitStatus(1))
        await stage.until(Phase.BACKOFF)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)
        await stage.at(100)
        assert stage.state.phase is Phase.STOPPED

    async def soon(stage: Stage) -> None:
        await stage.at(1)
        await scene(stage)

    act(soon, prepare=given(answers=NOBODY_ANSWERS))


# Starting ---------------------------------------------------------------------------------------------------


def test_a_restart_while_the_spawn_is_on_its_way_signals_the_leader_once_it_is_known() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(2)
        stage.runner.post(ev.RestartRequested())
        await stage.until(Phase.RUNNING, 2)

    stage = act(scene, prepare=given(spawn_takes=5.0))
    assert stage.world.diary == [
        (0.0, "spawn 1"),
        (5.0, "signal 15"),
        (6.0, "sweep"),
        (6.0, "spawn 2"),
        (11.0, "baseline 2"),
    ]
    assert stage.world.asks[0][0] == 11.0, "who is to leave is not asked how it is"


def test_a_leader_that_appears_after_the_grace_is_killed() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(2)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)

    stage = act(scene, prepare=given(spawn_takes=35.0))
    assert stage.world.diary[1:] == [
        (2.0, "close listener"),
        (32.0, "signal 9 tree"),
        (35.0, "signal 9"),
        (35.0, "sweep"),
        (35.0, "close listener"),
    ]


@pytest.mark.parametrize("takes", [5.0, 35.0])
def test_a_spawn_that_is_refused_while_it_is_to_leave_is_not_waited_for_any_longer(takes: float) -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(2)
        stage.runner.post(ev.StopRequested())
        assert await stage.until(Phase.STOPPED) == takes

    act(scene, prepare=given(spawn_takes=takes, refusals=[SOME]))


def test_a_restart_while_it_loads() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(60)
        stage.world.answers = {}
        stage.runner.post(ev.RestartRequested())
        assert await stage.until(Phase.RUNNING, 2) == 61.0

    stage = act(scene, prepare=given(busy=True, answers=NOBODY_ANSWERS))
    assert stage.world.diary == [
        (0.0, "spawn 1"),
        (60.0, "signal 15"),
        (61.0, "sweep"),
        (61.0, "spawn 2"),
        (61.0, "baseline 2"),
    ]


def test_a_refused_spawn_is_tried_again_after_the_backoff() -> None:
    stage = act(never(20), prepare=given(refusals=[SOME] * 2))
    assert [entry for entry in stage.world.diary if "spawn" in entry[1]] == [
        (0.0, "spawn 1"),
        (5.0, "spawn 2"),
        (15.0, "spawn 3"),
    ]
    assert (0.0, "sweep") in stage.world.diary, "a start can fail half-way"
    assert stage.state.phase is Phase.RUNNING


def test_a_permanent_refusal_is_final_and_says_what_to_do() -> None:
    stage = act(never(1000), prepare=given(refusals=[PERMANENT]))
    assert stage.phases == [(0.0, "STARTING"), (0.0, "SWEEPING"), (0.0, "FATAL")]
    assert stage.world.diary[-1] == (0.0, "close listener")
    assert stage.state.failure == PERMANENT


def test_what_the_sweep_found_out_is_why_it_left() -> None:
    """The diagnosis of its last words comes with the sweep, and may end the trying."""

    async def scene(stage: Stage) -> None:
        await stage.at(10)
        stage.world.exit(ExitStatus(1))
        await stage.at(1000)

    stage = act(scene, prepare=given(answers=NOBODY_ANSWERS, diagnosis=PERMANENT))
    assert stage.phases[-1] == (10.0, "FATAL")
    assert stage.state.failure == PERMANENT


def test_a_taken_resource_is_waited_for_without_a_strike() -> None:
    stage = act(never(101), prepare=given(refusals=[BUSY] * 20))
    assert [at for at, what in stage.world.diary if "spawn" in what] == [5.0 * n for n in range(21)]
    assert stage.state.phase is Phase.RUNNING


# Errors that nobody foresaw ---------------------------------------------------------------------------------

ERRORS = {
    "no room": OSError(errno.ENOSPC, "No space left on device"),
    "read-only": OSError(errno.EROFS, "Read-only file system"),
    "no descriptors": OSError(errno.EMFILE, "Too many open files"),
    "not ours": PermissionError(errno.EPERM, "Operation not permitted"),
    "no memory": MemoryError(),
    "a defect": RuntimeError("the table of processes is gone"),
    "a wrong number": ValueError("Exceeds the limit (4300 digits) for integer string conversion"),
    "a group": ExceptionGroup("unhandled errors in a TaskGroup", [KeyError("pid")]),
}
CALLS = (
    "spawn sweep signal take_baseline close_listener output worked downloaded stopped ask read send dump_stacks "
    "orphans_gone"
).split()


def faulty(call: str, error: BaseException, world: FakeWorld, until: float) -> None:
    """Make a call of the world fail until then."""
    real = getattr(world, call)

    def fail(*arguments: object, **named: object) -> object:
        if world.now < until:
            world.did(f"{call} failed")
            raise error
        return real(*arguments, **named)

    setattr(world, call, fail)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_a_program_outlives_any_error_of_any_call(call: str, error: Exception) -> None:
    """A whole life while one call of the world fails; a minute later it is as if nothing had been."""

    async def scene(stage: Stage) -> None:
        faulty(call, error, stage.world, until=stage.now + 20)
        await stage.at(10)
        stage.runner.post(ev.RestartRequested())
        await stage.at(15)
        stage.world.exit(ExitStatus(1))
        await stage.at(300)
        assert stage.state.phase is Phase.RUNNING
        assert stage.state.ready
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)

    spec = replace(ENGINE, restart=replace(ENGINE.restart, intensity=100))
    stage = act(scene, spec, asking=ENGINE_ASKING, prepare=given(lines=[(1.0, b"a line")], works=True, running=1))
    assert stage.world.asking_now == []


def test_what_the_host_refuses_is_no_strike_and_what_we_do_wrong_is_one() -> None:
    async def scene(stage: Stage) -> None:
        faulty("spawn", error, stage.world, until=float("inf"))
        await stage.at(3003)

    error: Exception = ERRORS["no room"]
    stage = act(scene)
    assert stage.state.phase is Phase.BACKOFF
    assert stage.state.reason == "[Errno 28] No space left on device (while starting it)"
    assert stage.state.history.failures == ()
    error = ERRORS["a defect"]
    stage = act(scene)
    assert stage.state.phase is Phase.FATAL
    assert stage.state.failure is not None
    assert "a defect of llm-supervisor, please report it: RuntimeError while starting it" in stage.state.failure.summary


def test_a_program_that_cannot_be_asked_is_degraded_and_stays() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100)
        faulty("ask", ERRORS["no descriptors"], stage.world, until=1000.0)
        await stage.at(500)
        assert (stage.state.phase, stage.state.health_word) == (Phase.RUNNING, Word.DEGRADED)
        assert "Too many open files (while asking it)" in stage.state.reason
        await stage.at(1100)
        assert (stage.state.incarnation, stage.state.health_word) == (1, Word.READY)

    act(scene)


def test_a_start_that_cannot_be_asked_does_not_run_out_of_time() -> None:
    """As long as that is the machine's fault: the program may be ready, and nobody can know."""

    async def scene(stage: Stage) -> None:
        faulty("ask", ERRORS["no descriptors"], stage.world, until=90_000.0)
        await stage.at(89_000)
        assert (stage.state.phase, stage.state.incarnation) == (Phase.STARTING, 1)
        await stage.until(Phase.RUNNING)

    act(scene)


def test_a_step_that_fails_is_put_off_and_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    async def scene(stage: Stage) -> None:
        await stage.at(10)
        with monkeypatch.context() as patch:
            patch.setitem(TABLE[Phase.STARTING], ev.DeadlinePassed, broken)
            await stage.at(2000)
        assert stage.state.phase is Phase.STARTING
        await stage.at(2100)
        assert stage.state.incarnation == 2

    stage = act(scene, prepare=given(answers=NOBODY_ANSWERS))
    said = [state.reason for _, _, state, _ in stage.published]
    assert 10 < sum("a defect of llm-supervisor" in reason for reason in said) < 400, "every few seconds"


def test_probing_that_fails_while_it_is_ended_is_ended() -> None:
    """Else it would ask a dead incarnation for ever, and the runner, and with it the daemon, would never end."""

    async def scene(stage: Stage) -> None:
        async def ask(*_: object) -> ProbeResult:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise RuntimeError("something fails while it is cancelled") from None
            raise AssertionError

        await stage.until(Phase.RUNNING)
        stage.world.ask = ask  # type: ignore[method-assign]
        await stage.at(stage.now + 100)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)
        await stage.at(stage.now + 100)
        assert len(stage.world.asking_now) == 0

    act(scene)


def test_who_is_told_may_fail() -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(Phase.RUNNING)
        stage.runner._publish = broken
        stage.world.exit(ExitStatus(1))
        await stage.at(stage.now + 10)
        assert (stage.state.phase, stage.state.incarnation) == (Phase.RUNNING, 2)

    def broken(*_: object) -> None:
        raise RuntimeError("the printer is on fire")

    act(scene)


# Warm and cold ----------------------------------------------------------------------------------------------


def deaths(*times: float) -> Callable[[Stage], object]:
    """Its leader dies at these times."""

    async def scene(stage: Stage) -> None:
        for at in times:
            await stage.at(at)
            stage.world.exit(ExitStatus(1))
        await stage.at(times[-1] + 400)

    return scene


def test_a_warm_start_is_asked_soon_and_often() -> None:
    stage = act(deaths(10.0), prepare=given(warm=True, spawn_takes=0.0, answers_from=0.05))
    assert stage.state.startup.warm
    assert stage.phases[-1][1] == "RUNNING"
    assert stage.phases[-1][0] - 10.0 < 0.1, "a start that takes so little is not found at the pace of a long one"


def test_a_warm_start_that_fails_is_tried_again_cold_at_once_and_without_a_strike() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(10)
        stage.world.answers_from = 3.0
        stage.world.exit(ExitStatus(1))  # a death after readiness: the next start is at once, and warm
        await stage.at(11)
        stage.world.exit(ExitStatus(1))  # the warm one dies before it is ready
        await stage.at(11.5)
        assert [what for _, what in stage.world.diary if "spawn" in what] == ["spawn 1", "spawn 2", "spawn 3 cold"]
        assert len(stage.state.history.failures) == 1, "the first death alone counts"
        await stage.until(Phase.RUNNING, 3)
        assert not stage.state.cold_next, "and a cold one that is ready trusts warmth again"

    act(scene, prepare=given(warm=True))


def test_what_a_cold_start_says_of_a_permanent_failure_holds() -> None:
    """A warm start's own word is not believed: a cold one is asked."""

    async def scene(stage: Stage) -> None:
        await stage.at(10)
        stage.world.answers = dict(NOBODY_ANSWERS)
        stage.world.exit(ExitStatus(1))
        await stage.at(11)
        stage.world.diagnosis = PERMANENT
        stage.world.exit(ExitStatus(1))
        await stage.at(12)
        assert stage.state.phase is Phase.STARTING
        assert not stage.state.startup.warm
        stage.world.exit(ExitStatus(1))
        await stage.at(13)

    assert act(scene, prepare=given(warm=True)).state.phase is Phase.FATAL


def test_a_warm_start_that_hangs_is_given_up_when_a_cold_one_would_be_there() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100)
        stage.world.answers = dict(NOBODY_ANSWERS)
        stage.world.exit(ExitStatus(1))
        await stage.until(Phase.TERMINATING)
        stage.world.answers = {}
        await stage.until(Phase.RUNNING, 3)

    stage = act(scene, prepare=given(warm=True, answers_from=20.0, busy=True))
    gave_up = next(at for at, phase in stage.phases if phase == "TERMINATING")
    assert gave_up == 100 + 1.5 * 20
    assert "spawn 3 cold" in [what for _, what in stage.world.diary]


def test_a_warm_start_has_at_most_half_of_the_budget() -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(Phase.RUNNING)
        stage.world.answers = dict(NOBODY_ANSWERS)
        stage.world.exit(ExitStatus(1))
        await stage.until(Phase.TERMINATING)

    stage = act(scene, prepare=given(warm=True, answers_from=70.0, busy=True), startup_budget=100.0)
    assert stage.now == 70 + 50


# Asking -----------------------------------------------------------------------------------------------------


def asked(stage: Stage, signal: str) -> list[float]:
    """When that was asked."""
    return [at for at, what, _ in stage.world.asks if what == signal]


def test_a_start_is_asked_often_and_the_catalogue_only_of_who_lives() -> None:
    stage = act(never(2.2), prepare=given(answers_from=1.5))
    assert asked(stage, "liveness") == [0.0, 0.5, 1.0, 1.5]
    assert asked(stage, "catalogue") == [1.5]
    assert stage.phases[-1] == (1.5, "RUNNING")


def test_a_start_is_asked_until_the_catalogue_is_right_too() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(2.9)
        stage.world.answers = {}
        assert await stage.until(Phase.RUNNING) == 3.0

    stage = act(scene, prepare=given(answers={"catalogue": Answer.INVALID}))
    assert asked(stage, "catalogue") == [0.5 * n for n in range(7)]


def test_a_wrong_catalogue_is_degraded_and_is_not_restarted() -> None:
    stage = act(never(500), prepare=given(answers={"catalogue": Answer.WRONG}))
    assert stage.phases == [(0.0, "STARTING"), (0.0, "RUNNING")]
    assert stage.state.health_word == "degraded"
    assert not stage.state.ready


def test_who_runs_is_asked_at_its_own_periods() -> None:
    stage = act(never(65), period=10.0, readiness_period=30.0)
    assert asked(stage, "liveness") == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert asked(stage, "catalogue") == [0.0, 30.0, 60.0]


def test_each_question_has_its_own_time_out() -> None:
    stage = act(never(15), timeout=7.0, readiness_timeout=8.0, startup_timeout=9.0)
    assert stage.world.asks == [
        (0.0, "liveness", 9.0),
        (0.0, "catalogue", 9.0),
        (10.0, "liveness", 7.0),
        (10.0, "catalogue", 8.0),
    ]


def test_the_period_is_from_question_to_question_not_from_answer_to_question() -> None:
    stage = act(never(45), prepare=given(ask_takes={"liveness": 7.0}))
    ready = stage.phases[1][0]
    assert ready == 7.0
    assert [at - ready for at in asked(stage, "liveness")[1:]] == [10.0, 20.0, 30.0]


def test_slow_answers_never_pile_up() -> None:
    async def scene(stage: Stage) -> None:
        for n in range(2000):
            await stage.at(n / 10)
            assert len(stage.world.asking_now) == len(set(stage.world.asking_now))

    stage = act(scene, prepare=given(ask_takes={"liveness": 9.0, "catalogue": 9.0}))
    assert stage.phases == [(0.0, "STARTING"), (18.0, "RUNNING")]


@pytest.mark.parametrize(("slow", "other"), [("catalogue", "liveness"), ("liveness", "catalogue")])
def test_a_question_without_an_answer_does_not_delay_the_other(slow: str, other: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.ask_takes = {slow: 1e9}
        await stage.at(35)

    stage = act(scene, period=10.0, readiness_period=10.0, timeout=30.0, readiness_timeout=30.0)
    assert asked(stage, other) == [0.0, 10.0, 20.0, 30.0]
    assert asked(stage, slow) == [0.0, 10.0]


def test_three_silences_in_a_row_are_a_reason_to_leave_and_two_are_not() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.ask_takes = {"liveness": 1000.0}
        await stage.at(35)
        assert stage.state.health.failures["liveness"] == 2
        stage.world.ask_takes = {}
        await stage.at(45)
        assert stage.state.health.failures["liveness"] == 0
        stage.world.ask_takes = {"liveness": 1000.0}
        await stage.until(Phase.TERMINATING)

    stage = act(scene)
    assert stage.state.leaving is not None
    assert stage.state.leaving.cause is Cause.UNRESPONSIVE
    assert "3 times in a row" in stage.state.leaving.summary


def test_a_death_by_its_own_word_is_killed_at_the_next_question() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.answers = {"liveness": Answer.DEAD}
        assert await stage.until(Phase.KILLING) == 10.0
        stage.world.answers = {}
        assert await stage.until(Phase.RUNNING, 2) == 10.0

    act(scene)


def test_a_death_by_its_own_word_does_not_wait_for_the_catalogue() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.answers = {"liveness": Answer.DEAD}
        stage.world.ask_takes = {"catalogue": 1000.0}
        assert await stage.until(Phase.KILLING) == 10.0

    act(scene)


def test_stopped_members_are_seen_with_the_next_question() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.stopped_members = ("Core (pid 101) is stopped",)
        await stage.at(11)
        assert stage.state.health_word == "unhealthy"
        assert stage.state.reason == "Core (pid 101) is stopped"
        stage.world.stopped_members = ()
        await stage.at(21)
        assert stage.state.ready

    act(scene)


def test_a_plain_port_is_asked_by_connecting() -> None:
    stage = act(never(15), asking=ProbePlan(("127.0.0.1", 6379)))
    assert {what for _, what, _ in stage.world.asks} == {"connect"}
    assert stage.state.ready


def test_a_program_with_one_question_needs_no_other() -> None:
    stage = act(never(15), asking=replace(ASKING, probes=ASKING.probes[:1]))
    assert {what for _, what, _ in stage.world.asks} == {"liveness"}
    assert stage.state.ready


def test_who_leaves_is_not_asked_any_more() -> None:
    """The question in flight is cancelled; its answer would be about somebody who is on his way out."""

    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.ask_takes = {"liveness": 1000.0}
        await stage.at(15)
        assert stage.world.asking_now == ["liveness"]
        stage.runner.post(ev.StopRequested())
        await stage.at(15.5)
        assert not stage.world.asking_now
        await stage.at(1000)

    stage = act(scene, prepare=given(leaves_after=None))
    assert stage.world.cancelled == [(15.0, "liveness")]
    assert asked(stage, "liveness") == [0.0, 10.0]


def test_a_start_that_is_given_up_is_not_asked_any_more() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(15)
        stage.runner.post(ev.StopRequested())
        await stage.at(100)

    stage = act(scene, prepare=given(answers=NOBODY_ANSWERS, leaves_after=None))
    assert max(asked(stage, "liveness")) <= 15.0


def test_a_successor_is_asked_anew() -> None:
    """Its start has the start's pace, whatever its predecessor's was."""

    async def scene(stage: Stage) -> None:
        await stage.at(12)
        stage.world.answers_from = 2.0
        stage.world.exit(ExitStatus(1))
        await stage.at(25)

    stage = act(scene)
    assert asked(stage, "liveness") == [0.0, 10.0, 12.0, 12.5, 13.0, 13.5, 14.0, 24.0]


# An engine: its counters and its canary -----------------------------------------------------------------------


def engine(scene: Callable[[Stage], object], **facts: object) -> Stage:
    """As ``act``, with everything that an engine is asked."""
    return act(scene, ENGINE, asking=ENGINE_ASKING, prepare=given(**facts))


def test_an_engine_is_ready_when_its_first_canary_is_answered() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(20)
        assert stage.state.phase is Phase.STARTING
        stage.world.answers = {}
        await stage.until(Phase.RUNNING)

    stage = engine(scene, answers={"canary": Answer.INVALID})
    assert stage.now == 20.0
    assert [entry for entry in stage.world.asks if entry[0] == 20.0][:3] == [
        (20.0, "liveness", 10.0),
        (20.0, "catalogue", 10.0),
        (20.0, "canary", 30.0),
    ]
    assert asked(stage, "canary") == [0.0, 10.0, 20.0], "one that fails is repeated at the pace of a running engine's"
    assert asked(stage, "liveness") == [0.5 * n for n in range(41)]


def test_no_canary_is_sent_before_the_catalogue_is_valid() -> None:
    stage = engine(never(20), answers={"catalogue": Answer.INVALID})
    assert asked(stage, "catalogue")
    assert not asked(stage, "canary")


def test_who_is_idle_gets_a_canary_once_an_interval() -> None:
    stage = engine(never(1000))
    sent = asked(stage, "canary")
    assert len(sent) == 4
    assert all(300 <= later - sooner <= 302 for sooner, later in itertools.pairwise(sent))


def test_who_works_gets_none() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.works, stage.world.running = True, 3
        await stage.at(1000)
        assert stage.state.health_word == "busy"
        assert stage.state.ready

    assert asked(engine(scene), "canary") == [0.0], "the one of the start"


def test_the_counters_are_read_every_period_and_patiently() -> None:
    """A saturated engine is slow to show them, and that it works is what is to be seen."""
    stage = engine(never(45))
    assert asked(stage, "metrics") == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert {timeout for _, what, timeout in stage.world.asks if what == "metrics"} == {60.0}


def test_doubt_sends_a_canary_at_once_and_then_at_the_probes_pace() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.stopped_members = ("Core (pid 101) is stopped",)
        await stage.at(45)

    stage = engine(scene)
    assert asked(stage, "canary") == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert stage.state.phase is Phase.RUNNING, "it answers, so it only looks stopped"


def test_doubt_that_has_ended_sends_no_more() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.stopped_members = ("Core (pid 101) is stopped",)
        await stage.at(15)
        stage.world.stopped_members = ()
        await stage.at(200)
        assert stage.state.ready

    sent = asked(engine(scene), "canary")
    assert sent[:2] == [0.0, 10.0]
    assert max(sent) <= 20.0


def test_who_hangs_with_work_to_do_is_killed_after_the_grace_of_a_stall() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100.5)
        stage.world.works = False
        stage.world.ask_takes = {"canary": 1e9}
        await stage.until(Phase.KILLING)

    stage = engine(scene, works=True, running=3)
    assert stage.state.leaving is not None
    assert stage.state.leaving.cause is Cause.STALLED
    assert stage.now == 110 + 120, "the first reading that shows no progress is at 110"
    (dumped,) = [at for at, what in stage.world.diary if what == "dump stacks"]
    assert 110 + 60 <= dumped <= 110 + 75, "where it stands is kept halfway, so that the end does not wait for it"


def test_a_short_stall_dumps_no_stacks() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100.5)
        stage.world.works = False
        await stage.at(160)
        stage.world.works = True
        await stage.at(1000)

    stage = engine(scene, works=True, running=3)
    assert "dump stacks" not in [what for _, what in stage.world.diary]


def test_who_hangs_idle_is_found_by_its_canary_and_killed() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(100)
        stage.world.ask_takes = {"canary": 1e9}
        await stage.until(Phase.KILLING)

    stage = engine(scene)
    sent = asked(stage, "canary")[1]
    assert 300 <= sent <= 302
    assert stage.now == sent + 120, "the stall began when the canary was sent, at the latest"


def test_a_canary_behind_a_long_queue_is_no_reason_to_restart() -> None:
    """Law 8: it gets no answer within its time, again and again, while the engine works."""

    async def scene(stage: Stage) -> None:
        await stage.at(299)
        stage.world.ask_takes = {"canary": 1e9}
        await stage.at(310)
        stage.world.works, stage.world.running = True, 200
        await stage.at(5000)

    assert engine(scene).phases == [(0.0, "STARTING"), (0.0, "RUNNING")]


def test_a_signal_that_gets_no_answer_does_not_silence_the_others() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.ask_takes = {"metrics": 59.0, "canary": 29.0}
        stage.world.stopped_members = ("Core (pid 101) is stopped",)
        await stage.at(65)

    stage = engine(scene)
    assert asked(stage, "liveness") == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]


def test_all_that_is_on_its_way_is_cancelled_when_it_leaves() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.ask_takes = dict.fromkeys(("liveness", "metrics", "canary"), 1e9)
        stage.world.stopped_members = ("Core (pid 101) is stopped",)
        await stage.at(25)
        assert {"metrics", "canary"} <= set(stage.world.asking_now)
        stage.runner.post(ev.StopRequested())
        await stage.at(26)
        assert not stage.world.asking_now

    engine(scene)


def test_a_stopped_program_that_does_not_answer_is_replaced() -> None:
    """SIGSTOP to a gateway, which has no canary of its own: it must come back without a hand on it."""

    async def scene(stage: Stage) -> None:
        await stage.at(5)
        stage.world.stopped_members = ("litellm (pid 100) is stopped",)
        stage.world.ask_takes = {"liveness": 1e9, "catalogue": 1e9}
        await stage.at(3600)
        assert stage.state.incarnation > 1

    act(scene)


def test_an_engine_without_a_canary_that_does_not_answer_is_replaced() -> None:
    """``health: {canary: false}``: idle, then nothing answers any more."""

    async def scene(stage: Stage) -> None:
        await stage.at(15)
        stage.world.ask_takes = {"liveness": 1e9, "catalogue": 1e9, "metrics": 1e9}
        await stage.at(3600)
        assert stage.state.incarnation > 1

    act(scene, asking=replace(ENGINE_ASKING, canary=None))


# Without a check --------------------------------------------------------------------------------------------


def test_without_a_check_it_is_ready_by_age() -> None:
    stage = act(never(100), UNCHECKED, asking=None)
    assert stage.phases == [(0.0, "STARTING"), (1.0, "RUNNING")]
    assert stage.world.asks == []
    assert stage.state.ready
    assert stage.state.pid == PID + 1


def test_ready_at_once_still_has_a_pid() -> None:
    """``ready: {after: 0}`` is a valid configuration."""
    stage = act(never(100), replace(UNCHECKED, ready_after=0.0), asking=None)
    assert stage.state.phase is Phase.RUNNING
    assert stage.state.pid == PID + 1


# Snapshots --------------------------------------------------------------------------------------------------


def test_snapshots_are_a_chain_without_a_gap() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(12)
        stage.world.exit(ExitStatus(1))
        await stage.at(30)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)

    stage = act(scene, prepare=given(answers_from=2.0, busy=True))
    befores = [before for _, before, _, _ in stage.published]
    afters = [state for _, _, state, _ in stage.published]
    assert all(before is after for before, after in zip(befores[1:], afters[:-1], strict=True))
    assert all(before is not after for before, after in zip(befores, afters, strict=True))


def test_nobody_who_waits_is_stranded() -> None:
    """Each waits for something else, on snapshots; whatever comes first, all of them come back."""

    async def scene(stage: Stage) -> None:
        await stage.until(Phase.RUNNING)
        waiters = [
            asyncio.create_task(stage.until(Phase.TERMINATING)),
            asyncio.create_task(stage.until(Phase.STOPPED)),
            asyncio.create_task(stage.until(Phase.RUNNING, 2)),
        ]
        await stage.at(5)
        for request in (ev.StopRequested(), ev.StopRequested()):
            stage.runner.post(request)
        await stage.until(Phase.STOPPED)
        for request in (ev.StartRequested(), ev.StartRequested()):
            stage.runner.post(request)
        assert await asyncio.gather(*waiters) == [5.0, 6.0, 6.0]

    act(scene)


def test_events_are_handled_in_the_order_of_posting() -> None:
    async def scene(stage: Stage) -> None:
        await stage.at(5)
        for event in (ev.StopRequested(), ev.StartRequested(), ev.StopRequested(), ev.RestartRequested()):
            stage.runner.post(event)
        assert stage.runner.pending
        while stage.runner.pending:
            await asyncio.sleep(0)
        assert stage.state.phase is Phase.TERMINATING
        assert stage.state.wanted is Wanted.UP
        assert await stage.until(Phase.RUNNING, 2) == 6.0

    stage = act(scene)
    requests = [event for _, _, _, event in stage.published[-8:] if isinstance(event, ev.StopRequested)]
    assert requests


def test_a_quiet_runner_still_turns() -> None:
    """The watchdog can tell it from a stuck one."""

    async def scene(stage: Stage) -> None:
        for at in (100.0, 123.4, 1000.1):
            await stage.at(at)
            assert 0 <= stage.now - stage.runner.turned_at <= HEARTBEAT

    act(scene, replace(CHECKED, autostart=False))


# The end ----------------------------------------------------------------------------------------------------


def test_finish_ends_the_run() -> None:
    async def scene() -> float:
        stage = Stage(CHECKED, ASKING, None)
        running = asyncio.create_task(stage.runner.run())
        await stage.at(10)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.STOPPED)
        stage.runner.finish()
        await running
        return stage.now

    assert play(scene()) == 11.0


def test_finish_does_not_wait_for_a_heartbeat_but_for_the_mailbox() -> None:
    async def scene() -> Stage:
        stage = Stage(replace(CHECKED, autostart=False), ASKING, None)
        running = asyncio.create_task(stage.runner.run())
        await stage.at(12.3)
        stage.runner.post(ev.StopRequested())
        stage.runner.finish()
        await running
        assert stage.now == 12.3
        return stage

    stage = play(scene())
    assert not stage.runner.pending
    assert isinstance(stage.published[-1][3], ev.StopRequested)


def test_finish_ends_the_asking() -> None:
    async def scene() -> Stage:
        stage = Stage(CHECKED, ASKING, None)
        stage.world.ask_takes = {"liveness": 9.0}
        running = asyncio.create_task(stage.runner.run())
        await stage.at(22)
        stage.runner.finish()
        await running
        assert stage.now == 22.0
        return stage

    assert not play(scene()).world.asking_now


def test_finish_does_not_wait_for_orphans() -> None:
    """Else a daemon that is told to shut down would never end: one hung process would hold it."""

    async def scene() -> None:
        stage = Stage(CHECKED, ASKING, None)
        stage.world.stuck = ("Core (pid 101, state D)",)
        running = asyncio.create_task(stage.runner.run())
        await stage.at(10)
        stage.runner.post(ev.StopRequested())
        await stage.until(Phase.FATAL)
        stage.runner.finish()
        await running

    play(scene())


# The clock itself -------------------------------------------------------------------------------------------


def test_virtual_time_jumps_to_the_timers_in_their_order() -> None:
    async def scene() -> list[tuple[str, float]]:
        loop, seen = asyncio.get_running_loop(), []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, loop.time()))

        await asyncio.gather(sleeper("day", 86_400), sleeper("tenth", 0.1), sleeper("third", 0.3))
        return seen

    assert play(scene()) == [("tenth", 0.1), ("third", 0.3), ("day", 86_400)]


async def forgotten() -> None:
    await asyncio.Event().wait()


async def restless() -> None:
    while True:
        await asyncio.sleep(1000)


@pytest.mark.parametrize("waiting", [forgotten, restless])
def test_virtual_time_names_who_would_wait_for_ever(waiting: Callable[[], Coroutine[None, None, None]]) -> None:
    with pytest.raises(Stranded, match=waiting.__name__):
        play(waiting())
