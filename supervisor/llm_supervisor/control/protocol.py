"""The bodies of the control API: how states become the documented JSON. Pure; the wire format is stable.

``status``: see ``status_message``. Requests and answers of the other routes are plain mappings named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_supervisor.core.failure import Failure
from llm_supervisor.core.fleet import all_ready
from llm_supervisor.core.health import ROUTE, Answer, Health, Word
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """A model as the gateway's clients see it. ``engines`` are those of ours behind it, none where it is a cloud's;
    ``asked`` are engines that a canary through the gateway proves; ``disabled`` is why it cannot be asked at all."""

    name: str
    vision: bool | None
    engines: tuple[str, ...] = ()
    asked: frozenset[str] = frozenset()
    disabled: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What is true of the daemon as a whole."""

    pid: int
    version: str
    uptime: float
    state: str
    endpoint: str | None
    config: str
    logs: str
    upgrades: int = 0
    config_problems: tuple[str, ...] = ()
    config_files: tuple[str, ...] = ()


def status_message(
    about: About,
    specs: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    groups: Sequence[ModelGroup],
    now: float,
    incarnations: Mapping[str, str],
    servers: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, Any]:
    """The answer to ``GET /v1/status``, which ``status --json`` prints as it is. ``servers`` are the fork servers, by
    program."""
    servers = servers or {}
    return {
        "supervisor": {
            "pid": about.pid,
            "version": about.version,
            "uptime_s": round(about.uptime, 3),
            "state": about.state,
            "ready": all_ready(states.values()),
            "config": about.config,
            "config_files": list(about.config_files),
            "logs": about.logs,
            "upgrades": about.upgrades,
            "config_problems": list(about.config_problems),
        },
        "endpoint": about.endpoint,
        "programs": [
            program_message(specs[name], states[name], now, incarnations.get(name), servers.get(name)) for name in specs
        ],
        "models": [model_message(group, specs, states) for group in groups],
    }


def model_message(group: ModelGroup, specs: Mapping[str, ProgramSpec], states: Mapping[str, State]) -> dict[str, Any]:
    """One model of ``status``: ready when a request for it can be answered, else with the reason."""
    gateways = [states[name] for name, spec in specs.items() if spec.kind is Kind.LITELLM]
    why = None
    if group.disabled is not None:
        why = group.disabled
    elif not any(state.phase is Phase.RUNNING for state in gateways):
        why = "the gateway is not up"
    elif group.engines:  # one that answers is enough
        whys = [_why_not(name, states[name], gateways, name in group.asked) for name in group.engines]
        why = None if None in whys else whys[0]
    return {
        "name": group.name,
        "local": bool(group.engines),
        "vision": group.vision,
        "ready": why is None,
        "state": "ready" if why is None else "disabled" if group.disabled else "degraded",
        "reason": why,
    }


def _why_not(name: str, engine: State, gateways: Sequence[State], asked: bool) -> str | None:
    """Why a request for that engine cannot be answered; None when it can."""
    if not engine.ready:
        return f"{name} is {engine.word}: {engine.loading or engine.reason}"
    routes = [gateway.health.probes.get(f"{ROUTE}{name}") for gateway in gateways]
    wrong = next((route.detail for route in routes if route is not None and route.answer is not Answer.OK), None)
    busy = engine.health_word is Word.BUSY  # others' requests prove enough
    if wrong is None and asked and not any(routes) and not busy:
        return "no request has gone through the gateway yet"
    return wrong


def program_message(
    spec: ProgramSpec,
    state: State,
    now: float,
    incarnation: str | None,
    server: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """One program of ``status``. ``server`` is the fork server that it may be started from."""
    up = state.phase in (Phase.STARTING, Phase.RUNNING, Phase.TERMINATING, Phase.KILLING)
    return {
        "name": spec.name,
        "kind": spec.kind.value,
        "state": state.word,
        "health": state.health_word.value,
        "wanted": state.wanted.value,
        "reason": state.reason,
        "pid": state.pid,
        "incarnation": incarnation,
        "uptime_s": round(now - state.spawned, 3) if up and state.spawned is not None else None,
        "restarts": state.restarts,
        "progress": progress_message(state),
        "probes": probes_message(state.health),
        "gpus": list(spec.gpus),
        "started": None if state.pid is None else "warm" if state.warm else "cold",
        "fork_server": server,
        "exit": None if state.exited is None else {"code": state.exited.code, "signal": state.exited.signal},
        "retry_in_s": max(round(state.deadline - now, 3), 0)
        if state.phase is Phase.BACKOFF and state.deadline is not None
        else None,
        "failure": failure_message(state.failure),
    }


def event_message(name: str, before: State, state: State, incarnation: str | None) -> dict[str, Any]:
    """A change of a program's state or verdict, as the log and ``events`` show it."""
    return {
        "program": name,
        "state": state.word,
        "health": state.health_word.value,
        "was": {"state": before.word, "health": before.health_word.value},
        "reason": state.reason,
        "rule": state.health.verdict.rule if state.phase is Phase.RUNNING else None,
        "pid": state.pid,
        "incarnation": incarnation,
        "failure": failure_message(state.failure) if state.phase in (Phase.FATAL, Phase.BACKOFF) else None,
    }


def progress_message(state: State) -> dict[str, Any] | None:
    """What a starting program is doing; None when it does not start, or does not say."""
    if state.loading is None or state.phase is not Phase.STARTING:
        return None
    return {"step": state.loading.step, "done": state.loading.done, "total": state.loading.total}


def probes_message(health: Health) -> dict[str, Any]:
    """The last answer of every signal that was asked."""
    return {
        name: {
            "answer": probe.answer.value,
            "detail": probe.detail,
            "took_s": round(probe.took, 4),
            "failures": health.failures.get(name, 0),
        }
        for name, probe in health.probes.items()
    }


def failure_message(failure: Failure | None) -> dict[str, Any] | None:
    """The last failure, with what to do about it."""
    if failure is None:
        return None
    return {
        "kind": failure.kind,
        "permanent": failure.permanent,
        "summary": failure.summary,
        "advice": failure.advice,
        "incident": failure.incident,
    }


# What a request waits for -----------------------------------------------------------------------------------


def settled(action: str, state: State, since: int) -> bool:
    """Whether what ``action`` asked for has come about, or cannot any more. ``since`` is the incarnation at the time of
    asking."""
    if action == "stop":  # or somebody else has started it again
        return state.phase in (Phase.STOPPED, Phase.FATAL) or state.incarnation > since
    if state.phase in (Phase.STOPPED, Phase.FATAL):
        return True
    if state.phase is Phase.BACKOFF:
        return state.incarnation > since  # the start that was asked for has failed; it tries again by itself
    return state.phase is Phase.RUNNING and (state.incarnation > since or action == "start")


def outcome(action: str, state: State) -> tuple[bool, str]:
    """Whether it worked, and in words."""
    if action == "stop":
        stopped = state.phase in (Phase.STOPPED, Phase.FATAL)
        return stopped, "stopped" if stopped else "was started again by somebody else"
    if state.phase is Phase.RUNNING:
        return True, "started" if action == "start" else "restarted"
    why = state.failure.summary if state.failure else state.reason
    return False, f"{state.word}: {why}"
