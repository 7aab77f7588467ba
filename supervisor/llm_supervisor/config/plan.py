"""From a checked configuration to the plan: all programs' specifications, the gateway's groups, and LiteLLM's file.

Pure but for looking which models are downloaded; the specifications of single programs are made in ``specs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_supervisor.config import environments, schema, specs
from llm_supervisor.config.config import GATEWAY, Config
from llm_supervisor.config.specs import Planned, Pythons
from llm_supervisor.core.fleet import ReadyWhen
from llm_supervisor.core.group import ModelGroup
from llm_supervisor.core.spec import Kind
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references


@dataclass(frozen=True)
class Plan:
    """Everything the daemon needs.

    ``litellm_config`` is the content of the file at ``litellm_file``. ``environs`` are the variables from which those
    of the engines are made, by their kind. In ``engines_file`` the gateway reads how the
    engines are. ``spare`` is one more replica, which serves while an only one is replaced. ``hold`` is how many seconds
    a request may wait for a starting model; None: as long as the model's own start was measured to take."""

    programs: Mapping[str, Planned]
    ready_when: ReadyWhen
    endpoint: str | None
    groups: tuple[ModelGroup, ...]
    litellm_file: Path
    litellm_config: Mapping[str, Any] | None
    logs: schema.Logs
    environs: Mapping[Kind, Mapping[str, str]] = field(repr=False)
    engines_file: Path
    spare: Planned | None
    hold: float | None


def plan(config: Config, *, runtime: Path, pythons: Pythons, master_key: str) -> Plan:
    """Make the plan. ``runtime`` is where the generated file and the private sockets go."""
    root = config.root
    setting = specs.Setting(config, pythons, runtime)
    programs = {name: specs.command(setting, name, program) for name, program in root.programs.items()}
    programs |= {alias: specs.engine(setting, alias, model) for alias, model in root.models.items()}
    litellm_file = runtime / "litellm_config.yaml"
    generated: dict[str, Any] | None = None
    groups: tuple[ModelGroup, ...] = ()
    endpoint = spare = None
    if root.gateway is not None:
        generated, hidden = proxy_config.hide_secrets(_composed(config, specs.usable_native(config)[0]))
        groups = groups_of(config)
        file = specs.GatewayFile(litellm_file, generated, hidden)
        names = [GATEWAY, *(f"{GATEWAY}-{number}" for number in range(2, root.gateway.replicas + 2))]
        *replicas, spare = (specs.replica(setting, name, root.gateway, file, master_key) for name in names)
        programs |= {replica.spec.name: replica for replica in replicas}
        endpoint = _endpoint(root.gateway)
    return Plan(
        programs,
        ReadyWhen(root.ready_when),
        endpoint,
        groups,
        litellm_file,
        generated,
        root.logs,
        environments.of_kinds(config),
        engines_file=runtime / specs.ENGINES_FILE,
        spare=spare,
        hold=None if root.gateway is None or root.gateway.hold == "auto" else root.gateway.hold,
    )


def _endpoint(gateway: schema.Gateway) -> str:
    """The URL at which this machine reaches the gateway."""
    host = gateway.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{gateway.port}"


def groups_of(config: Config) -> tuple[ModelGroup, ...]:
    """All groups that clients of the gateway may ask for: the local models first, aliases last."""
    native, disabled = specs.usable_native(config)
    environ = specs.gateway_environ(config)
    composed, whole = (references.resolved(_composed(config, one), environ) for one in (native, config.native))
    engines = {proxy_config.engine_base(alias, model.port): alias for alias, model in config.root.models.items()}
    behind = proxy_config.engines_behind(composed, engines, config.environ)
    left, others = proxy_config.configured_groups(composed), proxy_config.aliases(whole)
    return tuple(
        ModelGroup(name, vision, behind.get(name, ()), None if name in left else disabled.get(others.get(name, name)))
        for name, vision in {**proxy_config.configured_groups(whole), **left}.items()
    )


def _composed(config: Config, native: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file that LiteLLM gets, secrets included."""
    return proxy_config.compose(
        native, [specs.local_group(alias, model) for alias, model in config.root.models.items()]
    )
