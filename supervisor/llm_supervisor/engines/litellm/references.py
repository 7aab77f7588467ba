"""References to the environment in LiteLLM's file, ``os.environ/NAME``, as LiteLLM itself resolves them. Pure.

LiteLLM replaces a value that begins with these words, in mappings at every depth, by what the variable holds; texts
that stand in a list by themselves it leaves as they are (``ProxyConfig._check_for_os_environ_vars``, 1.106). A variable
that is set to nothing gives the empty text, one that is not set gives nothing. Only then are the file's own
``environment_variables`` put into the environment, so no reference sees them; but whoever looks a variable up by its
own name does: the providers for their keys, Redis for its address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_supervisor.redaction import REFERENCE, names_secret

MASTER_KEY = "LITELLM_MASTER_KEY"
# Limits are optional: a variable that is not set means none
LIMITS = frozenset({"rpm", "tpm"})
Path = tuple[str | int, ...]

# What a request to a provider cannot do without, besides what is a secret by its name. LiteLLM gives all else a default
_NEEDED = frozenset({"model", "api_key", "api_base", "base_url"})
_HEADERS = frozenset({"headers", "extra_headers", "default_headers"})
# Credentials that the provider's own library looks for in other places, too: files, and the machine's own identity
_FOUND_ELSEWHERE = ("aws_", "vertex_")
# Servers of one's own, which LiteLLM asks with a made-up key where none is given
_KEYLESS = frozenset(
    """hosted_vllm vllm ollama ollama_chat lm_studio llamafile oobabooga xinference infinity docker_model_runner
    lemonade petals triton""".split()
)
# Providers' own variables that are not called like the provider
_OWN = {
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_AD_TOKEN"),
    "codestral": ("MISTRAL_API_KEY",),
    "text-completion-codestral": ("MISTRAL_API_KEY",),
    "cohere_chat": ("COHERE_API_KEY", "CO_API_KEY"),
    "cohere": ("CO_API_KEY",),
    "databricks": ("DATABRICKS_TOKEN",),
    "fireworks_ai": ("FIREWORKS_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
    "friendliai": ("FRIENDLI_TOKEN",),
    "gemini": ("GOOGLE_API_KEY",),
    "github": ("GITHUB_TOKEN",),
    "huggingface": ("HF_TOKEN",),
    "openai": ("OPENAI_BASE_URL",),
    "openrouter": ("OR_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY",),
    "replicate": ("REPLICATE_API_TOKEN",),
    "snowflake": ("SNOWFLAKE_JWT",),
    "text-completion-openai": ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL"),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_TOKEN"),
    "volcengine": ("ARK_API_KEY",),
    "watsonx": ("WATSONX_APIKEY", "WX_API_KEY", "WATSONX_URL", "WX_URL"),
}


def references(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every ``os.environ/NAME`` in a configuration, with its place."""
    if isinstance(value, str):
        if found := REFERENCE.fullmatch(value.strip()):
            yield path, found[1]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from references(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from references(item, (*path, index))


def unset(value: object, environ: Mapping[str, str], path: Path = ()) -> Iterator[tuple[Path, str]]:
    """The references that LiteLLM would resolve to nothing."""
    for where, name in references(value, path):
        if name not in environ and name != MASTER_KEY and isinstance(where[-1], str):
            yield where, name


def resolved(value: Any, environ: Mapping[str, str]) -> Any:
    """The value with what LiteLLM makes of its references; None in the place of what is not set."""
    if isinstance(value, Mapping):
        return {key: resolved(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [item if isinstance(item, str) else resolved(item, environ) for item in value]
    found = REFERENCE.fullmatch(value.strip()) if isinstance(value, str) else None
    return environ.get(found[1]) if found else value


def set_by_file(native: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that LiteLLM sets from ``environment_variables``, after it has resolved the references."""
    said = native.get("environment_variables")
    found = resolved(said, environ) if isinstance(said, Mapping) else {}
    return {str(name): str(value) for name, value in found.items() if value is not None}


def asks_a_manager(native: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    """Whether LiteLLM asks a secret manager for what references name: which of them it has is not known here."""
    said = native.get("general_settings")
    settings = said if isinstance(said, Mapping) else {}
    kinds = ("key_management_system", "use_google_kms", "use_azure_key_vault")
    return any(settings.get(kind) for kind in kinds) or environ.get("USE_AWS_KMS") == "True"


def limits(params: Mapping[str, Any], environ: Mapping[str, str]) -> frozenset[str]:
    """Which limits a deployment has."""
    said = {key: params[key] for key in LIMITS & params.keys() if params[key] is not None}
    return frozenset(key for key in said if all(environ.get(name) for _, name in references(said[key])))


def provider_of(params: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The provider that a deployment names, or that a model without one is known to be of."""
    named = resolved({key: params.get(key) for key in ("custom_llm_provider", "model")}, environ)
    model = str(named["model"] or "")
    if named["custom_llm_provider"]:
        return str(named["custom_llm_provider"])
    if "/" in model:
        return model.partition("/")[0]
    return next(
        (of for begin, of in (("claude", "anthropic"), ("gemini", "gemini")) if model.startswith(begin)), "openai"
    )


def missing_variables(
    deployment: Mapping[str, Any], environ: Mapping[str, str], more: Mapping[str, str]
) -> dict[str, Path]:
    """The variables that a deployment of the native file needs and that are not set, each with its place in it. For a
    key an empty one is as good as none. ``more`` are those that the file sets itself (``set_by_file``): a provider
    finds its own ones among them."""
    params = deployment.get("litellm_params")
    provider = provider_of(params, environ) if isinstance(params, Mapping) else ""
    found: dict[str, Path] = {}
    for path, name in references(params, ("litellm_params",)):
        key = str(path[-1])
        if environ.get(name) or name == MASTER_KEY or not _is_needed(path) or isinstance(path[-1], int):
            continue
        if name in environ and key not in _NEEDED and not names_secret(key):
            continue
        if key == "api_key" and provider in _KEYLESS:
            continue
        if not any({**environ, **more}.get(own) for own in _own_variables(provider, key)):
            found.setdefault(name, path)
    return found


def optional_variables(
    deployment: Mapping[str, Any], environ: Mapping[str, str], more: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    """The references of a deployment that are not set and that it is served without."""
    params = deployment.get("litellm_params")
    provider = provider_of(params, environ) if isinstance(params, Mapping) else ""
    needed = missing_variables(deployment, environ, more)
    for path, name in unset(params, environ, ("litellm_params",)):
        key = str(path[-1])
        own = any({**environ, **more}.get(one) for one in (*_own_variables(provider, key), key.upper()))
        if name not in needed and key not in LIMITS and not own:
            yield path, name


def _is_needed(path: Path) -> bool:
    """Whether a deployment cannot be asked without what stands at that place."""
    key = str(path[-1])
    if key.startswith(_FOUND_ELSEWHERE) or key in LIMITS or "_cost" in key:
        return False
    return key in _NEEDED or names_secret(key) or any(part in _HEADERS for part in path[:-1])


def _own_variables(provider: str, key: str) -> tuple[str, ...]:
    """Where LiteLLM looks for a provider's key or address that a deployment does not give."""
    begin = provider.upper().replace("-", "_")
    kind = "BASE" if key in ("api_base", "base_url") else "KEY"
    if key not in ("api_key", "api_base", "base_url"):
        return ()
    more = (own for own in _OWN.get(provider, ()) if own.endswith(("BASE", "URL")) == (kind == "BASE"))
    return (f"{begin}_API_{kind}", *more)
