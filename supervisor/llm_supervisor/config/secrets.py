"""What is a secret, and texts without any. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llm_supervisor import redaction
from llm_supervisor.config.source import Where
from llm_supervisor.engines.vllm import process as vllm_process

_LEAST = 6  # characters: shorter values are words, and found everywhere


# Of an env file, where keys are kept: names of what is none, besides numbers and addresses
_PLAIN = re.compile(
    r"""(?:.*_)?(?:MODELS?|GROUP|ALIAS|NAME|PROVIDER|URL|URI|BASE|ENDPOINT|PROXY|HOSTS?|HOSTNAME|DOMAIN|ADDRESS|PORT
    |RPM|TPM|LIMIT|SIZE|LEN|LENGTH|COUNT|TIMEOUT|HOME|DIR|DIRECTORY|FOLDER|ROOT|PATH|FILE|CACHE|BUCKET|USER|USERNAME
    |ORG|ORGANIZATION|PROJECT|TEAM|REGION|LOCATION|ZONE|VERSION|REVISION|LEVEL|MODE|TYPE|DTYPE|FORMAT|PARSER|BACKEND
    |DEVICES?|ENV|ENVIRONMENT|LANG|TZ)""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER = re.compile(r"\s*(?:[-+]?\d+(?:\.\d+)?|true|false|yes|no|on|off)\s*", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*[a-z]+://\S+\s*", re.IGNORECASE)
# In an address: who asks, or a parameter that says it
_CREDENTIALS = re.compile(r"://[^/@\s]+@|[?&][^=&\s]*(?:key|token|secret|sig|pass|auth)[^=&\s]*=", re.IGNORECASE)


def of(*blocks: Any, environ: Mapping[str, str], env_file: Mapping[str, str] | None = None) -> list[str]:
    """Every value that is a secret by its place in one of these blocks or by its variable's name, and those of the env
    file that are not plainly none; the longest first, as one may be a part of another."""
    found = {value for name, value in environ.items() if _named(name, value)}
    for block in blocks:
        found |= {text for _, text in redaction.secrets_in(block)}
    names = {name for block in blocks for name in _names(block)}
    for name, value in (env_file or {}).items():
        if _named(name, value) or not (_plain(name, value) or value in names):
            found.add(value)
    found |= {json.dumps(text, ensure_ascii=False)[1:-1] for text in found}  # as an option of vLLM's may hold it
    # a name of a variable is none
    return sorted((one for one in found if len(one) >= _LEAST and not one.startswith("${")), key=len, reverse=True)


def _names(block: Any) -> Iterator[str]:
    """What is a name in a configuration: without these nothing that is said of it could be understood."""
    if isinstance(block, Mapping):
        for key, value in block.items():
            yield str(key)
            if key in ("model", "model_name", "served_model_name") and isinstance(value, str):
                yield value
            yield from _names(value)
    elif isinstance(block, list):
        for item in block:
            yield from _names(item)


def _named(name: str, value: str) -> bool:
    return redaction.names_secret(name) or redaction.has_password(value)


def _plain(name: str, value: str) -> bool:
    if _CREDENTIALS.search(value):
        return False
    known = _PLAIN.fullmatch(name) or name.startswith(vllm_process.READS)
    return bool(known or _NUMBER.fullmatch(value) or _ADDRESS.fullmatch(value))


def places(value: Any) -> Iterator[Where]:
    """Where in a block there are secrets as such, not references to where they are."""
    for where, text in redaction.secrets_in(value):
        if not text.startswith(("${", "os.environ")):
            yield where
