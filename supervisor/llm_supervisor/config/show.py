"""The configuration as it will be used, without any secret, and its JSON Schema for editors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm_supervisor import redaction
from llm_supervisor.config import environments, schema, secrets
from llm_supervisor.config.config import Config
from llm_supervisor.config.plan import Plan
from llm_supervisor.redaction import HIDDEN


def secrets_of(config: Config) -> list[str]:
    """Every value of the configuration that is a secret by its place or its name; the longest first."""
    key = {"master_key": config.master_key} if config.master_key else {}
    said = config.root.model_dump(mode="json")
    return secrets.of(said, config.native, key, environ=config.environ, env_file=config.env_values)


def redacted(value: Any, hidden: Iterable[str]) -> Any:
    """The same data without the texts in ``hidden``, and without the values of keys that are named like a secret."""
    if isinstance(value, Mapping):
        return {redacted(key, hidden): _hidden(str(key), item, hidden) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, hidden) for item in value]
    if isinstance(value, str):
        return redaction.redact(value, hidden)
    return value


def _hidden(name: str, value: Any, hidden: Iterable[str]) -> Any:
    if isinstance(value, (list, tuple)) and redaction.names_secret(name):
        return [_hidden(name, item, hidden) for item in value]
    told = isinstance(value, str) and (not value or value == "none" or value.startswith(("os.environ/", "${")))
    plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return HIDDEN if plain and not told and redaction.names_secret(name) else redacted(value, hidden)


def shown(config: Config, plan: Plan) -> dict[str, Any]:
    """What ``config show --json`` prints."""
    hidden = secrets_of(config)
    said = config.root.model_dump(mode="json", exclude_unset=True)
    whole = {
        "files": [str(file) for file in config.files],
        "config": said,
        "env_file": sorted(config.env_values),
        "env_file_for_vllm": sorted(config.env_values.keys() & environments.of_vllm(config).keys()),
        "endpoint": plan.endpoint,
        "argv": {name: list(planned.spec.launch.argv) for name, planned in plan.programs.items()},
        "litellm_config": plan.litellm_config,
    }
    result: dict[str, Any] = redacted(whole, hidden)
    return result


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration, for editors."""
    made = schema.Root.model_json_schema(mode="validation")
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **_friendly(made), "title": "llm-supervisor's supervisor.yaml"}


_VARIABLE = {"type": "string", "pattern": r"^(\$\{|\s*os\.environ/)"}


def _friendly(value: Any) -> Any:
    """The schema that also allows ``${NAME}`` for a number, a flag or one of some words."""
    if isinstance(value, list):
        return [_friendly(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") in ("number", "integer", "boolean") or "enum" in value:
        outer = {key: value[key] for key in ("default", "description", "title") if key in value}
        inner = {key: item for key, item in value.items() if key not in outer}
        return {"anyOf": [inner, _VARIABLE], **outer}
    return {key: _friendly(item) for key, item in value.items()}
