"""Draws the state diagram in docs/how-it-decides.md by walking ``step``: what it shows is what the code does.

python tests/core/diagram.py                                  prints it
python tests/core/diagram.py --write docs/how-it-decides.md   puts it between the file's markers (as `make docs` does)
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import Answer, Counters, Observation, ProbeResult
from llm_supervisor.core.program import step
from llm_supervisor.core.recovery import leftover
from llm_supervisor.core.spec import HealthSpec, Kind, Launch, ProgramSpec, RestartPolicy, RestartSpec
from llm_supervisor.core.state import Phase, State

BEGIN, END = "<!-- diagram:begin -->", "<!-- diagram:end -->"

# Small thresholds: what takes three failures takes one here, and the walk stays small
_HEALTH = HealthSpec(failure_threshold=1, readiness_threshold=1, canary=False)
_RESTART = RestartSpec(intensity=2)
ENGINE = ProgramSpec("engine", Kind.VLLM, Launch(("engine",)), _HEALTH, _RESTART)
_EAGER = replace(ENGINE, restart=replace(_RESTART, backoff=0.0))
_ONE_SHOT = replace(ENGINE, restart=replace(_RESTART, policy=RestartPolicy.NEVER))
COMMAND = replace(ENGINE, kind=Kind.COMMAND, ready_after=1.0)
_MANUAL = replace(ENGINE, autostart=False)
SPECS = (ENGINE, _EAGER, _ONE_SHOT, COMMAND, _MANUAL)

_OK, _SILENT, _DEAD = ProbeResult(Answer.OK), ProbeResult(Answer.SILENT), ProbeResult(Answer.DEAD)
_SOME, _PERMANENT = Failure("some", "it failed"), Failure("permanent", "it cannot work", permanent=True)
_BUSY = Failure("busy", "what it needs is taken", busy=True)
_AT_WORK = Counters((1.0,), running=1)


def _events(incarnation: int) -> Iterator[Event]:
    """What can happen, each event in the variants that may lead to different phases."""
    yield ev.StartRequested()
    yield ev.StopRequested()
    yield ev.RestartRequested()
    yield ev.Spawned(incarnation, 100)
    for failure in (_SOME, _PERMANENT, _BUSY):
        yield ev.SpawnFailed(incarnation, failure)
    yield ev.Exited(incarnation, ExitStatus(0))
    yield ev.Exited(incarnation, ExitStatus(1))
    yield ev.MemberLost(incarnation, 101, "member")
    yield ev.Observed(incarnation, Observation(liveness=_OK, catalogue=_OK))
    yield ev.Observed(incarnation, Observation(liveness=_SILENT))
    yield ev.Observed(incarnation, Observation(liveness=_DEAD))
    yield ev.Observed(incarnation, Observation(liveness=_OK, counters=_AT_WORK))
    yield ev.Advanced(incarnation, loading=True, doing="loading weights")
    for diagnosis in (None, _PERMANENT, _BUSY):
        yield ev.SweepFinished(incarnation, 0, diagnosis)
    yield ev.SweepStuck(incarnation, ("member (pid 101, state D)",))
    yield ev.OrphansGone(incarnation)
    yield ev.DeadlinePassed()


def _can_happen(state: State, event: Event) -> bool:
    """Whether the world can say this: of a leader only where there is one, of a sweep only when it was asked for it."""
    unborn = state.pid is None and state.phase in (Phase.STARTING, Phase.TERMINATING, Phase.KILLING)
    match event:
        case ev.Spawned() | ev.SpawnFailed():
            return unborn
        case ev.Exited() | ev.MemberLost() | ev.Observed() | ev.Advanced():
            return state.pid is not None
        case ev.SweepFinished() | ev.SweepStuck():
            return state.phase is Phase.SWEEPING
        case ev.OrphansGone():
            return state.orphaned
        case ev.DeadlinePassed():
            return state.deadline is not None
        case _:
            return True


def _key(state: State, now: float) -> tuple[object, ...]:
    """What distinguishes two states as far as phases are concerned: no numbers, no times."""
    leaving, failure, health = state.leaving, state.failure, state.health
    return (
        state.phase,
        state.wanted,
        state.pid is None,
        state.deadline is None,
        state.ready_since is None,
        state.orphaned,
        state.exited is not None and state.exited.ok,
        None if leaving is None else (leaving.cause, leaving.was_ready, leaving.failed, leaving.failure),
        None if failure is None else failure.permanent,
        len(state.history.failures),
        state.history.free,
        health.verdict.rule,
        health.counters is None,
    )


def _explore(spec: ProgramSpec) -> Iterator[tuple[State, float, Event, State]]:
    """Every step from every state that can be reached, each state once: (state, now, event, next state).

    A deadline is always waited for until it has come; everything else happens one second after the step before.
    """
    beginnings = (State(), leftover(spec, State(), 0.0)[0])
    seen = {_key(state, 0.0) for state in beginnings}
    queue = deque((state, 0.0) for state in beginnings)
    while queue:
        state, now = queue.popleft()
        for event in _events(state.incarnation):
            if not _can_happen(state, event):
                continue
            at = now + 1.0
            if isinstance(event, ev.DeadlinePassed) and state.deadline is not None:
                at = max(at, state.deadline)
            after, _ = step(spec, state, event, at)
            yield state, at, event, after
            if (key := _key(after, at)) not in seen:
                seen.add(key)
                queue.append((after, at))


@cache
def _explored(spec: ProgramSpec) -> tuple[list[tuple[State, float]], dict[tuple[Phase, Phase], set[type]]]:
    """Every state that can be reached, and what follows what upon which events. It takes seconds: so once."""
    reached: list[tuple[State, float]] = []
    found: dict[tuple[Phase, Phase], set[type]] = {}
    for before, now, event, after in _explore(spec):
        if not reached or before is not reached[-1][0]:
            reached.append((before, now))
        if before.phase is not after.phase:
            found.setdefault((before.phase, after.phase), set()).add(type(event))
    return reached, found


def walk(*specs: ProgramSpec) -> Iterator[tuple[ProgramSpec, State, float]]:
    """Every state that can be reached with these specs (without any: with our own), and the time then."""
    return ((spec, state, now) for spec in specs or SPECS for state, now in _explored(spec)[0])


@cache
def transitions() -> dict[tuple[Phase, Phase], list[str]]:
    """Which phase follows which, and upon which events."""
    found: dict[tuple[Phase, Phase], set[type]] = {}
    for spec in SPECS:
        for pair, kinds in _explored(spec)[1].items():
            found.setdefault(pair, set()).update(kinds)
    order = list(get_args(Event))
    phases = list(Phase)
    return {
        pair: [kind.__name__ for kind in sorted(found[pair], key=order.index)]
        for pair in sorted(found, key=lambda pair: (phases.index(pair[0]), phases.index(pair[1])))
    }


def draw() -> str:
    """The diagram, as mermaid's ``stateDiagram-v2``."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.STOPPED.name}", f"    [*] --> {Phase.SWEEPING.name}: leftover"]
    for (before, after), names in transitions().items():
        lines.append(f"    {before.name} --> {after.name}: {', '.join(names)}")
    return "\n".join(lines) + "\n"


def block() -> str:
    """What stands between the markers."""
    return f"\n```mermaid\n{draw()}```\n"


def read(text: str) -> str:
    """What stands between the markers of this text. Raises ValueError when it lacks them."""
    _, begin, rest = text.partition(BEGIN)
    found, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} followed by {END}")
    return found


def write(file: Path) -> bool:
    """Put the diagram between the file's markers; whether that changed anything. Raises ValueError without markers."""
    text = file.read_text(encoding="utf-8")
    old = read(text)
    if old == block():
        return False
    file.write_text(text.replace(f"{BEGIN}{old}{END}", f"{BEGIN}{block()}{END}"), encoding="utf-8")
    return True


def main(argv: list[str]) -> int:
    """The command: print, or write into a file with the markers."""
    parser = argparse.ArgumentParser(description="Draw the state diagram by walking the reducer.")
    parser.add_argument("--write", metavar="FILE", type=Path, help=f"put it between {BEGIN} and {END} in FILE")
    args = parser.parse_args(argv)
    if args.write is None:
        print(draw(), end="")
        return 0
    try:
        changed = write(args.write)
    except (OSError, ValueError) as error:
        print(f"{args.write}: {error}", file=sys.stderr)
        return 2
    print(f"{args.write}: {'written' if changed else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
