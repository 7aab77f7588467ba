"""``step`` in a toy world: whatever happens, in whatever order, the laws hold.

The toy world performs effects as the real one does, but chooses freely what comes of them: a spawn succeeds, fails or
leaves something behind; a leader obeys or does not; a sweep ends or gets stuck; the clock waits for deadlines or not.
Times are quarters of a second, which floats hold exactly: what rounding does to a deadline is tested elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llm_supervisor.core import effect as do
from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Answer, HealthSpec
from llm_supervisor.core.program import step
from llm_supervisor.core.recovery import leftover
from llm_supervisor.core.spec import ProgramSpec, RestartPolicy, RestartSpec, StopSpec
from llm_supervisor.core.state import WORDS, Phase, State, Wanted

from .makers import ALL_OK, BUSY, CHECKED, PERMANENT, SOME, events, seen

NO_PROCESS = (Phase.STOPPED, Phase.SWEEPING, Phase.BACKOFF, Phase.FATAL)
RESTING = (Phase.STOPPED, Phase.RUNNING, Phase.FATAL)
SIGKILL = 9

SPECS = st.builds(
    replace,
    st.just(CHECKED),
    ready_after=st.sampled_from([None, None, 1.0]),
    autostart=st.booleans(),
    health=st.builds(
        HealthSpec,
        startup_budget=st.just(60.0),
        startup_stall=st.just(20.0),
        stall_grace=st.just(30.0),
        canary=st.booleans(),
    ),
    restart=st.builds(
        RestartSpec,
        policy=st.sampled_from(RestartPolicy),
        backoff=st.sampled_from([0.0, 5.0]),
        intensity=st.sampled_from([1, 3, 1000]),
        window=st.sampled_from([60.0, 3600.0]),
    ),
    stop=st.builds(StopSpec, grace=st.sampled_from([0.0, 10.0]), sweep_grace=st.just(5.0), kill_grace=st.just(5.0)),
)
FAILURES = st.sampled_from([SOME, PERMANENT, BUSY])
STATUSES = st.sampled_from([ExitStatus(0), ExitStatus(1), ExitStatus(signal=9), ExitStatus()])
LOOKS = st.sampled_from(
    [
        ALL_OK,
        seen(Answer.OK, Answer.WRONG),
        seen(Answer.OK, Answer.SILENT),
        seen(Answer.SILENT),
        seen(Answer.REFUSED),
        seen(Answer.DEAD),
        seen(Answer.OK, work=1.0, running=1),
        seen(Answer.OK, work=2.0, running=1),
        seen(Answer.OK, work=2.0),
        seen(canary=Answer.OK),
        seen(canary=Answer.SILENT),
        seen(canary=Answer.INVALID),
        seen(metrics=Answer.SILENT),
        seen(routes={"alias": Answer.REFUSED}),
        seen(stopped=("Core",)),
    ]
)


@dataclass
class Tree:
    """The processes of one incarnation: a leader, and others that may outlive it."""

    leader: bool = True
    others: int = 0
    obeys: bool = True
    dying: bool = False  # its leader was sent a signal that ends it

    @property
    def alive(self) -> bool:
        return self.leader or self.others > 0


class ToyWorld(RuleBasedStateMachine):
    """One program and its world. Rules are what can happen; the effects of each are performed at once."""

    @initialize(spec=SPECS, remains=st.integers(0, 2))
    def begin(self, spec: ProgramSpec, remains: int) -> None:
        self.spec = spec
        self.now = 0.0
        self.state = State()
        self.trees: dict[int, Tree] = {}
        self.asked: int | None = None  # a spawn that has not answered yet
        self.sweeping: list[int] = []  # sweeps that have not answered yet; one that was overdue may do so at any time
        self.awaited: set[int] = set()  # whose end is to be told
        self.clean: set[int] = set()  # incarnations of which nothing is left, by the sweep's word or the last orphan's
        self.probing: int | None = None
        self.listening = True
        if remains:
            self.trees[0] = Tree(leader=False, others=remains)
            self.settle(*leftover(spec, State(), self.now))

    # Performing -----------------------------------------------------------------------------------------------

    def happen(self, event: Event) -> tuple[do.Effect, ...]:
        """Let ``step`` decide, look at what it did, and do what it asks for."""
        before = self.state
        after, effects = step(self.spec, before, event, self.now)
        incarnation = getattr(event, "incarnation", before.incarnation)
        if incarnation == before.incarnation and before.phase not in NO_PROCESS:
            if isinstance(event, ev.Exited | ev.SpawnFailed):
                assert after.phase is Phase.SWEEPING, "the leader's death is not the end"
                assert any(isinstance(effect, do.Sweep) for effect in effects)
            if isinstance(event, ev.Spawned) and before.phase in (Phase.TERMINATING, Phase.KILLING):
                assert any(isinstance(effect, do.SendSignal) for effect in effects), "who comes late is to leave too"
        self.settle(after, effects)
        return effects

    def settle(self, after: State, effects: tuple[do.Effect, ...]) -> None:
        self.state = after
        for effect in effects:
            if not isinstance(effect, do.CloseListener):
                assert effect.incarnation == after.incarnation, "nothing is asked for another incarnation"
            self.perform(effect)

    def perform(self, effect: do.Effect) -> None:
        match effect:
            case do.Spawn(incarnation):
                assert self.asked is None, "one start at a time"
                assert not any(tree.alive for tree in self.trees.values()), "never beside a living process"
                assert incarnation == 1 or incarnation - 1 in self.clean, "not before the sweep of the one before"
                self.asked, self.listening = incarnation, True
            case do.SendSignal(incarnation, signal, tree):
                hit = self.trees.get(incarnation)
                if hit is not None:
                    hit.dying = hit.dying or hit.obeys or signal == SIGKILL
                    if tree and signal == SIGKILL:
                        hit.others = 0
            case do.Sweep(incarnation):
                self.sweeping.append(incarnation)
            case do.BeginProbing(incarnation):
                assert self.probing is None, "who probes is told to end before the next begins"
                self.probing = incarnation
            case do.TakeBaseline():
                assert self.state.phase is Phase.RUNNING
            case do.EndProbing():
                self.probing = None
            case do.CloseListener():
                back = self.state.wanted is Wanted.UP and self.state.phase not in (Phase.STOPPED, Phase.FATAL)
                assert not back, "clients queue while it is to come back"
                self.listening = False
            case do.AwaitOrphans(incarnation):
                assert self.state.phase in (Phase.STOPPED, Phase.FATAL)
                assert self.state.orphaned
                self.awaited.add(incarnation)

    @property
    def tree(self) -> Tree | None:
        """The present incarnation's processes."""
        return self.trees.get(self.state.incarnation)

    # People ---------------------------------------------------------------------------------------------------

    @rule()
    def somebody_wants_it_up(self) -> None:
        self.happen(ev.StartRequested())
        assert self.state.wanted is Wanted.UP

    @rule()
    def somebody_wants_it_down(self) -> None:
        self.happen(ev.StopRequested())
        assert self.state.wanted is Wanted.DOWN

    @rule()
    def somebody_wants_a_new_one(self) -> None:
        self.happen(ev.RestartRequested())
        assert self.state.wanted is Wanted.UP

    # Starting -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.asked is not None)
    @rule(others=st.integers(0, 2), obeys=st.booleans())
    def the_spawn_succeeds(self, others: int, obeys: bool) -> None:
        assert self.asked is not None
        self.trees[self.asked] = Tree(others=others, obeys=obeys)
        asked, self.asked = self.asked, None
        self.happen(ev.Spawned(asked, 100 + asked))

    @precondition(lambda self: self.asked is not None)
    @rule(half=st.booleans(), failure=FAILURES)
    def the_spawn_fails(self, half: bool, failure: Failure) -> None:
        """Perhaps half-way, so that something of it lives."""
        assert self.asked is not None
        self.trees[self.asked] = Tree(leader=False, others=int(half))
        asked, self.asked = self.asked, None
        self.happen(ev.SpawnFailed(asked, failure))

    @precondition(lambda self: self.probing is not None)
    @rule(look=LOOKS)
    def it_is_looked_at(self, look: ev.Observation) -> None:
        assert self.probing is not None
        self.happen(ev.Observed(self.probing, look))

    @precondition(lambda self: self.probing is not None)
    @rule()
    def it_becomes_ready(self) -> None:
        assert self.probing is not None
        self.happen(ev.Observed(self.probing, ALL_OK))

    @precondition(lambda self: self.probing is not None)
    @rule(loading=st.booleans())
    def it_advances(self, loading: bool) -> None:
        assert self.probing is not None
        self.happen(ev.Advanced(self.probing, loading, "loading weights" if loading else None))

    # Dying ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tree is not None and self.tree.leader)
    @rule(status=STATUSES, take_along=st.booleans())
    def the_leader_dies(self, status: ExitStatus, take_along: bool) -> None:
        assert self.tree is not None
        self.tree.leader = False
        if take_along:
            self.tree.others = 0
        self.happen(ev.Exited(self.state.incarnation, status))

    @precondition(lambda self: self.tree is not None and self.tree.dying and self.tree.leader)
    @rule()
    def the_leader_obeys(self) -> None:
        assert self.tree is not None
        self.tree.leader = False
        self.happen(ev.Exited(self.state.incarnation, ExitStatus(signal=15)))

    @precondition(lambda self: self.tree is not None and self.tree.others > 0 and self.state.ready_since is not None)
    @rule()
    def a_member_dies(self) -> None:
        assert self.tree is not None
        self.tree.others -= 1
        self.happen(ev.MemberLost(self.state.incarnation, 999, "Core"))

    # A sweep may end before the spawn of its incarnation has answered: then what that makes is swept once more
    @precondition(lambda self: self.sweeping)
    @rule(diagnosis=st.none() | FAILURES)
    def a_sweep_finishes(self, diagnosis: Failure | None) -> None:
        swept = self.sweeping.pop(0)
        tree = self.trees.pop(swept, Tree(leader=False))
        if self.asked != swept:
            self.clean.add(swept)
        self.happen(ev.SweepFinished(swept, tree.others, diagnosis))

    @precondition(lambda self: self.sweeping and self.sweeping[0] not in self.clean)
    @rule()
    def a_sweep_gets_stuck(self) -> None:
        swept = self.sweeping.pop(0)
        self.trees[swept] = Tree(leader=False, others=1)
        self.happen(ev.SweepStuck(swept, ("Core (pid 999, state D)",)))
        if swept == self.state.incarnation and self.state.phase is Phase.FATAL:
            assert self.state.orphaned

    @precondition(lambda self: self.awaited and self.asked is None)
    @rule()
    def the_last_orphan_goes(self) -> None:
        gone = self.awaited.pop()
        self.trees.pop(gone, None)
        self.clean.add(gone)
        self.happen(ev.OrphansGone(gone))

    # The clock ------------------------------------------------------------------------------------------------

    @rule(quarters=st.integers(1, 400))
    def time_passes(self, quarters: int) -> None:
        """Not beyond the deadline: the runner wakes up there."""
        later = self.now + quarters / 4
        self.now = later if self.state.deadline is None else max(min(later, self.state.deadline), self.now)
        self.deadline_comes()

    @precondition(lambda self: self.state.deadline is not None)
    @rule(late=st.integers(0, 8))
    def the_deadline_is_reached(self, late: int) -> None:
        assert self.state.deadline is not None
        self.now = max(self.now, self.state.deadline + late / 4)
        self.deadline_comes()

    def deadline_comes(self) -> None:
        """What the runner does at every turn."""
        before, due = self.state, self.state.deadline
        effects = self.happen(ev.DeadlinePassed())
        if due is None or self.now < due:
            assert self.state is before
            assert effects == ()
        else:
            assert (self.state.phase, self.state.deadline) != (before.phase, due), "the runner would turn in place"

    # What must change nothing ---------------------------------------------------------------------------------

    @rule(off=st.sampled_from([-3, -1, 1]), which=st.integers(0, 100))
    def something_of_another_incarnation_happens(self, off: int, which: int) -> None:
        stale = [event for event in events(self.state.incarnation + off) if hasattr(event, "incarnation")]
        before = self.state
        assert self.happen(stale[which % len(stale)]) == ()
        assert self.state is before

    # How it must end ------------------------------------------------------------------------------------------

    @rule(spawns=st.booleans(), obeys=st.booleans(), sticks=st.booleans())
    def it_is_stopped_and_the_world_does_its_work(self, spawns: bool, obeys: bool, sticks: bool) -> None:
        """A stop always ends: in STOPPED, or in FATAL when something cannot be ended."""
        self.somebody_wants_it_down()
        for _ in range(20):
            if self.asked is not None:
                if spawns:
                    self.the_spawn_succeeds(others=1, obeys=obeys)
                else:
                    self.the_spawn_fails(half=True, failure=SOME)
            elif self.sweeping and self.state.phase is Phase.SWEEPING:
                if sticks and self.sweeping[0] not in self.clean:
                    self.a_sweep_gets_stuck()
                else:
                    self.a_sweep_finishes(diagnosis=None)
            elif self.tree is not None and self.tree.leader and self.tree.dying:
                self.the_leader_obeys()
            elif self.state.deadline is not None:
                self.the_deadline_is_reached(late=0)
            else:
                break
        assert self.state.phase in (Phase.STOPPED, Phase.FATAL)
        assert self.state.wanted is Wanted.DOWN
        alive = any(tree.alive for tree in self.trees.values())
        assert not alive or self.state.orphaned, "what is left is named"
        assert self.state.phase is Phase.STOPPED or self.state.orphaned

    # The laws -------------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_incarnation_lives(self) -> None:
        living = {number for number, tree in self.trees.items() if tree.alive}
        if self.asked is not None:
            living.add(self.asked)
        assert living <= {self.state.incarnation}

    @invariant()
    def every_waiting_phase_has_a_deadline(self) -> None:
        if self.state.phase in RESTING:
            assert self.state.phase is Phase.RUNNING or self.state.deadline is None
        else:
            assert self.state.deadline is not None

    @invariant()
    def no_pid_without_a_process(self) -> None:
        if self.state.phase in NO_PROCESS:
            assert self.state.pid is None

    @invariant()
    def what_runs_has_a_pid(self) -> None:
        if self.state.phase is Phase.RUNNING and self.spec.ready_after is None:  # by age: see test_policy
            assert self.state.pid is not None

    @invariant()
    def who_leaves_knows_why(self) -> None:
        if self.state.phase in (Phase.TERMINATING, Phase.KILLING, Phase.SWEEPING):
            assert self.state.leaving is not None
        elif self.state.phase is not Phase.FATAL:  # there it says what was to follow, had nothing been left
            assert self.state.leaving is None

    @invariant()
    def only_what_is_wanted_up_waits_to_come_back(self) -> None:
        if self.state.phase in (Phase.STARTING, Phase.RUNNING, Phase.BACKOFF):
            assert self.state.wanted is Wanted.UP

    @invariant()
    def only_the_living_are_probed(self) -> None:
        if self.state.phase not in (Phase.STARTING, Phase.RUNNING):
            assert self.probing is None

    @invariant()
    def a_rest_with_orphans_is_known_as_such(self) -> None:
        if self.state.phase in (Phase.STOPPED, Phase.BACKOFF, Phase.FATAL) and not self.sweeping:
            assert any(tree.alive for tree in self.trees.values()) <= self.state.orphaned

    @invariant()
    def nobody_queues_before_a_door_that_stays_shut(self) -> None:
        if self.state.phase is Phase.FATAL or (self.state.phase is Phase.STOPPED and self.state.starts):
            assert not self.listening

    @invariant()
    def people_have_a_word_for_it(self) -> None:
        assert self.state.word in {*WORDS.values(), "EXITED"}
        assert self.state.reason or self.state.starts == 0
        assert self.state.health_word

    @invariant()
    def starts_are_counted(self) -> None:
        assert self.state.starts == self.state.incarnation


ToyWorld.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestToyWorld = ToyWorld.TestCase
