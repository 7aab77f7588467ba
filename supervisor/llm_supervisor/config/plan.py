"""From a checked configuration to specifications: argv, environment, questions, and the file that LiteLLM gets. Pure
but for looking which models are there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.downloads import fetched, repositories_of
from llm_supervisor.config.load import GATEWAY, Config, split_url
from llm_supervisor.core.fleet import ReadyWhen
from llm_supervisor.core.group import ModelGroup
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
from llm_supervisor.engines.litellm import probes as litellm_probes
from llm_supervisor.engines.litellm import process as litellm_process
from llm_supervisor.engines.vllm import options as engine_options
from llm_supervisor.engines.vllm import probes as vllm_probes
from llm_supervisor.engines.vllm import process as vllm_process

ENGINES_FILE = "engines.json"
ENGINE_PIPE = 1024 * 1024
START_GRACE = 3.0  # seconds between SIGTERM and SIGKILL for an engine that is not ready yet


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
class Plan:
    """Everything the daemon needs. ``litellm_config`` is the content of the file at ``litellm_file``."""

    programs: Mapping[str, Planned]
    ready_when: ReadyWhen
    endpoint: str | None
    groups: tuple[ModelGroup, ...]
    litellm_file: Path
    litellm_config: Mapping[str, Any] | None
    logs: schema.Logs
    environ: Mapping[str, str] = field(repr=False)
    engines_file: Path  # in which the gateway reads how the engines are
    spare: Planned | None  # one more replica, which serves while an only one is replaced
    hold: float | None  # seconds that a request may wait for one; None: by its own measured start


def _digest(*parts: object) -> str:
    """Equal for equal parts, in every version of ours; it tells nothing of what is in them."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(block: schema.Block, *, but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What a person has said in a block, beyond the defaults (which another version may have more of)."""
    return block.model_dump(mode="json", exclude_defaults=True, exclude=set(but))


def _asked(model: schema.Model) -> list[object]:
    """What decides which question the gateway is asked for a model."""
    options = engine_options.by_name(model.vllm)
    health = model.health
    return [model.vision, model.chat, health.canary, health.expect, options.get("runner"), options.get("task")]


# How a program is watched, not what it is: a change of these needs no new process
_WATCHING = frozenset({"health", "restart", "stop", "autostart", "ready", "warm"})
_GATEWAYS = frozenset({"litellm", "vision", "chat"})  # of a model, what only the gateway and our questions need


def plan(config: Config, *, runtime: Path, pythons: Pythons, master_key: str) -> Plan:
    """Make the plan. ``runtime`` is where the generated file and the private sockets go."""
    root = config.root
    programs: dict[str, Planned] = {name: _program(config, name, one) for name, one in root.programs.items()}
    for alias, model in root.models.items():
        programs[alias] = _model(config, alias, model, pythons, runtime)
    litellm_file = runtime / "litellm_config.yaml"
    generated: dict[str, Any] | None = None
    groups: tuple[ModelGroup, ...] = ()
    endpoint = spare = None
    if root.gateway is not None:
        generated, hidden = proxy_config.hide_secrets(_composed(config, _usable(config)[0]))
        groups = groups_of(config)
        more = (config, root.gateway, pythons, runtime, litellm_file, master_key, generated, hidden)
        for number in range(1, root.gateway.replicas + 1):
            name = GATEWAY if number == 1 else f"{GATEWAY}-{number}"
            programs[name] = _gateway(name, *more)
        spare = _gateway(f"{GATEWAY}-{root.gateway.replicas + 1}", *more)
        host = root.gateway.host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        endpoint = f"http://{shown}:{root.gateway.port}"
    return Plan(
        programs,
        ReadyWhen(root.ready_when),
        endpoint,
        groups,
        litellm_file,
        generated,
        root.logs,
        config.environ,
        engines_file=runtime / ENGINES_FILE,
        spare=spare,
        hold=None if root.gateway is None or root.gateway.hold == "auto" else root.gateway.hold,
    )


def _program(config: Config, name: str, program: schema.Program) -> Planned:
    asking = None
    if program.ready.tcp is not None:
        host, _, port = program.ready.tcp.rpartition(":")
        asking = ProbePlan((host.strip("[]"), int(port)))
    elif program.ready.http is not None:
        split = split_url(program.ready.http)
        assert split is not None, "load() has checked it"
        address, path = split
        asking = ProbePlan(address, (HttpProbe("liveness", path, _judge_ok),))
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
            sweep_grace=min(program.stop.grace, 5.0),
        ),
        ready_after=program.ready.after,
        autostart=program.autostart,
        digest=_digest(_said(program, but=_WATCHING), str(config.file.parent)),
        settings=_digest(_said(program)),
    )
    return Planned(spec, asking)


def _judge_ok(status: int, body: bytes) -> ProbeResult:
    return ProbeResult(Answer.OK if status == 200 else Answer.INVALID, f"answers {status}")


def _socket(config: Config, alias: str, model: schema.Model, runtime: Path) -> str | None:
    """The path of its unix socket; None where it has a port."""
    if isinstance(model.uds, str):
        return str(config.executable(model.uds))
    return str(runtime / f"{alias}.vllm.sock") if model.uds else None


def _model(config: Config, alias: str, model: schema.Model, pythons: Pythons, runtime: Path) -> Planned:
    folder = config.model_path(model)
    served = model.served_model_name or alias
    api_key = _engine_key(model)
    uds = _socket(config, alias, model, runtime)
    place = uds if uds is not None else model.port
    assert place is not None, "the configuration was checked"
    taken = repositories_of(config, model)
    where = folder or fetched(taken)
    scope = model.source == "modelscope" and where is None
    cpu = pythons.vllm_cpu
    base = vllm_process.environment(
        gpus=model.gpus, api_key=api_key, cpu=cpu, offline=where is not None, modelscope=scope
    )
    # what a person says wins: in the model's env, then in the daemon's environment for the defaults of ours
    env = {
        **{name: value for name, value in base.items() if name not in config.environ or name in _OURS},
        **model.env,
    }
    env |= around_proxies({**config.environ, **env})
    # what a person says of how its processes are started wins
    said = "VLLM_WORKER_MULTIPROC_METHOD" in {**config.environ, **model.env}
    whole = not said and (model.warm == "full" or (model.warm == "auto" and pythons.vllm_forks))
    spec = ProgramSpec(
        name=alias,
        kind=Kind.VLLM,
        launch=Launch(
            argv=vllm_process.argv(
                pythons.vllm,
                str(where or model.model),
                served,
                place,
                model.vllm,
                model.stop.grace,
                {name: one.lists for name, one in (config.options or {}).items()},
            ),
            env=tuple(env.items()),
            # another model's or the daemon's own key must not become this engine's
            unset=() if api_key else ("VLLM_API_KEY",),
            port=model.port,
            uds=uds,
            pipe_size=ENGINE_PIPE,
            warm=vllm_process.fork_server(pythons.vllm, str(where or model.model), whole=whole)
            if model.warm != "off"
            else (),
            warm_env=vllm_process.FORK if whole else (),
            late=vllm_process.LATE,
            downloads=tuple(str(one.growing) for one in taken),
        ),
        health=_health(model.health),
        restart=_restart(model.restart),
        stop=StopSpec(model.stop.signal, model.stop.grace, start_grace=START_GRACE, sweep_grace=0.0),
        vital=vllm_process.VITAL,
        gpus=tuple(model.gpus),
        autostart=model.autostart,
        digest=_digest(
            _said(model, but=_WATCHING | _GATEWAYS),
            str(folder or ""),
            served,
            config.root.engines.vllm,  # as it was said: another default is for the next start
            {name: value for name, value in config.env_values.items() if name.startswith(vllm_process.READS)},
        ),
        settings=_digest(_said(model)),
    )
    asking = ProbePlan(
        place if isinstance(place, str) else ("127.0.0.1", place),
        (
            HttpProbe("liveness", "/health", vllm_probes.judge_health),
            HttpProbe("catalogue", "/v1/models", partial(vllm_probes.judge_models, served_name=served)),
        ),
        headers=(("Authorization", f"Bearer {api_key}"),) if api_key else (),
        metrics=MetricsProbe("/metrics", vllm_probes.read_metrics),
        canary=_canary(model, served) if model.health.canary else None,
    )
    return Planned(spec, asking, vllm_probes.step)


def _usable(config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """What of the native file can be used, and the groups that cannot, each with the reason."""
    more = config.root.gateway.env if config.root.gateway is not None else {}
    return proxy_config.usable(config.native, {**config.environ, **more})


def _composed(config: Config, native: Mapping[str, Any]) -> dict[str, Any]:
    """The file that LiteLLM gets, secrets included."""
    return proxy_config.compose(native, [_group(alias, model) for alias, model in config.root.models.items()])


def groups_of(config: Config) -> tuple[ModelGroup, ...]:
    """What clients of the gateway may ask for: the local models first, other names last."""
    native, disabled = _usable(config)
    composed, whole = _composed(config, native), _composed(config, config.native)
    engines = {proxy_config.engine_base(alias, model.port): alias for alias, model in config.root.models.items()}
    behind = proxy_config.engines_behind(composed, engines, config.environ)
    left, others = proxy_config.expected_groups(composed), proxy_config.aliases(whole)
    return tuple(
        ModelGroup(name, vision, behind.get(name, ()), None if name in left else disabled.get(others.get(name, name)))
        for name, vision in {**proxy_config.expected_groups(whole), **left}.items()
    )


def _canary(model: schema.Model, name: str) -> Canary:
    """The request that this model is made for."""
    judge = partial(canary.judge, expect=model.health.expect)
    if engine_options.pools(engine_options.by_name(model.vllm)):
        return Canary("/v1/embeddings", partial(canary.embedding_canary, model=name), judge)
    if model.chat:
        return Canary("/v1/chat/completions", partial(canary.chat_canary, model=name, vision=model.vision), judge)
    return Canary("/v1/completions", partial(canary.completion_canary, model=name), judge)


_OURS = frozenset({"CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "SPT_NOENV", "VLLM_API_KEY", "VLLM_USE_MODELSCOPE"})


def key_variable(alias: str) -> str:
    """The environment variable by which LiteLLM gets the key of that model's engine; no two aliases share one."""
    return "LLM_SUPERVISOR_KEY_" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", alias)


def _engine_key(model: schema.Model) -> str | None:
    options = engine_options.by_name(model.vllm)
    return str(options["api-key"]) if options.get("api-key") else model.env.get("VLLM_API_KEY")


def _group(alias: str, model: schema.Model) -> proxy_config.LocalGroup:
    params = {name: value for name, value in model.litellm.items() if name != "model_info"}
    return proxy_config.LocalGroup(
        alias=alias,
        served_name=model.served_model_name or alias,
        api_base=proxy_config.engine_base(alias, model.port),
        vision=model.vision,
        key_variable=key_variable(alias) if _engine_key(model) else None,
        params=params,
        info=model.litellm.get("model_info") or {},
    )


_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_HERE = ("127.0.0.1", "localhost", "::1")


def around_proxies(environ: Mapping[str, str], names: Iterable[str] = ()) -> dict[str, str]:
    """Where a proxy is configured for the way out: what keeps it out of the way of what is here. LiteLLM would send
    it the requests for the engines, too, and vLLM those for the images of this machine. ``names`` are more of them."""
    if not any(value and name.lower() in _PROXIES for name, value in environ.items()):
        return {}
    both = ",".join(value for name, value in environ.items() if name.lower() == "no_proxy")
    kept = [part.strip() for part in both.split(",") if part.strip()]
    if "*" in kept:
        return {"NO_PROXY": "*", "no_proxy": "*"}  # as a part of a list it is not understood
    value = ",".join(dict.fromkeys((*kept, *_HERE, *names)))
    return {"NO_PROXY": value, "no_proxy": value}


def _gateway(
    name: str,
    config: Config,
    gateway: schema.Gateway,
    pythons: Pythons,
    runtime: Path,
    file: Path,
    master_key: str,
    generated: Mapping[str, Any],
    hidden: Mapping[str, str],
) -> Planned:
    uds = str(runtime / f"{name}.sock")
    keys = {key_variable(alias): key for alias, model in config.root.models.items() if (key := _engine_key(model))}
    env = {**litellm_process.environment(str(file), master_key, {**keys, **hidden}), **gateway.env}
    sockets = {
        proxy_config.socket_host(alias): path
        for alias, model in config.root.models.items()
        if (path := _socket(config, alias, model, runtime)) is not None
    }
    env |= around_proxies({**config.environ, **env}, sockets)
    hold = str(runtime / ENGINES_FILE)
    modules = str(config.executable(gateway.litellm_config).parent) if gateway.litellm_config else None
    spec = ProgramSpec(
        name=name,
        kind=Kind.LITELLM,
        launch=Launch(
            argv=litellm_process.argv(
                pythons.litellm, uds, max(int(gateway.stop.grace) - 5, 1), hold, sockets, modules
            ),
            env=tuple(env.items()),
            listener=(gateway.host, gateway.port),
            uds=uds,
            pipe_size=ENGINE_PIPE,
            warm=() if gateway.warm == "off" else litellm_process.fork_server(pythons.litellm),
            late=litellm_process.late(generated, {*keys, *hidden, *config.env_values}),
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
            # what is said, not the file that is made of it: that has defaults of ours, and another version has others
            _usable(config)[0],
            [asdict(_group(alias, model)) for alias, model in config.root.models.items()],
            config.env_values,
            master_key,
            keys,
            sockets,
        ),
        settings=_digest(_said(gateway), {alias: _asked(model) for alias, model in config.root.models.items()}),
    )
    redis = proxy_config.redis_address(generated, {**config.environ, **env})
    judge = partial(litellm_probes.judge_groups, expected=proxy_config.expected_groups(generated))
    asking = ProbePlan(
        uds,
        (
            HttpProbe("liveness", "/health/liveliness", litellm_probes.judge_liveliness),
            HttpProbe("catalogue", "/model_group/info", judge),
        ),
        headers=(("Authorization", f"Bearer {master_key}"),),
        routes={alias: _canary(model, alias) for alias, model in config.root.models.items() if model.health.canary},
        needs={"redis": redis} if redis else {},
    )
    return Planned(spec, asking)


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
