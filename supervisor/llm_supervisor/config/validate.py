"""Validation by the schema, and placeholders for invalid values, so that everything else can still be checked. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic

from llm_supervisor.config import errors, schema
from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.engines.vllm.installed_options import Options

# Values for required settings that are missing or invalid: one mistake must not hide the others
_PLACEHOLDERS: dict[str, Any] = {"port": 65535, "model": "stand/in", "command": ["true"], "python": "/bin/true"}
# Replacing one value may make another one invalid. This ends it for data that never becomes valid
_ROUNDS = 20


@dataclass(frozen=True)
class Validated:
    """The outcome. ``root`` is None where too little is left to check anything else. ``placeholders`` are the places
    whose value is not from the file: nothing may be reported about these again."""

    root: schema.Root | None
    placeholders: frozenset[Where]
    problems: tuple[Problem, ...]


def validate(document: Document, options: Callable[[], Options | None]) -> Validated:
    """Validate the data of a document. Every invalid value is reported once and then left out or replaced, until the
    rest is valid. ``options`` returns those of the installed vLLM, or None where they are not known; it is called only
    for an unknown key of a model, as asking vLLM takes seconds."""
    data = copy.deepcopy(document.data)
    placeholders = set(document.unread)
    problems: list[Problem] = []
    for _ in range(_ROUNDS):
        try:
            root = schema.Root.model_validate(data)
            return Validated(root, frozenset(placeholders), tuple(problems))
        except pydantic.ValidationError as error:
            # For a value that may have one of several types there is one error for each; the last says most
            items = {_place(data, item["loc"]): item for item in error.errors(include_url=False)}
        for where, item in items.items():
            if where not in placeholders:
                problems.append(errors.complaint(document, where, item, options))
        for where in items:
            _repair(data, where, placeholders)
    return Validated(None, frozenset(placeholders), tuple(problems))


def _repair(data: Any, where: Where, placeholders: set[Where]) -> None:
    """Replace the value at a place by a valid one, or remove it; the place is added to ``placeholders``. An item of a
    list takes the whole list with it: without one item the list would mean something else."""
    placeholders.add(where)
    for index, part in enumerate(where):
        if isinstance(part, int):
            where = where[:index]
            placeholders.add(where)
            break
    for part in where[:-1]:
        if not isinstance(data, dict) or part not in data:
            return  # the block around it was removed already
        data = data[part]
    name = where[-1] if where else None
    if isinstance(data, dict):
        placeholder = None
        if len(where) > 2 and where[0] in ("models", "programs", "engines"):
            placeholder = _PLACEHOLDERS.get(str(name))
        if placeholder is not None and data.get(name) != placeholder:
            data[name] = copy.deepcopy(placeholder)
        else:
            data.pop(name, None)


def _place(data: Any, loc: tuple[str | int, ...]) -> Where:
    """The place in the file of pydantic's location, which also holds names of types of a union."""
    where: list[str | int] = []
    for index, part in enumerate(loc):
        if isinstance(data, dict):
            if part not in data and index != len(loc) - 1:
                continue
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        where.append(part)
    return tuple(where)
