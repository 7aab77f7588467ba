"""The bodies of the control API: their types, and how states become them. Pure; the wire format is stable.

The server, the command and the OpenAPI document (``openapi``) share these types. Times in a body are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired

# not typing's: before Python 3.12 pydantic, which makes the schemas, takes no other
from typing_extensions import TypedDict

from llm_supervisor.core.failure import Failure
from llm_supervisor.core.fleet import all_ready
from llm_supervisor.core.group import ModelGroup, why_unavailable
from llm_supervisor.core.health import Health
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State, Wanted

# The bodies -------------------------------------------------------------------------------------------------


class SilentBody(TypedDict):
    """Something on this machine that was asked and has not answered, and for how long: a GPU, a folder, a process."""

    name: str
    for_s: float


class SupervisorBody(TypedDict):
    """What the status says about the daemon itself. ``loop_lag_s``: by how much its event loop was late within the last
    minute, at worst; ``not_answering``: what it has left alone because it does not answer; ``degraded``: what it cannot
    do at present, in sentences, though it should: to write its state, to keep the output of a program."""

    pid: int
    version: str
    uptime_s: float
    state: str
    ready: bool
    config: str
    config_files: list[str]
    logs: str
    upgrades: int
    config_problems: list[str]
    loop_lag_s: float
    not_answering: list[SilentBody]
    degraded: list[str]


class ProgressBody(TypedDict):
    """The step of its loading that a starting program is at; ``done`` of ``total`` where it counts."""

    step: str
    done: int | None
    total: int | None


class ProbeBody(TypedDict):
    """The last answer to one probe; ``failures`` counts those in a row."""

    answer: str
    detail: str
    took_s: float
    failures: int


class ForkServerBody(TypedDict):
    """The process that has imported the program and from which it can be started. ``import_s``: how long that took."""

    state: str
    reason: str
    pid: int | None
    memory_bytes: int | None
    forks: int
    import_s: float | None


class ExitBody(TypedDict):
    """How the last leader ended; both are null when that is not known (an adopted process)."""

    code: int | None
    signal: int | None


class FailureBody(TypedDict):
    """What went wrong last, and what to do. ``incident`` is the folder with what was seen then."""

    kind: str
    permanent: bool | None
    summary: str
    advice: str
    incident: str | None


class ProgramBody(TypedDict):
    """One supervised program. ``state`` is supervisord's word, ``health`` ours beside it."""

    name: str
    kind: str
    state: str
    health: str
    wanted: Literal["up", "down"]
    reason: str
    pid: int | None
    incarnation: str | None
    uptime_s: float | None
    restarts: int
    progress: ProgressBody | None
    probes: dict[str, ProbeBody]
    gpus: list[int]
    started: Literal["warm", "cold"] | None
    fork_server: ForkServerBody | None
    exit: ExitBody | None
    retry_in_s: float | None
    failure: FailureBody | None


class ModelBody(TypedDict):
    """One name that clients of the gateway can ask for, and why it cannot answer now."""

    name: str
    local: bool
    vision: bool | None
    ready: bool
    state: Literal["ready", "disabled", "degraded"]
    reason: str | None


class StatusBody(TypedDict):
    """The answer of ``GET /v1/status``."""

    supervisor: SupervisorBody
    endpoint: str | None
    programs: list[ProgramBody]
    models: list[ModelBody]


class WordsBody(TypedDict):
    """The state and the health that a program had before."""

    state: str
    health: str


class ChangeBody(TypedDict):
    """A change of a program's state or verdict. ``rule`` is the row of the verdict's table that decided."""

    program: str
    state: str
    health: str
    was: WordsBody
    reason: str
    rule: str | None
    pid: int | None
    incarnation: str | None
    failure: FailureBody | None


class EventBody(ChangeBody):
    """A line of ``GET /v1/events``: a change, its number and its time (ISO 8601, UTC)."""

    id: int
    at: str


class ActionBody(TypedDict):
    """What came of a start, a stop or a restart; ``program`` is null when it is no longer configured."""

    ok: bool
    outcome: str
    program: ProgramBody | None


class ResultBody(TypedDict):
    """A line of the answer of ``POST /v1/programs/{action}``. The last line is about all programs and names none."""

    ok: bool
    program: NotRequired[str]
    outcome: NotRequired[str]


class PlannedBody(TypedDict):
    """What a reload means for one program, and what came of it where somebody waited for that."""

    program: str
    action: str
    why: str
    ok: NotRequired[bool]
    outcome: NotRequired[str]


class ReloadBody(TypedDict):
    """The answer of ``POST /v1/reload``. ``problems`` are errors when ``ok`` is false, else warnings."""

    ok: bool
    problems: list[str]
    changes: list[PlannedBody]
    error: NotRequired[str]


class UpgradeBody(TypedDict):
    """The answer of ``POST /v1/upgrade``: the version that the daemon is about to become, or why it stays."""

    ok: bool
    version: NotRequired[str]
    upgrades: NotRequired[int]
    error: NotRequired[str]


class ShutdownBody(TypedDict):
    """The answer of ``POST /v1/shutdown``, given when everything is stopped. ``left`` is what could not be ended: by
    program, what is still alive and why."""

    ok: bool
    left: NotRequired[dict[str, str]]


class ErrorBody(TypedDict):
    """The answer to a request that was not understood, and changed nothing."""

    error: str


# How they are made ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class About:
    """What the status says of the daemon as a whole. ``uptime`` and ``loop_lag`` are in seconds."""

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
    loop_lag: float = 0.0
    not_answering: tuple[SilentBody, ...] = ()
    degraded: tuple[str, ...] = ()


def status_message(
    about: About,
    specs: Mapping[str, ProgramSpec],
    states: Mapping[str, State],
    groups: Sequence[ModelGroup],
    now: float,
    incarnations: Mapping[str, str],
    servers: Mapping[str, ForkServerBody] | None = None,
    proved: frozenset[str] = frozenset(),
) -> StatusBody:
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
            "loop_lag_s": round(about.loop_lag, 3),
            "not_answering": list(about.not_answering),
            "degraded": list(about.degraded),
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
) -> ModelBody:
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
    server: ForkServerBody | None = None,
) -> ProgramBody:
    """One program of ``status``. ``server`` is the fork server that it may be started from."""
    up = state.phase in (Phase.STARTING, Phase.RUNNING, Phase.TERMINATING, Phase.KILLING)
    return {
        "name": spec.name,
        "kind": spec.kind.value,
        "state": state.word,
        "health": state.health_word.value,
        "wanted": "up" if state.wanted is Wanted.UP else "down",
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


def event_message(name: str, before: State, state: State, incarnation: str | None) -> ChangeBody:
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


def progress_message(state: State) -> ProgressBody | None:
    """What a starting program is doing; None when it does not start, or does not say."""
    if state.startup.loading is None or state.phase is not Phase.STARTING:
        return None
    return {
        "step": state.startup.loading.step,
        "done": state.startup.loading.done,
        "total": state.startup.loading.total,
    }


def probes_message(health: Health) -> dict[str, ProbeBody]:
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


def failure_message(failure: Failure | None) -> FailureBody | None:
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
