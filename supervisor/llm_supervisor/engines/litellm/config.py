"""The configuration that LiteLLM gets, and what can be read out of one: groups, references, secrets. Pure."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llm_supervisor.engines.litellm.references import (
    LIMITS,
    MASTER_KEY,
    asks_a_manager,
    limits,
    missing_variables,
    resolved,
    set_by_file,
)
from llm_supervisor.redaction import REFERENCE, secrets_in

# LiteLLM refuses to start with one of these (exit 3); `check` says so before anything is spawned
WEAK_KEYS = frozenset({"", "sk-1234"})


@dataclass(frozen=True, slots=True)
class LocalGroup:
    """An entry of ``model_list`` that leads to one of our vLLM engines."""

    alias: str
    served_name: str
    api_base: str
    vision: bool
    key_variable: str | None = None  # environment variable that holds the engine's key
    params: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()  # more names by which clients may ask for it


def compose(native: Mapping[str, Any], local: Sequence[LocalGroup]) -> dict[str, Any]:
    """The file that LiteLLM gets: the native one as it is, the local groups before its own, and the master key by
    reference."""
    config: dict[str, Any] = copy.deepcopy(dict(native))
    config["model_list"] = [_entry(group) for group in local] + list(config.get("model_list") or [])
    config["general_settings"] = {
        **(config.get("general_settings") or {}),
        "master_key": f"os.environ/{MASTER_KEY}",
    }
    if more := {name: group.alias for group in local for name in group.aliases}:
        router = dict(config.get("router_settings") or {})
        config["router_settings"] = {
            **router,
            "model_group_alias": {**more, **(router.get("model_group_alias") or {})},
        }
    allowed = config["general_settings"].get("allowed_ips")
    if isinstance(allowed, list) and config["general_settings"].get("use_x_forwarded_for") is not True:
        # who asks by a replica's private socket has no address, and is the daemon: that socket is ours alone
        config["general_settings"]["allowed_ips"] = [*allowed, ""]
    settings = config.get("litellm_settings")
    if isinstance(settings, dict) and isinstance(settings.get("callbacks"), str):
        # one by itself would take the place of those that are there, ours by which requests wait among them
        settings["callbacks"] = [settings["callbacks"]]
    return config


_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")


def unset_text(names: Sequence[str]) -> str:
    """A sentence that says that these variables are not set."""
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not set"


def usable(native: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The native configuration without what cannot be used, as a variable that it needs is not set: deployments,
    limits, and fallbacks and aliases that name a group of which nothing is left. Such groups are the second, each with
    the reason. Where a secret manager is asked for what is not set, everything is kept."""
    config: dict[str, Any] = dict(native)
    if asks_a_manager(native, environ):
        return config, {}
    entries: list[dict[str, Any]] = []
    reasons: dict[str, str] = {}
    more = set_by_file(native, environ)
    for entry in config.get("model_list") or []:
        if lacking := missing_variables(entry, environ, more):
            reasons.setdefault(str(resolved(entry, environ)["model_name"]), unset_text(list(lacking)))
            continue
        params = entry["litellm_params"]
        there = limits(params, environ)
        kept = {key: value for key, value in params.items() if key not in LIMITS or key in there}
        entries.append({**entry, "litellm_params": kept})
    if "model_list" in config:
        config["model_list"] = entries
    left = {resolved(entry, environ)["model_name"] for entry in entries}
    disabled = {name: reason for name, reason in reasons.items() if name not in left}
    for place in ("router_settings", "litellm_settings"):
        if disabled and config.get(place):
            config[place] = {key: _without(key, value, disabled) for key, value in config[place].items()}
    return config, disabled


def usable_entries(native: Mapping[str, Any], environ: Mapping[str, str]) -> list[int]:
    """Which entries of the native ``model_list`` are left by ``usable``: their indices."""
    entries = native.get("model_list") or []
    if asks_a_manager(native, environ):
        return list(range(len(entries)))
    more = set_by_file(native, environ)
    return [index for index, entry in enumerate(entries) if not missing_variables(entry, environ, more)]


def _without(key: str, value: Any, disabled: Mapping[str, str]) -> Any:
    """A setting of the router without the groups that are disabled. LiteLLM would try them, and a request that could
    wait for its model would not."""

    def names(target: Any) -> bool:
        name = target.get("model") if isinstance(target, Mapping) else target
        return isinstance(name, str) and name in disabled

    if key == "model_group_alias" and isinstance(value, Mapping):
        return {alias: target for alias, target in value.items() if not names(target)}
    if key == "default_fallbacks" and isinstance(value, list):
        return [target for target in value if not names(target)]
    if key in _FALLBACKS and isinstance(value, list):
        return [kept for entry in value if (kept := _leading_on(entry, names))]
    return value


def _leading_on(fallback: Any, gone: Callable[[Any], bool]) -> Any:
    """``{group: [targets]}`` without the targets that are gone; what has another form is LiteLLM's to judge."""
    if not isinstance(fallback, Mapping) or not all(isinstance(targets, list) for targets in fallback.values()):
        return fallback
    left = {group: [one for one in targets if not gone(one)] for group, targets in fallback.items()}
    return {group: targets for group, targets in left.items() if targets}


# Providers whose requests LiteLLM sends to the address as it is written, without adding to its path
_OPENAI_LIKE = frozenset({"openai", "text-completion-openai", "custom_openai", "openai_like", "hosted_vllm"})


def lacks_version(params: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether a deployment goes to an OpenAI-compatible server by an address without the ``/v1`` of its API."""

    def value(name: str) -> str:
        said = params.get(name)
        found = REFERENCE.fullmatch(said.strip()) if isinstance(said, str) else None
        return str((environ.get(found[1]) if found else said) or "")

    provider = value("custom_llm_provider") or value("model").partition("/")[0]
    base = value("api_base") or value("base_url")
    path = re.sub(r"^\w+://[^/]*", "", base)
    return provider in _OPENAI_LIKE and bool(base) and not re.search(r"/v\d", path)


def hide_secrets(native: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The native configuration with references to the environment in the place of every secret that it holds, and
    the variables that these refer to: so that no secret is in the file that is made for LiteLLM. The names follow from
    the values, so that the same secret has the same name in every version of a file. What stands in a list by itself
    stays: there LiteLLM takes a reference for plain text."""
    found = dict(secrets_in(native))
    variables: dict[str, str] = {}

    def clean(value: Any, where: tuple[str | int, ...], listed: bool) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item, (*where, key), False) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item, (*where, index), True) for index, item in enumerate(value)]
        if where not in found or listed:
            return value
        variable = f"LLM_SUPERVISOR_SECRET_{hashlib.sha256(found[where].encode()).hexdigest()[:12].upper()}"
        variables[variable] = found[where]
        return f"os.environ/{variable}"

    return {key: clean(item, (key,), False) for key, item in native.items()}, variables


def _entry(group: LocalGroup) -> dict[str, Any]:
    params = {
        "model": f"hosted_vllm/{group.served_name}",
        "api_base": group.api_base,
        "api_key": f"os.environ/{group.key_variable}" if group.key_variable else "none",
        # retried by the router, where a request can wait for the engine, and not by the client below it
        "max_retries": 0,
        "num_retries": 3,
        # whether the engine can be asked, the daemon says: else one client's 404 is 5 s of 429 for everybody
        "cooldown_time": 0,
        # the certificate of a server on loopback is made for another name, and often by nobody
        **({"ssl_verify": False} if group.api_base.startswith("https:") else {}),
        **group.params,
    }
    return {
        "model_name": group.alias,
        "litellm_params": params,
        "model_info": {"supports_vision": group.vision, **group.info},
    }


def configured_groups(config: Mapping[str, Any]) -> dict[str, bool | None]:
    """Every group that clients may ask for by its name, and whether it supports images (None: as LiteLLM thinks).
    ``config`` is resolved. Wildcards are no groups of their own and are left out."""
    return _groups(config, config.get("model_list") or [])


def expected_groups(config: Mapping[str, Any]) -> dict[str, bool | None]:
    """The groups that LiteLLM must list to who has the master key, each with whether it must show ``supports_vision``
    (None: that is not judged). ``config`` is resolved. A deployment of a team is in the list of its team alone
    (``Router.get_model_names``)."""
    entries = config.get("model_list") or []
    everybodys = [entry for entry in entries if not _mapping(entry.get("model_info")).get("team_id")]
    of_teams = {entry.get("model_name") for entry in entries if entry not in everybodys}
    listed = _groups(config, everybodys)
    # what is added in a database may be a deployment of a group that is in the file, too
    open_ended = asks_a_database(config)
    unsure = of_teams | {name for name, vision in listed.items() if open_ended and not vision}
    return {name: None if name in unsure else vision for name, vision in listed.items()}


def asks_a_database(config: Mapping[str, Any]) -> bool:
    """Whether LiteLLM has models of a database, too, as far as its file says."""
    settings = _mapping(config.get("general_settings"))
    return bool(settings.get("store_model_in_db") or settings.get("database_url"))


def _groups(config: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> dict[str, bool | None]:
    found: dict[str, bool | None] = {}
    for entry in entries:
        name = entry.get("model_name")
        if not isinstance(name, str) or "*" in name:
            continue
        vision = (entry.get("model_info") or {}).get("supports_vision")
        # a group of several deployments supports vision as soon as one of them does; one that LiteLLM judges leaves
        # the group to it, unless another one does
        seen = (found[name], vision) if name in found else (vision,)
        found[name] = True if True in seen else None if None in seen else vision
    for alias, of in aliases(config).items():
        if of in found:  # else LiteLLM leaves it out
            found.setdefault(alias, found[of])
    return found


def aliases(config: Mapping[str, Any]) -> dict[str, str]:
    """More names of groups that clients are shown (``model_group_alias``), with the group behind each."""
    found = {}
    for name, said in _mapping(_mapping(config.get("router_settings")).get("model_group_alias")).items():
        of = said.get("model") if isinstance(said, Mapping) else said
        hidden = isinstance(said, Mapping) and said.get("hidden") is True
        if isinstance(of, str) and not hidden:
            found[str(name)] = of
    return found


def engines_behind(
    config: Mapping[str, Any], engines_at: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The engines of ours behind each group that has no other deployment, by their ``engine_base``. As
    ``inside/litellm_hold.py`` knows them."""
    found = _deployments(config, engines_at, environ)
    engines = {name: tuple(one for one in ours if one is not None) for name, ours in found.items()}
    return {name: engines[name] for name, ours in found.items() if len(engines[name]) == len(ours)}


def elsewhere(config: Mapping[str, Any], engines_at: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The groups that never lead to an engine of ours, neither by a deployment nor by a fallback. None of them, where
    LiteLLM is told to take another group than the one that a request names."""
    found = _deployments(config, engines_at, environ)
    leads: dict[str, set[str]] = {alias: {of} for alias, of in aliases(config).items()}
    after_all: set[str] = set()
    for place in ("router_settings", "litellm_settings"):
        settings = _mapping(config.get(place))
        for entry in (entry for kind in _FALLBACKS for entry in settings.get(kind) or []):
            for group, targets in _mapping(entry).items():
                leads.setdefault(group, set()).update(_targets(targets))
        after_all |= _targets(settings.get("default_fallbacks"))
    after_all |= leads.pop("*", set())
    ours = {name for name, engines in found.items() if any(engines)}
    while more := {group for group, targets in leads.items() if targets & ours} - ours:
        ours |= more
    if after_all & ours or _mapping(config.get("general_settings")).get("completion_model"):
        return ()
    return tuple(sorted(name for name in found.keys() - ours if "*" not in name))


def _plain_base(address: str) -> str:
    """An ``api_base`` as ``engine_base`` makes it: every name of loopback is one, and http is https."""
    plain = re.sub(r"//(localhost|\[::1\])(?=:)", "//127.0.0.1", address.rstrip("/"))
    return re.sub(r"^https:", "http:", plain)


def _targets(fallbacks: Any) -> set[str]:
    """The names of the groups in a list of fallbacks."""
    said = fallbacks if isinstance(fallbacks, list) else []
    return {str(one.get("model") if isinstance(one, Mapping) else one) for one in said}


def _deployments(
    config: Mapping[str, Any], engines_at: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, list[str | None]]:
    """For each group the engine of ours behind each deployment, None for somebody else's."""
    found: dict[str, list[str | None]] = {}
    for entry in config.get("model_list") or []:
        base = _mapping(entry.get("litellm_params")).get("api_base") or ""
        reference = REFERENCE.fullmatch(str(base).strip())
        said = environ.get(reference[1], "") if reference else str(base)
        ours = engines_at.get(_plain_base(said))
        found.setdefault(str(entry.get("model_name")), []).append(ours)
    for alias, of in aliases(config).items():
        if of in found:
            found.setdefault(alias, found[of])
    return found


# The settings by which LiteLLM turns away who has the master key, or does not ask for that key at all
_REFUSING = ("custom_auth", "allowed_routes")


def may_refuse_us(config: Mapping[str, Any]) -> str:
    """The setting by which the gateway may turn the daemon's own questions away; empty where none does. Addresses are
    no reason: ours is let in (``compose``, ``our_address``)."""
    settings = _mapping(config.get("general_settings"))
    return " and ".join(f"general_settings.{name}" for name in _REFUSING if settings.get(name) is not None)


def our_address(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The header by which the daemon is let in where LiteLLM takes addresses from headers and allows only some."""
    settings = _mapping(config.get("general_settings"))
    allowed = settings.get("allowed_ips")
    if settings.get("use_x_forwarded_for") is True and isinstance(allowed, list) and allowed:
        return (("X-Forwarded-For", str(allowed[0])),)
    return ()


def fits_in_header(key: str) -> bool:
    """Whether an HTTP header can hold that key."""
    return key.isascii() and (key.isprintable() or not key)


def redis_address(config: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Where the Redis is that this configuration uses for its cache or its router; None when it uses none. LiteLLM
    starts without it and says so in its log only: its cache and its shared rate limits do nothing then."""
    settings, router = _mapping(config.get("litellm_settings")), _mapping(config.get("router_settings"))
    cache = _mapping(settings.get("cache_params"))
    cached = bool(settings.get("cache")) and str(cache.get("type", "redis")).startswith("redis")
    if cached:
        said = {name: cache.get(name) for name in ("url", "host", "port")}
    elif router.get("redis_host") or router.get("redis_url"):
        said = {name: router.get(f"redis_{name}") for name in ("url", "host", "port")}
    else:
        return None
    values = {}
    for name, value in said.items():
        found = REFERENCE.fullmatch(value.strip()) if isinstance(value, str) else None
        values[name] = environ.get(found[1]) if found else value
        values[name] = values[name] or environ.get(f"REDIS_{name.upper()}")
    try:
        if values["url"]:
            url = urlsplit(str(values["url"]))
            return (url.hostname, url.port or 6379) if url.hostname else None
        return (str(values["host"]), int(values["port"] or 6379)) if values["host"] else None
    except (ValueError, TypeError):
        return None  # LiteLLM will say so


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def engine_base(alias: str, port: int | None, *, tls: bool = False) -> str:
    """The ``api_base`` of one of our engines; without ``tls`` it is what they are told apart by. On a unix socket it
    has a name that is nobody's (RFC 2606), which the replica sends there (``argv``)."""
    host = f"127.0.0.1:{port}" if port is not None else socket_host(alias)
    return f"{'https' if tls else 'http'}://{host}/v1"


def socket_host(alias: str) -> str:
    """The name of an engine on a unix socket; no two aliases share one."""
    plain = re.sub(r"[^a-z0-9]+", "-", alias.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(alias.encode()).hexdigest()[:6]}.invalid"
