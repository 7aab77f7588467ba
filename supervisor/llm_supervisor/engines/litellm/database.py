"""The database that LiteLLM is configured with: where it is said, and where it can be reached. Pure.

LiteLLM's command takes ``general_settings: database_url``, else DATABASE_URL, else puts one together from DATABASE_HOST
and its companions (``construct_database_url_from_env_vars``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from llm_supervisor.redaction import REFERENCE

VARIABLE = "DATABASE_URL"
PARTS = ("DATABASE_HOST", "DATABASE_USERNAME", "DATABASE_NAME")


@dataclass(frozen=True, slots=True)
class Configured:
    """What configures a database: the place in LiteLLM's own file (empty: a variable), and its name for people."""

    path: tuple[str | int, ...]
    name: str
    url: str


def configured(native: Mapping[str, Any], environ: Mapping[str, str]) -> Configured | None:
    """What configures the database; None where none is configured."""
    general = native.get("general_settings")
    said = general.get("database_url") if isinstance(general, Mapping) else None
    reference = REFERENCE.fullmatch(said.strip()) if isinstance(said, str) else None
    if reference and environ.get(reference[1]):
        return Configured(("general_settings", "database_url"), "database_url", environ[reference[1]])
    if isinstance(said, str) and said and not reference:
        return Configured(("general_settings", "database_url"), "database_url", said)
    if environ.get(VARIABLE):
        return Configured((), VARIABLE, environ[VARIABLE])
    if all(environ.get(name) for name in PARTS):
        return Configured((), PARTS[0], f"postgresql://{environ[PARTS[0]]}/")
    variables = native.get("environment_variables")
    late = variables.get(VARIABLE) if isinstance(variables, Mapping) else None
    if isinstance(late, str) and late:
        reference = REFERENCE.fullmatch(late.strip())
        url = environ.get(reference[1], "") if reference else late
        return Configured(("environment_variables", VARIABLE), VARIABLE, url) if url else None
    return None


def address(native: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, int] | None:
    """The host and the port of the database; None where none is configured, or where it has neither."""
    found = configured(native, environ)
    try:
        url = urlsplit(found.url if found is not None else "")
        if not url.hostname or any(key == "host" for key, _ in parse_qsl(url.query)):
            return None  # a unix socket, as `?host=/run/postgresql` names one
        return url.hostname, url.port or 5432
    except ValueError:
        return None  # LiteLLM will say so
