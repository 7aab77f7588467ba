"""The variables that each kind of program is started with: the daemon's own and those of the env file, without what is
meant for others. Pure.

vLLM runs code that was downloaded from a hub, and a command under ``programs`` is anybody's. Neither needs the keys of
the clouds, the gateway's key or the password of its database. What is left out is given by name under ``env:``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llm_supervisor import redaction
from llm_supervisor.config import schema
from llm_supervisor.config.config import Config
from llm_supervisor.core.spec import Kind
from llm_supervisor.engines.litellm.references import references
from llm_supervisor.engines.vllm import process as vllm_process

# Variables of providers, of LiteLLM and of what LiteLLM talks to. Not only the secrets among them: an address or a
# user's name is of no use to others either
_OF_OTHERS = re.compile(
    r"""(?:LITELLM|ANTHROPIC|OPENAI|AZURE|AWS|GOOGLE|GCLOUD|GCP|VERTEX(?:AI)?|GEMINI|BEDROCK|MISTRAL|COHERE|DATABASE
    |REDIS|POSTGRES(?:QL)?|MYSQL|LANGFUSE|LANGSMITH|SLACK|SMTP|CREDENTIALS)_.*
    | PG(?:PASSFILE|USER|HOST) | .*_HEADERS""",
    re.VERBOSE,
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXY = re.compile(r"(?:https?|all|no|ftp)_proxy", re.IGNORECASE)


def of_kinds(config: Config) -> dict[Kind, dict[str, str]]:
    """The variables from which those of each engine are made, by its kind."""
    return {Kind.VLLM: of_vllm(config), Kind.LITELLM: _of_litellm(config)}


def of_vllm(config: Config) -> dict[str, str]:
    """What every vLLM gets: of the env file, what it or its libraries read; of the daemon's own variables, all but
    those of others."""
    return {
        name: value
        for name, value in config.environ.items()
        if _reaches_vllm(name, value, from_file=config.env_values.get(name) == value)
    }


def of_model(config: Config, model: schema.Model) -> dict[str, str]:
    """The environment of that model's engine, without the variables that the daemon sets itself."""
    return {**of_vllm(config), **model.env}


def of_download(environ: Mapping[str, str]) -> dict[str, str]:
    """Of an engine's variables those for the script that downloads: without any key but those of the hubs."""
    hubs = vllm_process.HUB_KEYS
    return {name: value for name, value in environ.items() if name in hubs or not redaction.names_secret(name)}


def of_download_alone(environ: Mapping[str, str]) -> dict[str, str]:
    """The same where no model is configured: from variables that are meant for several programs."""
    return of_download({name: value for name, value in environ.items() if _reaches_vllm(name, value, from_file=False)})


def of_commands(own: Mapping[str, str]) -> dict[str, str]:
    """What every command under ``programs`` gets of the daemon's own variables; of the env file it gets none."""
    return {name: value for name, value in own.items() if not _is_of_others(name, value)}


def _of_litellm(config: Config) -> dict[str, str]:
    """All but the keys that only vLLM reads. It gets those that its file refers to, and those of Hugging Face where
    its file names that provider."""
    native: Any = config.native
    needed = {name for _, name in references(native)}
    if "huggingface" in json.dumps(native, default=str):
        needed |= vllm_process.HUB_KEYS
    withheld = vllm_process.KEYS - needed
    return {name: value for name, value in config.environ.items() if name not in withheld}


def _reaches_vllm(name: str, value: str, *, from_file: bool) -> bool:
    if name.startswith(vllm_process.READS):
        return name in vllm_process.KEYS or not redaction.names_secret(name)
    return not from_file and not _is_of_others(name, value)


def _is_of_others(name: str, value: str) -> bool:
    """Whether a variable holds a secret, or belongs to a provider, to LiteLLM, or to a database of LiteLLM's."""
    if _PROXY.fullmatch(name):
        return False  # it may hold a password, and every program may need it
    return bool(_OF_OTHERS.fullmatch(name)) or redaction.names_secret(name) or redaction.has_password(value)


def around_proxies(environ: Mapping[str, str], names: Iterable[str] = ()) -> dict[str, str]:
    """``NO_PROXY`` and ``no_proxy`` for this machine, where ``environ`` configures a proxy; else nothing.

    LiteLLM would send the proxy the requests for the engines, too, and vLLM those for images of this machine.
    ``names`` are more hosts to keep away from the proxy."""
    if not any(value and name.lower() in _PROXIES for name, value in environ.items()):
        return {}
    both = ",".join(value for name, value in environ.items() if name.lower() == "no_proxy")
    kept = [part.strip() for part in both.split(",") if part.strip()]
    if "*" in kept:
        return {"NO_PROXY": "*", "no_proxy": "*"}  # as a part of a list it is not understood
    value = ",".join(dict.fromkeys((*kept, *_LOOPBACK, *names)))
    return {"NO_PROXY": value, "no_proxy": value}


def with_own_programs(python: str, environ: Mapping[str, str]) -> str:
    """The ``PATH`` of an engine: first the folder of its interpreter, where programs are that came with its packages
    (vLLM's kernels are compiled with the ``ninja`` of its environment)."""
    own, path = os.path.dirname(os.path.abspath(python)), environ.get("PATH") or os.defpath
    return path if path.split(os.pathsep)[0] == own else f"{own}{os.pathsep}{path}"
