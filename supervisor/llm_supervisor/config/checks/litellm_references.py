"""Checks of the variables that LiteLLM's own file refers to as ``os.environ/NAME``.

LiteLLM starts without nearly all of them, and does without what needs them: these are warnings that name what that is.
Errors are those without which it would not start. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.document import Document, Problem, Where, path_words
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references

_MASTER_KEY: Where = ("general_settings", "master_key")
# By block, what LiteLLM does without where a variable is not set; {name} is what the entry calls itself
_WITHOUT = {
    ("general_settings", "database_url"): "no database is used",
    ("general_settings", "alerting"): "no alerts are sent",
    ("litellm_settings", "cache_params"): "the cache goes on without it",
    ("litellm_settings", "default_team_settings"): "the logging of {name} does not work",
    ("router_settings", "redis_host"): "the router does not use Redis",
    ("router_settings", "redis_url"): "the router does not use Redis",
    ("credential_list",): "the credential {name} does not work",
    ("environment_variables",): "LiteLLM leaves it unset",
    ("guardrails",): "the guardrail {name} goes on without it, or is left out",
    ("mcp_servers",): "the MCP server {name} goes on without it",
    ("vector_store_registry",): "the vector store {name} goes on without it",
    ("search_tools",): "the search tool {name} goes on without it",
}
_NAMES = ("credential_name", "guardrail_name", "team_id", "vector_store_name", "search_tool_name", "prompt_id", "name")


def problems(context: Context) -> Iterator[Problem]:
    """Every variable that is not set and that something needs."""
    root, native = context.root, context.native
    environ = environ_of(context)
    data = native.data if isinstance(native.data, dict) else {}
    if not references.asks_a_manager(data, environ):
        yield from _besides_deployments(root, native, data, environ)
        yield from _of_deployments(root, native, data, environ)
    for alias, model in root.models.items():
        yield from _of_a_model(context, ("models", alias, "litellm"), model.litellm)


def environ_of(context: Context) -> Mapping[str, str]:
    """The variables that the gateway's processes get, as far as a reference can name them."""
    gateway = context.root.gateway
    return {**context.environ, **gateway.env} if gateway is not None else context.environ


def _besides_deployments(
    root: schema.Root, native: Document, data: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[Problem]:
    """Variables that are not set, except those of deployments: without these only the deployment is left out."""
    by_file = references.set_by_file(data, environ)
    entries = data.get("model_list")
    others = [
        {**entry, "litellm_params": None} if isinstance(entry, dict) else None
        for entry in (entries if isinstance(entries, list) else [])
    ]
    for where, name in references.unset({**data, "model_list": others}, environ):
        advice = how_to_set(root, name)
        named = len(where) == 3 and where[0] == "model_list" and where[2] == "model_name"
        if where == _MASTER_KEY or named or _ends_the_start(data, where, {**environ, **by_file}):
            message = f"os.environ/{name} is not set, and LiteLLM does not start without it"
            if name in by_file:
                message = f"{name} is set by environment_variables, which LiteLLM reads later"
                advice = f"write {path_words(where)} itself there, or put {name} into the environment"
            yield native.problem(where, message, advice)
        elif name not in by_file:
            yield native.problem(where, f"os.environ/{name} is not set: {_without(data, where)}", advice, warning=True)


def _ends_the_start(data: Mapping[str, Any], where: Where, environ: Mapping[str, str]) -> bool:
    """Whether LiteLLM refuses to start as nothing says where the Redis of its cache is."""
    settings = data.get("litellm_settings")
    if where[:2] != ("litellm_settings", "cache_params") or not isinstance(settings, dict):
        return False
    said = references.resolved(settings.get("cache_params"), environ)
    cache = said if isinstance(said, dict) else {}
    if settings.get("cache") is not True or cache.get("type", "redis") not in ("redis", "redis-semantic"):
        return False
    places = ("host", "url", "redis_startup_nodes", "sentinel_nodes")
    known = any(cache.get(key) or environ.get(f"REDIS_{key.removeprefix('redis_').upper()}") for key in places)
    return not known and where[2] in places


def _without(data: Mapping[str, Any], where: Where) -> str:
    """What LiteLLM does where the value at that place is nothing."""
    said = next((text for block, text in _WITHOUT.items() if where[: len(block)] == block), None)
    if said is None:
        return f"LiteLLM goes on without {where[-1]}"
    value: Any = data
    name = ""
    for part in where[:-1]:
        value = value[part]
        if isinstance(value, dict):
            name = next((str(value[key]) for key in _NAMES if isinstance(value.get(key), str)), name)
    return said.format(name=name or next((part for part in where[1:] if isinstance(part, str)), ""))


def _of_deployments(
    root: schema.Root, native: Document, data: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[Problem]:
    """The deployments of LiteLLM's own file. A missing key disables the deployments that need it, and nothing else."""
    by_file = references.set_by_file(data, environ)
    named = [
        (index, entry, str(references.resolved(entry["model_name"], environ)))
        for index, entry in enumerate(data.get("model_list") or [])
        if isinstance(entry, dict)
        and isinstance(entry.get("model_name"), str)
        and isinstance(entry.get("litellm_params"), dict)
    ]
    left = {name for _, entry, name in named if not references.missing_variables(entry, environ, by_file)}
    for index, entry, name in named:
        if missing := references.missing_variables(entry, environ, by_file):
            message = f"this deployment of {name} is left out" if name in left else f"{name} is disabled"
            place = ("model_list", index, *next(iter(missing.values())))
            said = f"{proxy_config.unset_text(list(missing))}: {message}"
            advice = how_to_set(root, *missing)
            if any(one in by_file for one in missing):
                said += "; environment_variables are read after references are resolved"
            yield native.problem(place, said, advice, warning=True)
            continue
        for path, variable in references.optional_variables(entry, environ, by_file):
            said = f"{variable} is not set: {name} is served without {path[-1]}"
            yield native.problem(("model_list", index, *path), said, how_to_set(root, variable), warning=True)


def _of_a_model(context: Context, where: Where, block: Mapping[str, Any]) -> Iterator[Problem]:
    """What the ``litellm`` block of a local model refers to."""
    for place, name in references.unset(block, environ_of(context), where):
        if place[-1] not in references.LIMITS:
            message = f"os.environ/{name} is not set: LiteLLM goes on without {place[-1]}"
            yield context.document.problem(place, message, how_to_set(context.root, name), warning=True)


def how_to_set(root: schema.Root, *names: str) -> str:
    """Advice for variables that are not set."""
    if root.env_file:
        return f"put {' and '.join(f'{name}=...' for name in names)} into {root.env_file}"
    return f"export {' and '.join(names)}, or use env_file:"
