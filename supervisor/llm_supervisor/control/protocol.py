"""The bodies of the control API: how states become the documented JSON. Pure; the wire format is stable.

``status``: see ``status_message``. Requests and answers of the other routes are plain mappings named here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_supervisor.core.failure import Failure
from llm_supervisor.core.fleet import all_ready
from llm_supervisor.core.group import ModelGroup, why_unavailable
from llm_supervisor.core.health import Health
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State


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
    proved: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The answer to ``GET /v1/status``, which ``status --json`` prints as it is. ``servers`` are the fork servers, by
    program; ``proved`` the engines whose route through the gateway is proved by canaries."""
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
        "models": [model_message(group, specs, states, proved) for group in groups],
    }


def model_message(
    group: ModelGroup,
    specs: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    proved: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """One model of ``status``: ready when a request for it can be answered, else with the reason."""
    why = why_unavailable(group, specs, states, proved)
    return {
        "name": group.name,
        "local": group.local,
        "vision": group.vision,
        "ready": why is None,
        "state": "ready" if why is None else "disabled" if group.disabled else "degraded",
        "reason": why,
    }


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
        "uptime_s": round(now - state.startup.spawned, 3) if up and state.startup.spawned is not None else None,
        "restarts": state.restarts,
        "progress": progress_message(state),
        "probes": probes_message(state.health),
        "gpus": list(spec.gpus),
        "started": None if state.pid is None else "warm" if state.startup.warm else "cold",
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
    if state.startup.loading is None or state.phase is not Phase.STARTING:
        return None
    return {
        "step": state.startup.loading.step,
        "done": state.startup.loading.done,
        "total": state.startup.loading.total,
    }


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
