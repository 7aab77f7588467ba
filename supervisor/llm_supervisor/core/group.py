"""A model as clients of the gateway see it, and whether a request for it can be answered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_supervisor.core.health import ROUTE, Answer, Word
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """One name that clients can ask for. ``engines`` are our programs behind it; empty where somebody else's servers
    answer too. ``disabled`` is why it cannot be asked at all. ``vision`` is None where LiteLLM decides."""

    name: str
    vision: bool | None
    engines: tuple[str, ...] = ()
    disabled: str | None = None

    @property
    def local(self) -> bool:
        """Whether only engines of ours answer it."""
        return bool(self.engines)


def why_unavailable(
    group: ModelGroup,
    specs: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    proved: frozenset[str] = frozenset(),
) -> str | None:
    """Why a request for the group cannot be answered now; None when it can. ``proved`` are the engines whose route
    through the gateway is proved by canaries."""
    gateways = [states[name] for name, spec in specs.items() if spec.kind is Kind.LITELLM]
    if group.disabled is not None:
        return group.disabled
    if not any(state.phase is Phase.RUNNING for state in gateways):
        return "the gateway is not up"
    if not group.engines:
        return None
    reasons = [_why_engine_unavailable(name, states[name], gateways, name in proved) for name in group.engines]
    return None if None in reasons else reasons[0]  # one engine that answers is enough


def _why_engine_unavailable(name: str, engine: State, gateways: Sequence[State], proved: bool) -> str | None:
    """Why a request for that engine cannot be answered; None when it can."""
    if not engine.ready:
        return f"{name} is {engine.word}: {engine.startup.loading or engine.reason}"
    routes = [gateway.health.probes.get(f"{ROUTE}{name}") for gateway in gateways]
    wrong = next((route.detail for route in routes if route is not None and route.answer is not Answer.OK), None)
    busy = engine.health_word is Word.BUSY  # others' requests prove enough
    if wrong is None and proved and not any(routes) and not busy:
        return "no request has gone through the gateway yet"
    return wrong
