"""Checks of the gateway: its address, its key, its replicas, and variables that would mislead LiteLLM."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context, is_host_name
from llm_supervisor.config.checks.secrets import given_master_key
from llm_supervisor.config.config import GATEWAY, split_url
from llm_supervisor.config.document import Problem
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references
from llm_supervisor.suggest import short

STRONG = 20  # characters of a key that cannot be guessed

# Variables of LiteLLM whose value the daemon itself sets, with the setting to use instead
_SET_BY_US = {
    references.MASTER_KEY: "put it into env_file",
    "CONFIG_FILE_PATH": "write it as litellm_config",
}
# Where LiteLLM takes a provider's address from, if a deployment names none. Clients of the gateway read some of them
_PROVIDER_ADDRESSES = (
    "ANTHROPIC_API_BASE",
    "ANTHROPIC_BASE_URL",
    "GEMINI_API_BASE",
    "OPENAI_API_BASE",
    "OPENAI_BASE_URL",
)


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong with the ``gateway`` block, or with its absence."""
    gateway, document = context.root.gateway, context.document
    if gateway is None:
        yield from _no_gateway(context)
        return
    if not is_host_name(gateway.host):
        try:
            ipaddress.ip_address(gateway.host)
        except ValueError:
            message = f"{short(gateway.host)} is no name and no address of this machine"
            yield document.problem((GATEWAY, "host"), message, _meant_host(gateway.host))
    for name, advice in _SET_BY_US.items():
        if name in gateway.env:
            yield document.problem((GATEWAY, "env", name), "is given to LiteLLM by llm-supervisor", advice)
    yield from _replicas(context, gateway)
    yield from _exposure(context, gateway)
    yield from _circle(context, gateway)


def _no_gateway(context: Context) -> Iterator[Problem]:
    document, models = context.document, context.root.models
    if GATEWAY in document.data and (GATEWAY,) not in context.placeholders:
        message, advice = "has no value, so there is no gateway", "write `gateway: {}`"
        yield document.problem((GATEWAY,), message, advice, warning=not models)
    elif models:
        yield document.problem(("models",), "there is no gateway to serve them", "add `gateway: {}`")


def _meant_host(host: str) -> str:
    """Advice for a text that is no host: the host in it, where there is one."""
    bare = re.fullmatch(r"(?:https?://)?(\[[0-9a-fA-F:]+\]|[^:/]*)(?::(\d+))?/?", host.strip())
    if bare is None:
        return ""
    name = bare[1].strip("[]").strip(".").strip()
    name = "0.0.0.0" if name in ("", "*") else name
    if not is_host_name(name) and ":" not in name:
        return "write 127.0.0.1, or 0.0.0.0 for every address of this machine"
    return f"write host: {name}" + (f" and port: {bare[2]}" if bare[2] else "")


def _replicas(context: Context, gateway: schema.Gateway) -> Iterator[Problem]:
    """Each replica counts requests for itself, unless they share a Redis: limits are then exceeded."""
    if gateway.replicas == 1:
        return
    data, environ = context.native.data or {}, {**context.environ, **gateway.env}
    entries = data.get("model_list") or []
    params = [entry.get("litellm_params") for entry in entries if isinstance(entry, dict)]
    params += [model.litellm for model in context.root.models.values()]
    limited = any(isinstance(one, dict) and references.limits(one, environ) for one in params)
    if limited and proxy_config.redis_address(data, environ) is None:
        message = (
            f"each of {gateway.replicas} replicas counts rpm and tpm for itself, so more than the limits is let in"
        )
        advice = "add redis_host to router_settings, or write 1"
        yield context.document.problem((GATEWAY, "replicas"), message, advice, warning=True)


def _exposure(context: Context, gateway: schema.Gateway) -> Iterator[Problem]:
    """A gateway that other machines reach needs a key that cannot be guessed. One that the daemon makes is strong."""
    key = given_master_key(context)
    if key is None or len(key) >= STRONG or _is_loopback(gateway.host):
        return
    message = f"{gateway.host} can be reached from elsewhere, and the gateway's key has {len(key)} characters"
    advice = f"give it at least {STRONG} (or none: a strong one is made and kept), or write 127.0.0.1"
    yield context.document.problem((GATEWAY, "host"), message, advice)


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address, as far as its spelling tells."""
    if host.lower() == "localhost":
        return True
    try:
        return socket.inet_aton(host)[0] == 127  # 127.1 too: bind reads it in this way
    except (OSError, ValueError):
        pass
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


def _circle(context: Context, gateway: schema.Gateway) -> Iterator[Problem]:
    """The variables that the command `env` prints for clients, in the daemon's own environment."""
    ours = [(host, gateway.port) for host in ("127.0.0.1", "localhost", "::1")]
    for name in _PROVIDER_ADDRESSES:
        split = split_url({**context.environ, **gateway.env}.get(name, ""))
        if split is not None and split[0] in ours:
            message = f"{name} is the gateway's own address: LiteLLM would ask itself instead of the provider"
            advice = f"unset {name} where the daemon is started"
            yield context.document.problem((GATEWAY,), message, advice, warning=True)
