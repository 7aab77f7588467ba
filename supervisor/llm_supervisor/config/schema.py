"""The settings that a configuration may have: pydantic models with types, ranges and defaults. Pure.

Whether a file exists or a port is free is for the checks. Defaults that a program's specification also has are taken
from there, so that each is defined once.
"""

from __future__ import annotations

import ipaddress
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

    period: Positive = Field(
        default=_HEALTH.period,
        description="time between two liveness probes, and between two readings of an engine's counters",
    )
    timeout: Positive = Field(default=_HEALTH.timeout, description="how long a liveness probe may take")
    failure_threshold: Count = Field(
        default=_HEALTH.failure_threshold,
        description="so many failed liveness probes or canaries in a row count as a failure",
    )
    readiness_period: Positive | None = Field(
        default=None, description="time between two readings of the catalogue (default: 3 x period)"
    )
    readiness_timeout: Positive | None = Field(
        default=None, description="how long a reading of the catalogue may take (default: timeout)"
    )
    readiness_threshold: Count | None = Field(
        default=None,
        description="so many failed readings of the catalogue in a row count as a failure (default: failure_threshold)",
    )
    startup_period: Positive = Field(
        default=_HEALTH.startup_period, description="time between two probes before the first readiness"
    )
    startup_timeout: Positive | None = Field(
        default=None, description="how long a probe may take before the first readiness (default: timeout)"
    )
    startup_budget: Positive = Field(
        default=_HEALTH.startup_budget,
        description="how long a start may take; extended while it makes progress (weights are loaded, a download "
        "grows)",
    )
    startup_stall: Positive = Field(
        default=_HEALTH.startup_stall, description="how long a start may show no sign of life: no output, no progress"
    )
    stall_grace: Positive = Field(
        default=_HEALTH.stall_grace,
        description="how long work may stand still, though there is some to do, before the program counts as hung",
    )
    canary: Flag = Field(
        default=_HEALTH.canary, description="whether real requests of a few tokens are sent to it (models only)"
    )
    canary_interval: Positive = Field(
        default=_HEALTH.canary_interval, description="an idle program gets a canary so often"
    )
    canary_timeout: Positive = Field(default=_HEALTH.canary_timeout, description="how long a canary may take")
    expect: str | None = Field(
        default=None,
        description="a regular expression that the text of the canary's answer must match; null accepts any text",
    )

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

    policy: Literal["always", "on-failure", "never"] = Field(
        default="always",
        description="whether a program that ended by itself is started again: always, only after a failure, or never",
    )
    backoff: Duration = Field(
        default=_RESTART.backoff,
        description="the wait before a restart; the first restart after readiness is immediate",
    )
    backoff_factor: Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)] = Field(
        default=_RESTART.backoff_factor, description="each further wait is so many times the one before"
    )
    backoff_cap: Duration = Field(default=_RESTART.backoff_cap, description="no wait is longer than this")
    intensity: Count = Field(
        default=_RESTART.intensity,
        description="so many failures within the window end in FATAL; a readiness that has lasted (10 s, twice as long "
        "for each failure, at most 10 minutes) forgives those before it",
    )
    window: Positive = Field(default=_RESTART.window, description="the time within which failures are counted")


class Stop(Block):
    """How a program is stopped."""

    signal: Signal = Field(
        default=_STOP.signal, description="the signal that asks the program to stop, by name (TERM, INT ...) or number"
    )
    grace: Duration = Field(default=_STOP.grace, description="time between that signal and SIGKILL")


class Supervised(Block):
    """The settings that the gateway, every model and every program have."""

    health: Health = Field(default=Health(), description="how often it is probed, and with how much patience")
    restart: Restart = Field(default=Restart(), description="whether and when it is started again")
    stop: Stop = Field(default=Stop(), description="how it is stopped")
    env: Environment = Field(
        default={},
        description="variables added to its environment, as they are written (`0755` and `no` stay text); "
        "`NAME: ${NAME}` passes one on that it would not get",
    )


def _host(name: str) -> str:
    """A host, a pattern of hosts, an address or a network. Raises ValueError."""
    try:
        ipaddress.ip_network(name, strict=False)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9*]([A-Za-z0-9*._-]{0,252})", name):
            text = f"{short(name)} is no host; write a name (images.lan, *.lan), an address or a network (10.0.0.0/8)"
            raise ValueError(text) from None
    return name


class Media(Block):
    """What clients may send to local models, and have them fetch."""

    allow_hosts: Literal["all"] | list[Annotated[str, AfterValidator(_host)]] = Field(
        default=[],
        description="hosts with private addresses from which models may fetch images, videos and sounds: names "
        "(`images.lan`, `*.lan`), addresses and networks (`10.0.0.0/8`), or all. Without it, private, loopback and "
        "link-local addresses are refused",
    )
    max_body: Size = Field(default=512 << 20, description="a larger request is refused")
    max_files: Count = Field(default=1000, description="a request with more images, videos and sounds is refused")
    max_pixels: Count = Field(
        default=1_000_000_000,
        description="a request whose images, as far as they are in it as base64, have more pixels together is refused",
    )


class Gateway(Supervised):
    """The LiteLLM proxy: the one address that clients use."""

    host: str = Field(default="127.0.0.1", description="the address on which clients reach the gateway")
    port: Port = Field(default=4000, description="the port of that address")
    replicas: Annotated[Count, Field(le=64)] = Field(
        default=1,
        description="how many LiteLLM processes share the address; one that dies costs only the requests that it "
        "was answering",
    )
    litellm_config: str | None = Field(
        default=None,
        description="LiteLLM's own configuration file, relative to this file: cloud models, router settings, fallbacks",
    )
    hold: Literal["auto"] | Duration = Field(
        default="auto",
        description="how long a request waits for a local model that restarts: seconds, or auto (1.5 x its last "
        "cold start, twice that where a warm start is tried first, at most 10m)",
    )
    max_rss: Annotated[Size, AfterValidator(_most_memory)] | None = Field(
        default=None, description="a replica whose memory has grown beyond this is replaced while another one serves"
    )
    media: Media = Field(default=Media(), description="what clients may send to local models, and have them fetch")
    warm: Warm = Field(
        default="auto",
        description="whether a restart forks a process that has imported LiteLLM already; off: never, any other "
        "value: when possible",
    )


class Model(Supervised):
    """One vLLM server and its group on the gateway."""

    model: str = Field(description="a hub id (OWNER/NAME), or a folder, relative to this file")
    source: Literal["huggingface", "modelscope", "path"] = Field(
        default="huggingface", description="the hub that the model is downloaded from; path: a folder"
    )
    served_model_name: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        default=None,
        description="the name that vLLM itself gives to the model (default: its name in this file); of several the "
        "first is what the gateway asks for, and all are aliases of the group",
    )
    gpus: list[Annotated[int, Field(ge=0, strict=True)]] = Field(
        default=[], description="the GPUs it may use, by NVML's index; sets CUDA_VISIBLE_DEVICES"
    )
    port: Port | None = Field(default=None, description="the engine's port on loopback; every model needs this or uds")
    uds: Flag | str | None = Field(
        default=None, description="a unix socket instead of a port: true (one in the runtime folder), or its path"
    )
    vision: Flag = Field(
        default=False, description="whether it takes images; then the canary sends one, and clients are told"
    )
    chat: Flag = Field(
        default=True, description="false: it has no chat template by configuration, and is probed by /v1/completions"
    )
    vllm: dict[str, Any] = Field(
        default={}, description="any option of `vllm serve`, by its own name, written with - or _"
    )
    litellm: dict[str, Any] = Field(
        default={}, description="more litellm_params for this group on the gateway; model_info goes under model_info"
    )
    autostart: Flag = Field(default=True, description="false: it is started only by `llm-supervisor start`")
    warm: Warm = Field(
        default="auto",
        description="which processes a restart forks from one that has imported vLLM: full (all), api (only the API "
        "server), off, or auto (full where `install` has tried it on this machine, else api)",
    )


class Ready(Block):
    """When a program counts as ready: one of these."""

    tcp: str | None = Field(default=None, description='"host:port" accepts connections')
    http: str | None = Field(default=None, description="this URL answers 200")
    after: Duration | None = Field(default=None, description="it has been alive for so long")


def _words(line: str) -> list[str]:
    """A command line as a list that does the same; by a shell where it has characters that only a shell understands."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return ["sh", "-c", line] if re.search(r"[|&;<>$`*~]", line) else words


class Program(Supervised):
    """Any other command to keep running."""

    command: Annotated[list[Text], Field(min_length=1)] = Field(
        description="the program and its arguments, as a list; no shell reads it, and ${NAME} is left alone"
    )
    cwd: str | None = Field(default=None, description="the folder it is started in")
    ready: Ready = Field(default=Ready(after=1.0), description="when it counts as ready: one of tcp, http and after")
    autostart: Flag = Field(default=True, description="false: it is started only by `llm-supervisor start`")

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

    python: str = Field(description="the Python interpreter of an environment that has the engine")


class Engines(Block):
    """Only to use environments that exist already."""

    vllm: Engine | None = Field(
        default=None, description="where vLLM is, in place of the environment that `install` makes"
    )
    litellm: Engine | None = Field(
        default=None, description="where LiteLLM is, in place of the environment that `install` makes"
    )


class Logs(Block):
    """The programs' output: segments of ``max_bytes``, of which ``backups`` are kept."""

    max_bytes: Annotated[Size, AfterValidator(_segment)] = Field(
        default=SEGMENT_BYTES, description="a program's log is continued in a new file at this size"
    )
    backups: Count = Field(default=SEGMENTS_KEPT, description="so many files are kept of each program")


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Root(Block):
    """A configuration of llm-supervisor."""

    gateway: Gateway | None = Field(
        default=None,
        description="the LiteLLM proxy, the one address that clients use; without it only models and programs run",
    )
    env_file: str | None = Field(
        default=None,
        description="a file of NAME=value lines with keys, relative to this file; refused if others can read it. The "
        "gateway gets them; a model gets those that vLLM reads",
    )
    ready_when: Literal["gateway", "all"] = Field(
        default="gateway", description="what systemd's READY=1 waits for: the gateway, or all programs"
    )
    engines: Engines = Field(default=Engines(), description="environments of the engines that exist already")
    models: dict[str, Model] = Field(
        default={}, description="the models that vLLM serves, by the name that clients ask for"
    )
    programs: dict[str, Program] = Field(default={}, description="any other commands to keep running, by name")
    logs: Logs = Field(default=Logs(), description="the size of the programs' logs")


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
