"""Checks of keys: in files that others can read, in the list of processes, and the gateway's master key."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llm_supervisor import redaction
from llm_supervisor.config import schema, secrets
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.config import GATEWAY
from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.engines.litellm import references
from llm_supervisor.engines.vllm import options as engine_options

KEY_NEEDS_ASCII = "must be printable ASCII: no HTTP header can carry anything else"

_MASTER_KEY: Where = ("general_settings", "master_key")
# In an option of vLLM, names that are certainly one of a secret, and names that may be one of something else: a
# tokenizer's or a cache's
_CERTAIN = re.compile(
    r"""(?:.*(?:passwords?|passwd|passphrase|pwd|secrets?|credentials?|authorization)
    |(?:.*[_-])?(?:api|access|account|client|master|private|secret|shared)[_-]?keys?
    |(?:.*[_-])?(?:api|access|auth|bearer|hf|hub|refresh|secret|session)[_-]?token)""",
    re.IGNORECASE | re.VERBOSE,
)
_PERHAPS = re.compile(r"key|token|auth|pass|cookie", re.IGNORECASE)


def problems(context: Context) -> Iterator[Problem]:
    """Problems of keys in LiteLLM's own file, in options of vLLM, and of the master key."""
    yield from readable_by_others(context.native, "os.environ/NAME")
    for alias, model in context.root.models.items():
        yield from _on_the_command_line(context.document, alias, model)
    yield from _master_key(context)


def readable_by_others(document: Document, reference: str) -> Iterator[Problem]:
    """Keys that are written out in a file that others can read. ``reference`` is how the file may refer to a variable
    in their place; the document's variables must not be filled in yet."""
    for where in secrets.places(document.data):
        if len(where) > 3 and where[2] == "vllm" and engine_options.normal(str(where[3])) != "api-key":
            continue  # options of vLLM whose names end in key or token are a tokenizer's
        problem = document.problem(where, "", f"write {reference} and put it into env_file, or chmod 600", warning=True)
        try:
            mode = os.stat(problem.file).st_mode
        except OSError:
            continue
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            yield replace(problem, message=f"others can read {problem.file}, and the key in it")


def _on_the_command_line(document: Document, alias: str, model: schema.Model) -> Iterator[Problem]:
    """Secrets in options of vLLM: everybody on the machine reads them in the list of processes."""
    for written, value in model.vllm.items():
        name = engine_options.normal(written)
        if name == "api-key" or (name == "hf-token" and isinstance(value, str)):
            continue  # the first goes to the environment; the second is reported with the options
        for where in secrets.places({written: value}):
            called = next((part for part in reversed(where) if isinstance(part, str)), "")
            secret: Any = value
            for part in where[1:]:
                secret = secret[part]
            if isinstance(secret, str) and secret.startswith(("/", "~/", "./")):
                continue  # the file that holds it
            certain = _CERTAIN.fullmatch(called) or redaction.has_password(str(secret))
            if certain or _PERHAPS.fullmatch(called):
                advice = "write env: {HF_TOKEN: ...}" if name == "hf-token" else "give it by env, or in a file"
                place: Where = ("models", alias, "vllm", *where)
                message = "would show in the list of processes"
                yield document.problem(place, message, advice, warning=not certain)


def given_master_key(context: Context) -> str | None:
    """The gateway's key where one was given, by LiteLLM's own file or else by the environment; wrong ones included."""
    if context.root.gateway is None or _MASTER_KEY in context.native.unread:
        return None
    written = _written_master_key(context)
    if isinstance(written, str) and not written.startswith("os.environ/"):
        return written
    return None if written is not None and not isinstance(written, str) else context.environ.get(_variable(written))


def _written_master_key(context: Context) -> object:
    return ((context.native.data or {}).get("general_settings") or {}).get("master_key")


def _variable(written: str | None) -> str:
    """The environment variable that holds the master key."""
    return written.removeprefix("os.environ/") if written is not None else references.MASTER_KEY


def _master_key(context: Context) -> Iterator[Problem]:
    """What is wrong with the key, at the place that gives it."""
    native, written = context.native, _written_master_key(context)
    if context.root.gateway is None or _MASTER_KEY in native.unread:
        return
    if written is not None and not isinstance(written, str):
        yield native.problem(_MASTER_KEY, "must be text: write it in quotes")
        return
    key = given_master_key(context)
    if key is None or (wrong := _wrong_master_key(key)) is None:
        return
    if written is None:
        yield context.document.problem((GATEWAY,), f"{references.MASTER_KEY} {wrong}")
    elif not written.startswith("os.environ/"):
        yield native.problem(_MASTER_KEY, wrong)
    else:
        yield native.problem(_MASTER_KEY, f"{_variable(written)} {wrong}")


def _wrong_master_key(key: str) -> str | None:
    """What is wrong with a key; None for a good one."""
    if key.strip() in proxy_config.WEAK_KEYS:
        return "is blank or a known default; LiteLLM refuses to start with it"
    return None if proxy_config.fits_in_header(key) else KEY_NEEDS_ASCII
