"""What a configuration may say: the models that validate it. Types, ranges and defaults; no files, no ports."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from llm_supervisor.suggest import short
from llm_supervisor.units import duration, size


def _most_memory(value: int) -> int:
    if value < 64 << 20:
        raise ValueError("is less than LiteLLM takes by itself; write 2GB, for one")
    return value


def _segment(value: int) -> int:
    if value < 64 << 10:
        raise ValueError("is less than 64K, which a start alone fills; write 50MB, for one")
    return value


def signal_number(value: object) -> int:
    """A signal's number from ``TERM``, ``SIGTERM`` or 15."""
    try:
        if isinstance(value, str):
            return signal.Signals["SIG" + value.upper().removeprefix("SIG")].value
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value).value
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{short(value)} is no signal; write TERM, INT, QUIT, HUP, USR1 or USR2")


def _written(text: str, number: str) -> WithJsonSchema:
    """For editors: a number, or a text of that pattern."""
    return WithJsonSchema({"anyOf": [{"type": number, "minimum": 0}, {"type": "string", "pattern": text}]})


_A_DURATION = _written(r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$", "number")
Duration = Annotated[float, BeforeValidator(duration), _A_DURATION]
Positive = Annotated[float, BeforeValidator(duration), Field(gt=0), _A_DURATION]
Size = Annotated[int, BeforeValidator(size), _written(r"^\s*\d+(\.\d+)?\s*([KMGTkmgt][Ii]?)?[Bb]?\s*$", "integer")]
Signal = Annotated[int, BeforeValidator(signal_number), _written(r"^(SIG|sig)?[A-Za-z0-9]+$", "integer")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]  # strict: yes is no number, and neither is "2"
Flag = Annotated[bool, Field(strict=True)]


def _text(value: object) -> object:
    """Environment values: YAML's 1 and true are meant as text there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("is no name of a variable")
    return name


Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]
Environment = dict[Annotated[str, AfterValidator(_variable)], Text]


class Block(BaseModel):
    """Every block refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Health(Block):
    """How often and how patiently it is asked how it is."""

    period: Positive = 10.0
    timeout: Positive = 10.0
    failure_threshold: Count = 3
    readiness_period: Positive | None = Field(default=None, description="of the catalogue; default: 3 x period")
    readiness_timeout: Positive | None = Field(default=None, description="default: timeout")
    readiness_threshold: Count | None = Field(default=None, description="default: failure_threshold")
    startup_period: Positive = 0.5
    startup_timeout: Positive | None = Field(default=None, description="default: timeout")
    startup_budget: Positive = 1800.0
    startup_stall: Positive = 600.0
    stall_grace: Positive = 120.0
    canary: Flag = True
    canary_interval: Positive = 300.0
    canary_timeout: Positive = 30.0
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
    return "off" if value is False else value  # what YAML 1.1 makes of a bare off


Warm = Annotated[
    Literal["auto", "full", "api", "off"],
    BeforeValidator(_off),
    WithJsonSchema({"enum": ["auto", "full", "api", "off", False]}),
]


class Restart(Block):
    """Whether and how it comes back."""

    policy: Literal["always", "on-failure", "never"] = "always"
    backoff: Duration = 5.0
    backoff_factor: Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)] = 2.0
    backoff_cap: Duration = 300.0
    intensity: Count = 5
    window: Positive = 3600.0


class Stop(Block):
    """How it is asked to leave."""

    signal: Signal = 15
    grace: Duration = 30.0


class Supervised(Block):
    """What the gateway, every model and every program understand."""

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
    """A command line as the list that does the same."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return ["sh", "-c", line] if re.search(r"[|&;<>$`*~]", line) else words


class Program(Supervised):
    """Any other command to keep alive."""

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

    max_bytes: Annotated[Size, AfterValidator(_segment)] = 50 * 1024 * 1024
    backups: Count = 10


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Root(Block):
    """The whole file."""

    gateway: Gateway | None = None
    env_file: str | None = None
    ready_when: Literal["gateway", "all"] = "gateway"
    engines: Engines = Engines()
    models: dict[str, Model] = {}
    programs: dict[str, Program] = {}
    logs: Logs = Logs()


def wanted(where: Sequence[str | int]) -> str:
    """What the schema wants at a place: ``text``, ``number``, ``flag``, ``flag or text``; empty where it may be
    anything, or there is no such place."""
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
    """The types that it may be, without what is written about them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (UnionType, Union):
        return [kind for one in get_args(annotation) if one is not NoneType for kind in _kinds(one)]
    return [annotation]


def _inside(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        info = kind.model_fields.get(str(part))
        return None if info is None else info.annotation
    args = get_args(kind)
    return {dict: args[-1], list: args[0]}.get(get_origin(kind)) if args else None
