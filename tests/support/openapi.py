"""Whether an answer of the control API is as its OpenAPI document says: without missing or undocumented fields."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jsonschema

from llm_supervisor.control import openapi


def strict(schema: Any) -> Any:
    """The same schema without room for fields that it does not name, which the document leaves to later versions."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    return closed | {"additionalProperties": False} if "properties" in schema else closed


def check(path: str, body: Any, *, method: str = "get", status: int = 200, document: Any = None) -> None:
    """Raises jsonschema.ValidationError for a body, or one line of it, that is not as documented."""
    document = copy.deepcopy(openapi.document() if document is None else document)
    (content,) = document["paths"][path][method]["responses"][str(status)]["content"].values()
    schema = {**content["schema"], "components": {"schemas": strict(document["components"]["schemas"])}}
    jsonschema.validate(body, schema, cls=jsonschema.Draft202012Validator)
