"""Checks of names and ports that must differ, and of the interpreters under ``engines``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context
from llm_supervisor.config.checks.litellm_references import environ_of
from llm_supervisor.config.config import GATEWAY, bound_ports
from llm_supervisor.config.document import Problem, Where
from llm_supervisor.engines.litellm import references

# Of the gateway's programs: the first replica, and the others
_GATEWAY_NAME = re.compile(rf"{GATEWAY}(-\d+)?")


def problems(context: Context) -> Iterator[Problem]:
    """All names and ports that collide or cannot be used, and interpreters that cannot be run."""
    yield from _names(context)
    yield from _local_aliases(context)
    yield from _more_names(context)
    yield from _ports(context)
    yield from _engines(context)


def _names(context: Context) -> Iterator[Problem]:
    root, document = context.root, context.document
    for group, names in (("models", root.models), ("programs", root.programs)):
        for name in names:
            where: Where = (group, name)
            if not schema.NAME.fullmatch(name) or name.endswith(".log"):
                advice = "letters, digits, . _ - ; at most 63, not ending in .log"
                yield document.problem(where, "is not a valid name", advice)
            if _GATEWAY_NAME.fullmatch(name):
                yield document.problem(where, f"{name} is the gateway's own name")
            if name == "all":
                yield document.problem(where, "all means every program in commands", "rename it")
    for name in root.programs:
        if name in root.models:
            yield document.problem(("programs", name), "there is a model of that name")


def _local_aliases(context: Context) -> Iterator[Problem]:
    """Groups of LiteLLM's own file that have the alias of a local model."""
    models, native = context.root.models, context.native
    resolved = references.resolved((native.data or {}).get("model_list") or [], environ_of(context))
    for index, entry in enumerate(resolved):
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in models:
            ours = context.document.problem(("models", name), "")
            message = f"{name} is also the alias of a local model, in {ours.file}:{ours.line}"
            yield native.problem(("model_list", index, "model_name"), message)


def _more_names(context: Context) -> Iterator[Problem]:
    """Names of ``served_model_name``, which become aliases of the model's group, that another group has."""
    models, native = context.root.models, context.native.data or {}
    entries = native.get("model_list") or []
    named = [entry.get("model_name") for entry in entries if isinstance(entry, dict)]
    groups = {name for name in named if isinstance(name, str)} | set(models)
    users: dict[str, str] = {}
    for alias, model in models.items():
        names = model.served_model_name
        if not isinstance(names, list) or len(names) == 1:
            continue
        for index, name in enumerate(names):
            where: Where = ("models", alias, "served_model_name", index)
            if names.index(name) != index:
                yield context.document.problem(where, f"{name} is written twice")
            elif name != alias and (name in groups or users.setdefault(name, alias) != alias):
                whose = f"of {users[name]}, too" if name in users else "of another group"
                yield context.document.problem(where, f"{name} is the name {whose}", "every name leads to one group")


def _ports(context: Context) -> Iterator[Problem]:
    users: dict[int, str] = {}
    for _, port, program, place in bound_ports(context.root, context.document):
        where: Where = (GATEWAY, "port") if program == GATEWAY else ("models", program, "port")
        if where in context.placeholders:
            continue
        if port in users:
            yield replace(place, message=f"port {port} is already used by {users[port]}")
        users.setdefault(port, program)


def _engines(context: Context) -> Iterator[Problem]:
    document = context.document
    for name in ("vllm", "litellm"):
        where: Where = ("engines", name, "python")
        engine: schema.Engine | None = getattr(context.root.engines, name)
        if engine is None or where in context.placeholders:
            continue
        python = context.file(engine.python)
        if os.path.isdir(python):
            advice = f"write {engine.python.rstrip('/')}/bin/python" if os.path.isfile(python / "bin/python") else ""
            yield document.problem(where, f"{engine.python} is a folder", advice)
        elif not os.path.isfile(python):
            yield document.problem(where, f"no such program: {engine.python}")
        elif not os.access(python, os.X_OK):
            yield document.problem(where, f"{engine.python} cannot be executed", f"chmod +x {python}")
