"""What was recorded from a real vLLM (``record``, ``data/``), played back through the core on its own times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event, ExitStatus
from llm_supervisor.core.health import Answer, Counters, Observation, ProbeResult, wants_canary
from llm_supervisor.core.program import step
from llm_supervisor.core.spec import HealthSpec, ProgramSpec
from llm_supervisor.core.state import Loading, Phase, State
from llm_supervisor.engines import canary
from llm_supervisor.engines.vllm import probes as vllm_probes
from llm_supervisor.engines.vllm import process as vllm_process

from .script import ENGINE_SPEC, Row

DATA = Path(__file__).parent / "data"
SERVED = "tiny"
FINE = Observation(liveness=ProbeResult(Answer.OK), catalogue=ProbeResult(Answer.OK), canary=ProbeResult(Answer.OK))
ALIVE = (Phase.STARTING, Phase.RUNNING)
# The pace of the recordings, and a grace that fits into them
HEALTH = HealthSpec(
    period=0.5, timeout=2.0, readiness_period=0.5, readiness_timeout=2.0,
    stall_grace=10.0, canary_interval=2.0, canary_timeout=4.0,
)  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """One story. ``done_at``: when something was done to the engine first; 0 when nothing was."""

    name: str
    rows: tuple[dict[str, Any], ...]
    done_at: float


def recording(name: str) -> Recording:
    """Read it."""
    rows = json.loads((DATA / f"{name}.json").read_text())["rows"]
    return Recording(name, tuple(rows), next((row["at"] for row in rows if row["signal"] == "done"), 0.0))


def names() -> list[str]:
    """All of them."""
    return sorted(path.stem for path in DATA.glob("*.json"))


@dataclass
class Replayed:
    """What the core made of it, times relative to what was done."""

    timeline: list[Row]
    rules: set[str]
    loading: list[Loading]
    state: State


def replay(story: Recording, health: HealthSpec = HEALTH, *, blind: bool = False, born: bool = False) -> Replayed:
    """Play a recording until its program leaves. ``blind``: only what it answers is known, nothing of its processes;
    ``born``: from the spawn on, else it was ready before. A canary counts only if the core wanted one when it was
    sent."""
    spec = ProgramSpec(SERVED, ENGINE_SPEC.kind, ENGINE_SPEC.launch, health, vital=vllm_process.VITAL)
    player = _Player(spec, story.done_at)
    player.post(ev.StartRequested(), 0.0)
    player.post(ev.Spawned(1, 100), 0.0)
    if not born:
        player.post(ev.Observed(1, FINE), 0.0)
        player.result.timeline.clear()
    moments = [(row["at"] + row.get("took", 0.0), 1, number) for number, row in enumerate(story.rows)]
    moments += [(row["at"], 0, number) for number, row in enumerate(story.rows) if row["signal"] == "canary"]
    unwanted = set()
    for now, arrived, number in sorted(moments):
        row = story.rows[number]
        player.pass_time(now)
        if player.state.phase not in ALIVE:
            break
        if not arrived:
            if player.state.phase is Phase.RUNNING and not wants_canary(health, player.state.health, now):
                unwanted.add(number)
        elif number not in unwanted and (event := _event(row, blind)) is not None:
            player.post(event, now)
    player.result.state = player.state
    return player.result


class _Player:
    def __init__(self, spec: ProgramSpec, zero: float) -> None:
        self.spec, self.zero = spec, zero
        self.state = State()
        self.result = Replayed([], set(), [], self.state)

    def pass_time(self, until: float) -> None:
        """Deadlines on the way."""
        while (due := self.state.deadline) is not None and due <= until and self.state.phase in ALIVE:
            self.post(ev.DeadlinePassed(), due)
            assert self.state.deadline != due or self.state.phase not in ALIVE, "it would turn in place"

    def post(self, event: Event, now: float) -> None:
        before = self.state
        self.state, _ = step(self.spec, before, event, now)
        self.result.rules.add(self.state.health.verdict.rule)
        if self.state.startup.loading is not None and self.state.startup.loading != before.startup.loading:
            self.result.loading.append(self.state.startup.loading)
        if (before.word, before.health_word) != (self.state.word, self.state.health_word):
            running = self.state.phase is Phase.RUNNING
            cause = self.state.health.verdict.rule if running else self.state.phase.value
            text = f"{cause}: {self.state.reason}"
            at = round(now - self.zero, 3)
            self.result.timeline.append((at, self.state.word, self.state.health_word.value, text))


def _event(row: dict[str, Any], blind: bool) -> Event | None:
    """What a row of a recording says to the core."""
    match row["signal"]:
        case "done":
            return None
        case "life":
            return ev.Advanced(1, "doing" in row, row.get("doing"), row.get("done"), row.get("total"))
        case "process":
            return None if blind else _of_process(row["name"], row["state"])
        case "metrics" if "counters" in row:
            *work, running, waiting = row["counters"]
            counters = Counters(tuple(work), running, waiting)
            return ev.Observed(1, Observation(metrics=ProbeResult(Answer.OK, took=row["took"]), counters=counters))
    return ev.Observed(1, Observation(**{row["signal"]: _probe(row)}))


def _of_process(name: str, state: str) -> Event:
    if state == "gone":
        return ev.Exited(1, ExitStatus(signal=9)) if name == "leader" else ev.MemberLost(1, 101, name)
    stopped = (f"{name} (pid 101) is stopped",) if state == "stopped" else ()
    return ev.Observed(1, Observation(stopped=stopped))


def _probe(row: dict[str, Any]) -> ProbeResult:
    if "none" in row:
        return ProbeResult(Answer(row["none"]), f"no answer: {row['none']}", row["took"])
    status, body = row["status"], json.dumps(row.get("body")).encode()
    match row["signal"]:
        case "liveness":
            return vllm_probes.judge_health(status, body)
        case "catalogue":
            return vllm_probes.judge_models(status, body, [SERVED])
        case "canary":
            return canary.judge(status, body)
    return ProbeResult(Answer.INVALID, f"answers {status}")
