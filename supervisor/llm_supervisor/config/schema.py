"""The settings that a configuration may have: pydantic models with types, ranges and defaults. Pure.

Whether a file exists or a port is free is for the checks. Defaults that a program's specification also has are taken
from there, so that each is defined once.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from llm_supervisor.core.spec import HealthSpec, RestartSpec, StopSpec
from llm_supervisor.host.output.pump import SEGMENT_BYTES, SEGMENTS_KEPT
from llm_supervisor.suggest import short
from llm_supervisor.units import duration, size


def _most_memory(value: int) -> int:
    """The value, where LiteLLM can work with that many bytes of memory. Raises ValueError."""
    if value < 64 << 20:
        raise ValueError("is less than LiteLLM takes by itself; write 2GB, for one")
    return value


def _segment(value: int) -> int:
    """The value, where a segment of a log of that many bytes is useful. Raises ValueError."""
    if value < 64 << 10:
        raise ValueError("is less than 64K, which a start alone fills; write 50MB, for one")
    return value


def signal_number(value: object) -> int:
    """A signal's number from ``TERM``, ``SIGTERM`` or 15. Raises ValueError."""
    try:
        if isinstance(value, str):
            return signal.Signals["SIG" + value.upper().removeprefix("SIG")].value
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value).value
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{short(value)} is no signal; write TERM, INT, QUIT, HUP, USR1 or USR2")


def _written(text: str, number: str) -> WithJsonSchema:
    """What the JSON Schema allows there: a number, or a text of that pattern."""
    return WithJsonSchema({"anyOf": [{"type": number, "minimum": 0}, {"type": "string", "pattern": text}]})


_A_DURATION = _written(r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$", "number")
Duration = Annotated[float, BeforeValidator(duration), _A_DURATION]
Positive = Annotated[float, BeforeValidator(duration), Field(gt=0), _A_DURATION]
Size = Annotated[int, BeforeValidator(size), _written(r"^\s*\d+(\.\d+)?\s*([KMGTkmgt][Ii]?)?[Bb]?\s*$", "integer")]
Signal = Annotated[int, BeforeValidator(signal_number), _written(r"^(SIG|sig)?[A-Za-z0-9]+$", "integer")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]  # strict: yes and "2" are not numbers
Flag = Annotated[bool, Field(strict=True)]


def _text(value: object) -> object:
    """A value of an environment variable: what YAML reads as a number or a flag is meant as text there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("is no name of a variable")
    return name


Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Environment = dict[Annotated[str, AfterValidator(_variable)], Text]


_HEALTH, _RESTART, _STOP = HealthSpec(), RestartSpec(), StopSpec()  # for their defaults


class Block(BaseModel):
    """A block of the file; keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Health(Block):
    """How often a program is probed, and with how much patience."""

    period: Positive = _HEALTH.period
    timeout: Positive = _HEALTH.timeout
    failure_threshold: Count = _HEALTH.failure_threshold
    readiness_period: Positive | None = Field(default=None, description="of the catalogue; default: 3 x period")
    readiness_timeout: Positive | None = Field(default=None, description="default: timeout")
    readiness_threshold: Count | None = Field(default=None, description="default: failure_threshold")
    startup_period: Positive = _HEALTH.startup_period
    startup_timeout: Positive | None = Field(default=None, description="default: timeout")
    startup_budget: Positive = _HEALTH.startup_budget
    startup_stall: Positive = _HEALTH.startup_stall
    stall_grace: Positive = _HEALTH.stall_grace
    canary: Flag = _HEALTH.canary
    canary_interval: Positive = _HEALTH.canary_interval
    canary_timeout: Positive = _HEALTH.canary_timeout
    expect: str | None = Field(default=None, description="a pattern that the canary's answer must match")

    @field_validator("expect")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no pattern: {error}") from error
        return value


def _off(value: object) -> object:
    """The word that was written: YAML 1.1 reads a bare ``off`` as false."""
    return "off" if value is False else value


Warm = Annotated[
    Literal["auto", "full", "api", "off"],
    BeforeValidator(_off),
    WithJsonSchema({"enum": ["auto", "full", "api", "off", False]}),
]


class Restart(Block):
    """Whether and how a program that ended is started again."""

    policy: Literal["always", "on-failure", "never"] = "always"
    backoff: Duration = _RESTART.backoff
    backoff_factor: Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)] = _RESTART.backoff_factor
    backoff_cap: Duration = _RESTART.backoff_cap
    intensity: Count = _RESTART.intensity
    window: Positive = _RESTART.window


class Stop(Block):
    """How a program is stopped."""

    signal: Signal = _STOP.signal
    grace: Duration = _STOP.grace


class Supervised(Block):
    """The settings that the gateway, every model and every program have."""

    health: Health = Health()
    restart: Restart = Restart()
    stop: Stop = Stop()
    env: Environment = {}


class Gateway(Supervised):
    """The LiteLLM proxy: the one address that clients use."""

    host: str = "127.0.0.1"
    port: Port = 4000
    replicas: Annotated[Count, Field(le=64)] = 1
    litellm_config: str | None = Field(default=None, description="native LiteLLM configuration, relative to this file")
    hold: Literal["auto"] | Duration = "auto"
    max_rss: Annotated[Size, AfterValidator(_most_memory)] | None = Field(
        default=None, description="a replica that has grown beyond that is replaced"
    )
    warm: Warm = "auto"


class Model(Supervised):
    """One vLLM server and its group on the gateway."""

    model: str = Field(description="hub id, or a folder (relative to this file)")
    source: Literal["huggingface", "modelscope", "path"] = "huggingface"
    served_model_name: str | None = None
    gpus: list[Annotated[int, Field(ge=0, strict=True)]] = []
    port: Port | None = Field(default=None, description="on loopback; this or uds")
    uds: Flag | str | None = Field(
        default=None, description="a unix socket in its place: true (one in the runtime folder), or its path"
    )
    vision: Flag = False
    chat: Flag = Field(default=True, description="false: it has no chat template, and is asked by /v1/completions")
    vllm: dict[str, Any] = Field(default={}, description="any option of `vllm serve`, in its own words")
    litellm: dict[str, Any] = Field(
        default={}, description="more litellm_params for this group; model_info under model_info"
    )
    autostart: Flag = True
    warm: Warm = "auto"


class Ready(Block):
    """When a program counts as ready: one of these."""

    tcp: str | None = Field(default=None, description='"host:port" accepts connections')
    http: str | None = Field(default=None, description="this URL answers 200")
    after: Duration | None = Field(default=None, description="it has lived that long")


def _words(line: str) -> list[str]:
    """A command line as a list that does the same; by a shell where it has characters that only a shell understands."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return ["sh", "-c", line] if re.search(r"[|&;<>$`*~]", line) else words


class Program(Supervised):
    """Any other command to keep running."""

    command: Annotated[list[Text], Field(min_length=1)]
    cwd: str | None = None
    ready: Ready = Ready(after=1.0)
    autostart: Flag = True

    @field_validator("command", mode="before")
    @classmethod
    def _no_shell(cls, value: object) -> object:
        if isinstance(value, str) and not _words(value):
            raise ValueError("is empty; write a list: [PROGRAM, WORD, ...]")
        if isinstance(value, str):
            raise ValueError(f"must be a list, as it never meets a shell: write {json.dumps(_words(value))}")
        return value


class Engine(Block):
    """An environment that exists already."""

    python: str


class Engines(Block):
    """Only to use environments that exist already."""

    vllm: Engine | None = None
    litellm: Engine | None = None


class Logs(Block):
    """The programs' output: segments of ``max_bytes``, of which ``backups`` are kept."""

    max_bytes: Annotated[Size, AfterValidator(_segment)] = SEGMENT_BYTES
    backups: Count = SEGMENTS_KEPT


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Root(Block):
    """A configuration of llm-supervisor."""

    gateway: Gateway | None = None
    env_file: str | None = None
    ready_when: Literal["gateway", "all"] = "gateway"
    engines: Engines = Engines()
    models: dict[str, Model] = {}
    programs: dict[str, Program] = {}
    logs: Logs = Logs()


def wanted(where: Sequence[str | int]) -> str:
    """The kind of value that the schema wants at a place: ``text``, ``number``, ``flag`` or ``flag or text``; empty
    where any kind may stand, and for a place that does not exist."""
    kind: Any = Root
    for part in where:
        found = [_inside(one, part) for one in _kinds(kind)]
        kind = next((one for one in found if one is not None), None)
        if kind is None:
            return ""
    kinds = _kinds(kind)
    if any(one in (int, float) for one in kinds):
        return "number"
    flag, text = bool in kinds, any(one is str or get_origin(one) is Literal for one in kinds)
    return " or ".join(word for word, there in (("flag", flag), ("text", text)) if there)


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without ``Annotated`` and ``None``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (UnionType, Union):
        return [kind for one in get_args(annotation) if one is not NoneType for kind in _kinds(one)]
    return [annotation]


def _inside(kind: Any, part: str | int) -> Any:
    """The annotation of a field, of a mapping's values or of a list's items; None where there is none."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        info = kind.model_fields.get(str(part))
        return None if info is None else info.annotation
    args = get_args(kind)
    return {dict: args[-1], list: args[0]}.get(get_origin(kind)) if args else None
