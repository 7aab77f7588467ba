"""Packages that LiteLLM needs for some settings only, and that its ``proxy`` extra does not bring. Pure.

LiteLLM imports them when it meets the setting. Without them it does not start, or leaves the setting out. Some of its
loggers even call pip then, which these environments do not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_supervisor.engines.litellm import database

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """A package that some settings need.

    ``imports`` is the module that LiteLLM imports, ``distribution`` what brings it, ``requirement`` what its lock file
    is resolved from, within the limits that LiteLLM's own extras give (empty: `install` does not bring it). Without
    one that is ``vital`` LiteLLM does not start; the others are missed later.
    """

    imports: str
    distribution: str
    requirement: str = ""
    more: tuple[str, ...] = ()
    vital: bool = True

    @property
    def lock(self) -> str:
        """The name of its lock file, without the ending: that of an addition to LiteLLM's own."""
        return f"litellm+{self.distribution}"


@dataclass(frozen=True, slots=True)
class Need:
    """A package that a configuration needs. ``place`` is in LiteLLM's own file; empty where a variable asks for it.
    ``why`` names the setting, as in ``callbacks: prometheus``."""

    package: Package
    place: Path
    why: str


PRISMA = Package("prisma", "prisma", "prisma[node]>=0.11.0,<1.0")
PROMETHEUS = Package("prometheus_client", "prometheus-client", "prometheus-client>=0.20.0,<1.0")
OTEL = Package(
    "opentelemetry.sdk",
    "opentelemetry-sdk",
    "opentelemetry-sdk",
    ("opentelemetry-exporter-otlp", "opentelemetry-instrumentation-fastapi"),
)
LANGFUSE = Package("langfuse", "langfuse", "langfuse>=4.7,<5.0", vital=False)
SENTRY = Package("sentry_sdk", "sentry-sdk", "sentry-sdk>=2.21.0,<3.0")
REDISVL = Package("redisvl", "redisvl", "redisvl>=0.4.1,<1.0")
DISKCACHE = Package("diskcache", "diskcache", "diskcache>=5.6.3,<6.0")
SEMANTIC_ROUTER = Package(
    "semantic_router", "semantic-router", "semantic-router>=0.1.15,<1.0", ("aurelio-sdk>=0.0.19,<1.0",)
)
GOOGLE_AUTH = Package("google.auth", "google-auth", "google-auth[requests]", vital=False)
KEY_VAULT = Package("azure.keyvault.secrets", "azure-keyvault-secrets", "azure-keyvault-secrets>=4.10.0,<5.0")
GOOGLE_KMS = Package("google.cloud.kms_v1", "google-cloud-kms", "google-cloud-kms>=2.24.2,<3.0")
DATA_LAKE = Package(
    "azure.storage.filedatalake",
    "azure-storage-file-datalake",
    "azure-storage-file-datalake>=12.20.0,<13.0",
    vital=False,
)
DETECT_SECRETS = Package("detect_secrets", "detect-secrets", "detect-secrets>=1.5.0,<2.0")

# What a logger needs, by its name in any of the lists of callbacks
CALLBACKS = {
    "prometheus": PROMETHEUS,
    "prometheus_system": PROMETHEUS,
    **dict.fromkeys(
        ("otel", "arize", "arize_phoenix", "levo", "logfire", "langfuse_otel", "weave_otel", "langtrace", "agentops"),
        OTEL,
    ),
    "langfuse": LANGFUSE,
    "sentry": SENTRY,
    "azure_storage": DATA_LAKE,
    "hide_secrets": DETECT_SECRETS,
    "mlflow": Package("mlflow", "mlflow"),
    "wandb": Package("wandb", "wandb"),
    "lunary": Package("lunary", "lunary"),
    "opik": Package("opik", "opik", vital=False),
    "supabase": Package("supabase", "supabase"),
    "traceloop": Package("traceloop.sdk", "traceloop-sdk"),
    "slack": Package("slack_bolt", "slack-bolt"),
}
CALLBACK_LISTS = ("callbacks", "success_callback", "failure_callback", "service_callback", "audit_log_callbacks")
CACHES = {"redis-semantic": REDISVL, "disk": DISKCACHE}
SECRET_MANAGERS = {"azure_key_vault": KEY_VAULT, "google_kms": GOOGLE_KMS}
# Routers that need no package, by what follows auto_router/ in their model
PLAIN_ROUTERS = ("complexity_router", "adaptive_router", "quality_router")

LOCKED = (
    PRISMA,
    PROMETHEUS,
    OTEL,
    LANGFUSE,
    SENTRY,
    REDISVL,
    DISKCACHE,
    SEMANTIC_ROUTER,
    GOOGLE_AUTH,
    KEY_VAULT,
    GOOGLE_KMS,
    DATA_LAKE,
    DETECT_SECRETS,
)


def needs(native: Mapping[str, Any], environ: Mapping[str, str]) -> list[Need]:
    """The packages that LiteLLM's own file and its environment need, each once, with the first place that asks."""
    found: dict[str, Need] = {}
    for look in _LOOKS:
        for need in look(native, environ):
            found.setdefault(need.package.distribution, need)
    return list(found.values())


def _database(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    if (place := database.configured(native, environ)) is not None:
        yield Need(PRISMA, place.path, place.name)


def _callbacks(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    settings = _mapping(native.get("litellm_settings"))
    for key in CALLBACK_LISTS:
        said = settings.get(key)
        for index, name in enumerate(said if isinstance(said, list) else [said]):
            package = CALLBACKS.get(name) if isinstance(name, str) else None
            # of the service callbacks only some are loggers by these names, and prometheus_system is one of them alone
            if package is not None and (name != "prometheus_system" or key == "service_callback"):
                place: Path = ("litellm_settings", key, index) if isinstance(said, list) else ("litellm_settings", key)
                yield Need(package, place, f"{key}: {name}")


def _caches(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    settings = _mapping(native.get("litellm_settings"))
    kind = _mapping(settings.get("cache_params")).get("type")
    if settings.get("cache") and isinstance(kind, str) and kind in CACHES:
        yield Need(CACHES[kind], ("litellm_settings", "cache_params", "type"), f"cache_params: type: {kind}")


def _secret_managers(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    general = _mapping(native.get("general_settings"))
    for name, package in SECRET_MANAGERS.items():
        for key in ("key_management_system", f"use_{name}"):
            if general.get(key) in (name, True):
                yield Need(package, ("general_settings", key), f"{key}: {general[key]}")


def _models(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    entries = native.get("model_list")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        params = _mapping(_mapping(entry).get("litellm_params"))
        model = params.get("model")
        provider = params.get("custom_llm_provider") or (model.partition("/")[0] if isinstance(model, str) else "")
        place: Path = ("model_list", index, "litellm_params", "model")
        if provider == "auto_router" and str(model).partition("/")[2].partition("/")[0] not in PLAIN_ROUTERS:
            yield Need(SEMANTIC_ROUTER, place, f"model: {model}")
        elif provider in ("vertex_ai", "vertex_ai_beta"):
            yield Need(GOOGLE_AUTH, place, f"model: {model}")


def _guardrails(native: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Need]:
    entries = native.get("guardrails")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        kind = _mapping(_mapping(entry).get("litellm_params")).get("guardrail")
        place: Path = ("guardrails", index, "litellm_params", "guardrail")
        if kind == "semantic_guard":
            yield Need(SEMANTIC_ROUTER, place, f"guardrail: {kind}")
        elif kind == "hide-secrets":
            yield Need(DETECT_SECRETS, place, f"guardrail: {kind}")
    tools = _mapping(_mapping(native.get("litellm_settings")).get("mcp_semantic_tool_filter"))
    if tools.get("enabled"):
        yield Need(SEMANTIC_ROUTER, ("litellm_settings", "mcp_semantic_tool_filter"), "mcp_semantic_tool_filter")


_LOOKS: tuple[Callable[[Mapping[str, Any], Mapping[str, str]], Iterator[Need]], ...] = (
    _database,
    _callbacks,
    _caches,
    _secret_managers,
    _models,
    _guardrails,
)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
