"""All programs together: is what is wanted ready, is the endpoint up, and in which order things leave.

Pure functions over specs and states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State, Wanted


class ReadyWhen(StrEnum):
    """What READY=1 to systemd waits for."""

    GATEWAY = "gateway"
    ALL = "all"


def visible_state(state: State) -> tuple[str, str, str, int]:
    """What people see of a state. An event is told when this changes."""
    verdict = state.health.verdict.rule if state.phase is Phase.RUNNING else ""
    return state.word, state.health_word.value, verdict, state.incarnation


def satisfied(state: State) -> bool:
    """Whether one program is as it is wanted: ready, down, or done with a clean exit."""
    if state.wanted is Wanted.DOWN:
        return state.phase is Phase.STOPPED
    done = state.phase is Phase.STOPPED and state.exited is not None and state.exited.ok and state.failure is None
    return state.ready or done


def all_ready(states: Iterable[State]) -> bool:
    """Whether every program is ``satisfied``."""
    return all(satisfied(state) for state in states)


def gateway_ready(specs: Mapping[str, ProgramSpec], states: Mapping[str, State]) -> bool:
    """Whether the gateway can be used. A fleet without a gateway is ready when all of it is."""
    gateways = [name for name, spec in specs.items() if spec.kind is Kind.LITELLM]
    if not gateways:
        return all_ready(states.values())
    return any(states[name].phase is Phase.RUNNING for name in gateways)


def reached(when: ReadyWhen, specs: Mapping[str, ProgramSpec], states: Mapping[str, State]) -> bool:
    """Whether the condition of ``ready_when`` holds."""
    return gateway_ready(specs, states) if when is ReadyWhen.GATEWAY else all_ready(states.values())


def progressing(states: Iterable[State], now: float, within: float) -> bool:
    """Whether some start showed a sign of life in the last ``within`` seconds: such a start may take its time."""
    return any(
        state.phase is Phase.STARTING
        and state.startup.stirred_at is not None
        and now - state.startup.stirred_at < within
        for state in states
    )


def pair_ready(gateway: State, engine: State) -> tuple[int, int] | None:
    """The incarnations of a gateway and an engine behind it, when a request can go through both; else None. A new pair
    is a route that no canary has proved yet."""
    if gateway.phase is not Phase.RUNNING or engine.phase is not Phase.RUNNING:
        return None
    return gateway.incarnation, engine.incarnation


def grown(specs: Mapping[str, ProgramSpec], states: Mapping[str, State], sizes: Mapping[str, int | None]) -> str | None:
    """Which of these replicas to replace because it has grown beyond its ``max_rss`` (bytes), if any: the oldest of
    them. None while another one starts or leaves, so that one serves meanwhile."""
    if any(state.phase not in (Phase.RUNNING, Phase.STOPPED, Phase.FATAL) for state in states.values()):
        return None
    too_large = [
        name
        for name, state in states.items()
        if state.phase is Phase.RUNNING and (most := specs[name].max_rss) is not None and (sizes.get(name) or 0) > most
    ]
    return min(too_large, key=lambda name: states[name].startup.spawned or 0.0, default=None)


# A program leaves before those that it uses: the gateway, which answers the requests it has, then the engines, then the
# programs that these use. Not the engines first: vLLM answers a request that reaches it just after SIGTERM with 200 and
# no tokens.
_LEAVING = (Kind.LITELLM, Kind.VLLM, Kind.COMMAND)


def stop_order(specs: Sequence[ProgramSpec]) -> list[list[str]]:
    """Names in the order of leaving, one group after the other; within a group all at once."""
    groups = ([spec.name for spec in specs if spec.kind is kind] for kind in _LEAVING)
    return [group for group in groups if group]


def in_words(states: Mapping[str, State]) -> str:
    """One line for systemd's STATUS= and for people: what is up, and what is not."""
    ready = [name for name, state in states.items() if state.ready]
    rest = [
        f"{name} {state.startup.loading or state.word.lower()}"
        for name, state in states.items()
        if not state.ready and not satisfied(state)
    ]
    head = f"{len(ready)} of {len(states)} ready"
    return f"{head}: {', '.join(rest)}" if rest else head
