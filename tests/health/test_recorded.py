"""What a real vLLM did, and what is made of it: recordings (``record``, ``data/``) through the core on their own times.

Times are relative to what was done to the engine. The grace is 10 s here; questions were asked every 0.5 s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from llm_supervisor.core.health import Counters
from llm_supervisor.core.state import Phase
from llm_supervisor.engines.vllm import probes as vllm_probes

from .replay import DATA, HEALTH, Replayed, names, recording, replay
from .script import Row, compare, shown


@dataclass(frozen=True)
class Story:
    """A recording and the timeline that it must lead to. ``blind``: by its answers alone, knowing no process."""

    recording: str
    timeline: str
    blind: bool = False
    grace: float = 10.0

    @property
    def name(self) -> str:
        return self.recording + ", by its answers alone" * self.blind + f", grace {self.grace:g} s" * (self.grace != 10)

    def play(self) -> Replayed:
        return replay(recording(self.recording), replace(HEALTH, stall_grace=self.grace), blind=self.blind)


# found within the grace + the canary's time-out + one period: 14.5 s; a death: within 1 s
STORIES = (
    Story("idle", ""),
    Story(
        "worker_stopped_idle",
        """
        0..1        RUNNING   unhealthy  frozen: VLLM::Worker (pid 101) is stopped
        10..14.5    STOPPING  unhealthy  killing: no progress for 10 s
        """,
    ),
    Story(  # nobody knows before the next canary is due
        "worker_stopped_idle",
        """
        0..7        RUNNING   unhealthy  standing: no progress for 4 s while the canary gets no answer
        9.5..16.5    STOPPING  unhealthy  killing: no progress for 10 s while the canary gets no answer
        """,
        blind=True,
    ),
    Story(  # it goes on after 22 s
        "worker_stopped_idle",
        """
        0..1        RUNNING   unhealthy  frozen: VLLM::Worker (pid 101) is stopped
        22..24      RUNNING   ready      fine: answers
        """,
        grace=60,
    ),
    Story(
        "worker_stopped_in_flight",
        """
        -1..1       RUNNING   busy       working: 4 running
        0..2        RUNNING   unhealthy  frozen: VLLM::Worker (pid 101) is stopped
        10..14.5    STOPPING  unhealthy  killing: no progress for 10 s
        """,
    ),
    Story(
        "worker_stopped_in_flight",
        """
        -1..1       RUNNING   busy       working: 4 running
        0..9        RUNNING   unhealthy  standing: no progress for
        10..14.5    STOPPING  unhealthy  killing: no progress for 10 s
        """,
        blind=True,
    ),
    Story(
        "worker_killed",
        "0..0.2      STOPPING  unhealthy  killing: its process VLLM::Worker (pid 101) died",
    ),
    Story(
        "worker_killed",
        "0..1        STOPPING  unhealthy  killing: liveness: /health says that the engine is dead (503)",
        blind=True,
    ),
    Story(
        "engine_core_killed",
        "0..0.3      STOPPING  unhealthy  killing: its process VLLM::EngineCor (pid 101) died",
    ),
    Story(
        "engine_core_killed",
        "0..1        STOPPING  unhealthy  killing: liveness: /health says that the engine is dead (503)",
        blind=True,
    ),
    Story(
        "engine_core_killed_asked",
        "0..0.3      STOPPING  unhealthy  killing: its process VLLM::EngineCor (pid 101) died",
    ),
    Story(  # the request that it had in hand makes the API server end at once, without a 503
        "engine_core_killed_asked",
        "0..1        STOPPING  unhealthy  killing: liveness: no answer: refused",
        blind=True,
    ),
    Story("api_server_killed", "0..0.2      STOPPING  unhealthy  sweeping: was killed by signal 9"),
    Story(
        "api_server_killed",
        """
        0..0.5      RUNNING   unhealthy  canary shaky: canary: no answer: invalid
        0..1        STOPPING  unhealthy  killing: liveness: no answer: refused
        """,
        blind=True,
    ),
)


LOADS = ("load", "load_in_bursts", "load_at_the_door")


def problems(story: Story) -> list[str]:
    """Where the verdicts are not the expected ones."""
    return compare(story.timeline, story.play().timeline, slack=0.0)


@pytest.mark.parametrize("story", STORIES, ids=[one.name for one in STORIES])
def test_story(story: Story) -> None:
    assert not problems(story), "\n".join(shown(row) for row in story.play().timeline)


def test_every_recording_is_played() -> None:
    assert {"start", *LOADS} | {story.recording for story in STORIES} == set(names())


def words(rows: list[Row]) -> set[tuple[str, str]]:
    return {(state, word) for _, state, word, _ in rows}


@pytest.mark.parametrize("name", LOADS)
def test_load_is_never_worse_than_busy(name: str) -> None:
    played = replay(recording(name))
    assert words(played.timeline) <= {("RUNNING", "busy"), ("RUNNING", "ready")}
    assert "working" in played.rules


@pytest.mark.parametrize("name", LOADS)
def test_no_load_is_a_reason_to_leave(name: str) -> None:
    """Though half of the questions get no answer in time."""
    played = replay(recording(name))
    assert {state for state, _ in words(played.timeline)} == {"RUNNING"}
    assert played.state.phase is Phase.RUNNING


def test_questions_did_time_out_under_load() -> None:
    for name in LOADS[1:]:
        assert any(row.get("none") == "silent" for row in recording(name).rows)


def test_a_start_is_ready_with_its_first_canary_and_not_before() -> None:
    story = recording("start")
    played = replay(story, born=True)
    first = next(row for row in story.rows if row["signal"] == "canary" and row.get("status") == 200)
    assert [row[1:3] for row in played.timeline] == [("STARTING", "starting"), ("RUNNING", "ready")]
    assert played.timeline[1][0] == pytest.approx(first["at"] + first["took"], abs=0.01)
    steps = [str(step) for step in played.loading]
    assert steps[0] == "starting the engine"
    assert steps[-1] == "opening the API"
    assert len(steps) == len(set(steps)) > 3


def test_a_start_shows_signs_of_life_all_the_time() -> None:
    """So that the stall of a start can be short: here 15 s would do."""
    health = replace(HEALTH, startup_stall=15.0)
    assert replay(recording("start"), health, born=True).timeline[-1][1:3] == ("RUNNING", "ready")


def test_the_counters_of_a_real_page() -> None:
    page = (DATA / "metrics.txt").read_bytes()
    assert b"vllm:iteration_tokens_total_bucket" in page
    counters = vllm_probes.read_metrics(page)
    assert counters is not None
    assert counters == Counters(counters.work, running=0, waiting=0)
    generated, prompted, iterations = counters.work
    assert 0 < iterations <= generated < prompted


def test_the_canaries_of_a_wedged_engine_are_not_counted_as_requests() -> None:
    """vLLM shows the counts of its last step: an idle engine that hangs says "0 running" for ever. So the canary's
    silence must be reason enough."""
    story = recording("worker_stopped_idle")
    hung = [
        row["counters"] for row in story.rows if row["signal"] == "metrics" and 0.5 < row["at"] - story.done_at < 21
    ]
    assert len(hung) > 30
    assert {tuple(counters) for counters in hung} == {tuple(hung[0])}
    assert hung[0][-2:] == [0, 0]
