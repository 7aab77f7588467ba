"""Specifications of single programs: argv, environment, probes and digests, from a checked configuration.

Pure but for looking which models are downloaded. ``plan`` calls this once for every program.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.config import Config, split_url
from llm_supervisor.config.downloads import fetched, repositories_of
from llm_supervisor.config.environments import around_proxies, with_own_programs
from llm_supervisor.config.option_paths import resolved
from llm_supervisor.core.health import Answer, ProbeResult
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan, Reader
from llm_supervisor.core.spec import (
    HealthSpec,
    Kind,
    Launch,
    ProgramSpec,
    RestartPolicy,
    RestartSpec,
    StopSpec,
)
from llm_supervisor.engines import canary
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import database, references
from llm_supervisor.engines.litellm import probes as litellm_probes
from llm_supervisor.engines.litellm import process as litellm_process
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm import probes as vllm_probes
from llm_supervisor.engines.vllm import process as vllm_process

ENGINES_FILE = "engines.json"
ENGINE_PIPE = 1024 * 1024  # bytes of the pipe that takes an engine's output
START_GRACE = 3.0  # seconds between SIGTERM and SIGKILL for an engine that is not ready yet
_DRAIN_MARGIN = 5  # seconds before SIGKILL at which LiteLLM stops waiting for requests

# How a program is watched, not what it is: a change of these settings needs no new process
_WATCHING = frozenset({"health", "restart", "stop", "autostart", "ready", "warm"})
# Settings of a model that only the gateway and the probes use: a change of these needs no new engine
_FOR_THE_GATEWAY = frozenset({"litellm", "vision", "chat"})
# Variables of an engine that the daemon's own environment does not override
_ALWAYS_OURS = frozenset(
    {"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "SPT_NOENV", "VLLM_API_KEY", "VLLM_USE_MODELSCOPE"}
)
_LONGEST_WORD = 32 * 1024  # characters of the names that a replica is told on its command line


@dataclass(frozen=True)
class Pythons:
    """The engines' interpreters. ``vllm_cpu``: that vLLM is the build for CPUs. ``vllm_forks``: it was tried on this
    very machine that EngineCore and Workers can be forked from a process that has imported them."""

    vllm: str
    litellm: str
    vllm_cpu: bool
    vllm_forks: bool = False


@dataclass(frozen=True)
class Planned:
    """One program: what it should be, how it is asked, and how its output tells its progress."""

    spec: ProgramSpec
    asking: ProbePlan | None = None
    reader: Reader | None = None


@dataclass(frozen=True)
class Setting:
    """What all programs of a configuration have in common. ``runtime`` is the folder of generated files and private
    sockets."""

    config: Config
    pythons: Pythons
    runtime: Path

    def socket(self, alias: str, model: schema.Model) -> str | None:
        """The path of the unix socket of a model's engine; None where it has a port."""
        if isinstance(model.uds, str):
            return str(self.config.executable(model.uds))
        return str(self.runtime / f"{alias}.vllm.sock") if model.uds else None


@dataclass(frozen=True)
class GatewayFile:
    """The file that LiteLLM gets: its path, its content without secrets, and the variables that hold the secrets."""

    path: Path
    content: Mapping[str, Any]
    hidden: Mapping[str, str]


# Programs -----------------------------------------------------------------------------------------------------


def command(setting: Setting, name: str, program: schema.Program) -> Planned:
    """The specification of a program under ``programs``."""
    config = setting.config
    spec = ProgramSpec(
        name=name,
        kind=Kind.COMMAND,
        launch=Launch(
            argv=tuple(program.command),
            env=tuple(program.env.items()),
            cwd=str(config.resolve(program.cwd)) if program.cwd else None,
        ),
        health=replace(_health(program.health), canary=False),
        restart=_restart(program.restart),
        stop=StopSpec(
            program.stop.signal,
            program.stop.grace,
            start_grace=program.stop.grace,
            sweep_grace=min(program.stop.grace, StopSpec().sweep_grace),
        ),
        ready_after=program.ready.after,
        autostart=program.autostart,
        digest=_digest(_set_by_user(program, but=_WATCHING), str(config.file.parent)),
        settings=_digest(_set_by_user(program)),
    )
    return Planned(spec, _command_asking(program.ready))


def _command_asking(ready: schema.Ready) -> ProbePlan | None:
    if ready.tcp is not None:
        host, _, port = ready.tcp.rpartition(":")
        return ProbePlan((host.strip("[]"), int(port)))
    if ready.http is None:
        return None
    split = split_url(ready.http)
    assert split is not None, "the configuration was checked"
    address, path = split
    return ProbePlan(address, (HttpProbe("liveness", path, _judge_ok),))


def _judge_ok(status: int, body: bytes) -> ProbeResult:
    return ProbeResult(Answer.OK if status == 200 else Answer.INVALID, f"answers {status}")


# Engines of models --------------------------------------------------------------------------------------------


def engine(setting: Setting, alias: str, model: schema.Model) -> Planned:
    """The specification of the vLLM server of a model."""
    config = setting.config
    spec = ProgramSpec(
        name=alias,
        kind=Kind.VLLM,
        launch=_engine_launch(setting, alias, model),
        health=_health(model.health),
        restart=_restart(model.restart),
        stop=StopSpec(model.stop.signal, model.stop.grace, start_grace=START_GRACE, sweep_grace=0.0),
        vital=vllm_process.VITAL,
        gpus=tuple(model.gpus),
        autostart=model.autostart,
        digest=_digest(
            _set_by_user(model, but=_WATCHING | _FOR_THE_GATEWAY),
            str(config.model_path(model) or ""),
            *([options] if (options := resolved(model.vllm, config.file.parent)) != model.vllm else []),
            names[0] if len(names := _served_names(alias, model)) == 1 else names,
            config.root.engines.vllm,  # as it is written: another interpreter by default is for the next start
            {name: value for name, value in config.env_values.items() if name.startswith(vllm_process.READS)},
        ),
        settings=_digest(_set_by_user(model)),
    )
    return Planned(spec, _engine_asking(setting, alias, model), vllm_probes.step)


def _engine_launch(setting: Setting, alias: str, model: schema.Model) -> Launch:
    config, pythons = setting.config, setting.pythons
    taken = repositories_of(config, model)
    where = config.model_path(model) or fetched(taken)
    name = str(where or model.model)
    options = resolved(model.vllm, config.file.parent)
    # A start method that the user sets overrides ours
    chosen = "VLLM_WORKER_MULTIPROC_METHOD" in {**config.environ, **model.env}
    whole = not chosen and (model.warm == "full" or (model.warm == "auto" and pythons.vllm_forks))
    return Launch(
        argv=vllm_process.argv(
            pythons.vllm,
            name,
            _served_names(alias, model),
            _engine_place(setting, alias, model),
            options,
            model.stop.grace,
            {name: one.lists for name, one in (config.options or {}).items()},
        ),
        env=tuple(_engine_environment(setting, model, where).items()),
        # another model's or the daemon's own key must not become this engine's
        unset=() if _engine_keys(model) else ("VLLM_API_KEY",),
        port=model.port,
        uds=setting.socket(alias, model),
        pipe_size=ENGINE_PIPE,
        warm=vllm_process.fork_server(pythons.vllm, name, whole=whole) if model.warm != "off" else (),
        warm_env=vllm_process.FORK if whole else (),
        late=vllm_process.LATE,
        downloads=tuple(str(one.growing) for one in taken),
    )


def _engine_environment(setting: Setting, model: schema.Model, folder: Path | None) -> dict[str, str]:
    """Our variables, overridden by the daemon's environment (except ``_ALWAYS_OURS``), and that by the model's env."""
    environ = setting.config.environ
    ours = vllm_process.environment(
        gpus=model.gpus,
        api_keys=_engine_keys(model),
        cpu=setting.pythons.vllm_cpu,
        offline=folder is not None,
        modelscope=model.source == "modelscope" and folder is None,
    )
    env = {name: value for name, value in ours.items() if name not in environ or name in _ALWAYS_OURS}
    env |= model.env
    env["PATH"] = with_own_programs(setting.pythons.vllm, {**environ, **env})
    return env | around_proxies({**environ, **env})


def _engine_asking(setting: Setting, alias: str, model: schema.Model) -> ProbePlan:
    place, names, key = _engine_place(setting, alias, model), _served_names(alias, model), _engine_key(model)
    return ProbePlan(
        place if isinstance(place, str) else ("127.0.0.1", place),
        (
            HttpProbe("liveness", "/health", vllm_probes.judge_health),
            HttpProbe("catalogue", "/v1/models", partial(vllm_probes.judge_models, served_names=names)),
        ),
        headers=_bearer(key) if key else (),
        tls=engine_options.speaks_tls(engine_options.by_name(model.vllm)),
        metrics=MetricsProbe("/metrics", vllm_probes.read_metrics),
        canary=_canary(model, names[0]) if model.health.canary else None,
    )


def _engine_place(setting: Setting, alias: str, model: schema.Model) -> str | int:
    """The unix socket or the port of a model's engine."""
    uds = setting.socket(alias, model)
    place = uds if uds is not None else model.port
    assert place is not None, "the configuration was checked"
    return place


def _served_names(alias: str, model: schema.Model) -> list[str]:
    """The names that vLLM itself gives to the model; by the first one it is asked."""
    names = model.served_model_name or alias
    return [names] if isinstance(names, str) else names


def _engine_keys(model: schema.Model) -> list[str]:
    """The keys that a model's engine accepts; none where it asks for none. We use the first one."""
    variable = model.env.get("VLLM_API_KEY")
    return engine_options.keys(engine_options.by_name(model.vllm)) or ([variable] if variable else [])


def _engine_key(model: schema.Model) -> str | None:
    return next(iter(_engine_keys(model)), None)


def _canary(model: schema.Model, name: str) -> Canary:
    """The real request that proves a model: embeddings, chat or completion. ``name`` is the model's name in it."""
    judge = partial(canary.judge, expect=model.health.expect)
    if engine_options.pools(engine_options.by_name(model.vllm)):
        return Canary("/v1/embeddings", partial(canary.embedding_canary, model=name), judge)
    if model.chat:
        return Canary("/v1/chat/completions", partial(canary.chat_canary, model=name, vision=model.vision), judge)
    return Canary("/v1/completions", partial(canary.completion_canary, model=name), judge)


# The gateway --------------------------------------------------------------------------------------------------


def replica(setting: Setting, name: str, gateway: schema.Gateway, file: GatewayFile, master_key: str) -> Planned:
    """The specification of one LiteLLM proxy."""
    config, models = setting.config, setting.config.root.models
    uds = str(setting.runtime / f"{name}.sock")
    keys = {key_variable(alias): key for alias, model in models.items() if (key := _engine_key(model))}
    env = {**litellm_process.environment(str(file.path), master_key, {**keys, **file.hidden}), **gateway.env}
    sockets = {
        proxy_config.socket_host(alias): path
        for alias, model in models.items()
        if (path := setting.socket(alias, model)) is not None
    }
    env["PATH"] = with_own_programs(setting.pythons.litellm, {**config.environ, **env})
    env |= around_proxies({**config.environ, **env}, sockets)
    hold = str(setting.runtime / ENGINES_FILE)
    modules = str(config.executable(gateway.litellm_config).parent) if gateway.litellm_config else None
    python = setting.pythons.litellm
    spec = ProgramSpec(
        name=name,
        kind=Kind.LITELLM,
        launch=Launch(
            argv=litellm_process.argv(
                python,
                uds,
                max(int(gateway.stop.grace) - _DRAIN_MARGIN, 1),
                hold,
                sockets,
                modules,
                _media(setting, gateway.media, file.content),
                [f"127.0.0.1:{model.port}" for model in models.values() if _unverified(model)],
            ),
            env=tuple(env.items()),
            listener=(gateway.host, gateway.port),
            uds=uds,
            pipe_size=ENGINE_PIPE,
            warm=() if gateway.warm == "off" else litellm_process.fork_server(python),
            late=litellm_process.late(file.content, {*keys, *file.hidden, *config.env_values}),
        ),
        health=replace(_health(gateway.health), canary=False),
        restart=_restart(gateway.restart),
        stop=StopSpec(gateway.stop.signal, gateway.stop.grace, start_grace=START_GRACE, sweep_grace=0.0),
        max_rss=gateway.max_rss,
        digest=_digest(
            gateway.host,
            gateway.port,
            gateway.env,
            config.root.engines.litellm,
            # what is written, not the file that is made of it: its defaults are ours, and another version has others
            usable_native(config)[0],
            [_described(local_group(alias, model)) for alias, model in models.items()],
            config.env_values,
            master_key,
            keys,
            sockets,
            *([media] if (media := _set_by_user(gateway.media)) else []),
        ),
        settings=_digest(_set_by_user(gateway), {alias: _decides_canary(model) for alias, model in models.items()}),
    )
    asking = _replica_asking(config, uds, {**config.environ, **env}, file.content, master_key)
    return Planned(spec, asking, litellm_probes.step)


def _unverified(model: schema.Model) -> bool:
    """Whether an engine on a port speaks https by a certificate that the gateway is not told to verify."""
    tls = engine_options.speaks_tls(engine_options.by_name(model.vllm))
    return tls and model.port is not None and not model.litellm.get("ssl_verify")


def _media(setting: Setting, media: schema.Media, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a replica is told of what clients may send, and have fetched."""
    config = setting.config
    engines = {proxy_config.engine_base(alias, model.port): alias for alias, model in config.root.models.items()}
    elsewhere = proxy_config.elsewhere(content, engines, config.environ)
    return {
        "allow": media.allow_hosts,
        "body": media.max_body,
        "files": media.max_files,
        "pixels": media.max_pixels,
        # one word of a command line has its limit (128 KiB); without the names, these requests are looked at, too
        "elsewhere": elsewhere if sum(map(len, elsewhere)) < _LONGEST_WORD else (),
    }


def _replica_asking(
    config: Config, uds: str, environ: Mapping[str, str], content: Mapping[str, Any], master_key: str
) -> ProbePlan:
    needs = {
        "redis": proxy_config.redis_address(content, environ),
        "database": database.address(content, environ),
    }
    resolved = references.resolved(content, environ)
    refusing = proxy_config.may_refuse_us(resolved)
    judge = partial(litellm_probes.judge_groups, expected=proxy_config.expected_groups(resolved), refusing=refusing)
    return ProbePlan(
        uds,
        (
            HttpProbe("liveness", "/health/liveliness", litellm_probes.judge_liveliness),
            HttpProbe("catalogue", "/model_group/info", judge),
        ),
        headers=_bearer(master_key) + proxy_config.our_address(resolved),
        routes={
            alias: _through_gateway(_canary(model, alias), refusing)
            for alias, model in config.root.models.items()
            if model.health.canary
        },
        needs={name: address for name, address in needs.items() if address is not None},
    )


def _through_gateway(canary: Canary, refusing: str) -> Canary:
    """The same request, sent to the gateway, which may turn it away by that setting (empty: by none)."""
    if not refusing:
        return canary
    return replace(canary, judge=partial(litellm_probes.judge_route, judge=canary.judge, refusing=refusing))


def usable_native(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """The part of LiteLLM's own file that can be used, and the groups that cannot, each with the reason."""
    return proxy_config.usable(config.native, gateway_environ(config))


def gateway_environ(config: Config) -> dict[str, str]:
    """The variables by which references of LiteLLM's own file are resolved."""
    return {**config.environ, **(config.root.gateway.env if config.root.gateway is not None else {})}


def local_group(alias: str, model: schema.Model) -> proxy_config.LocalGroup:
    """A local model as a group of the gateway."""
    params = {name: value for name, value in model.litellm.items() if name != "model_info"}
    served, *others = _served_names(alias, model)
    tls = engine_options.speaks_tls(engine_options.by_name(model.vllm))
    return proxy_config.LocalGroup(
        alias=alias,
        served_name=served,
        api_base=proxy_config.engine_base(alias, model.port, tls=tls),
        vision=model.vision,
        key_variable=key_variable(alias) if _engine_key(model) else None,
        params=params,
        info=model.litellm.get("model_info") or {},
        aliases=tuple(name for name in (served, *others) if name != alias) if others else (),
    )


def _described(group: proxy_config.LocalGroup) -> dict[str, Any]:
    """A group as a digest counts it: without what an earlier version did not know, where it is not used."""
    return {name: value for name, value in asdict(group).items() if name != "aliases" or value}


def key_variable(alias: str) -> str:
    """The environment variable by which LiteLLM gets the key of that model's engine; no two aliases share one."""
    return "LLM_SUPERVISOR_KEY_" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", alias)


# What they share ----------------------------------------------------------------------------------------------


def _bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {key}"),)


def _digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that are equal for equal parts, in every version of ours, and reveal none of them."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _set_by_user(block: schema.Block, *, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The settings of a block that differ from the defaults, of which another version may have more."""
    return block.model_dump(mode="json", exclude_defaults=True, exclude=set(but))


def _decides_canary(model: schema.Model) -> list[object]:
    """All that decides which canary is sent through the gateway for a model."""
    options = engine_options.by_name(model.vllm)
    health = model.health
    return [model.vision, model.chat, health.canary, health.expect, options.get("runner"), options.get("task")]


def _health(health: schema.Health) -> HealthSpec:
    return HealthSpec(
        period=health.period,
        timeout=health.timeout,
        failure_threshold=health.failure_threshold,
        readiness_period=health.readiness_period or 3 * health.period,
        readiness_timeout=health.readiness_timeout or health.timeout,
        readiness_threshold=health.readiness_threshold or health.failure_threshold,
        startup_period=health.startup_period,
        startup_timeout=health.startup_timeout or health.timeout,
        startup_budget=health.startup_budget,
        startup_stall=health.startup_stall,
        stall_grace=health.stall_grace,
        canary=health.canary,
        canary_interval=health.canary_interval,
        canary_timeout=health.canary_timeout,
        expect=health.expect,
    )


def _restart(restart: schema.Restart) -> RestartSpec:
    return RestartSpec(
        RestartPolicy(restart.policy),
        restart.backoff,
        restart.backoff_factor,
        restart.backoff_cap,
        restart.intensity,
        restart.window,
    )
