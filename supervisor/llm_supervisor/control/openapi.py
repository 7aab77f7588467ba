"""The control API as an OpenAPI document, made from the types of its bodies (``protocol``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from llm_supervisor import __version__
from llm_supervisor.control import protocol

JSON, LINES = "application/json", "application/x-ndjson"
PATH = "/v1/openapi.json"
_FLAG = {"type": "string", "enum": ["0", "1"]}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_ACTION = {
    "name": "action",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "enum": ["start", "stop", "restart"]},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. ``query`` are its parameters: the schema of each, and what it does. ``body`` is the answer's type, of
    each line where ``lines``; ``errors`` are the status codes of answers that are an ``ErrorBody``."""

    method: str
    path: str
    summary: str
    body: type
    lines: bool = False
    query: Mapping[str, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    within: tuple[Mapping[str, Any], ...] = ()
    errors: tuple[int, ...] = ()


_WAIT = (_FLAG, "0: answer at once, before it has come about; default 1")
OPERATIONS = (
    Operation("get", "/v1/status", "The daemon, its programs and its models", protocol.StatusBody),
    Operation(
        "get",
        "/v1/events",
        "Changes of states and verdicts, oldest first, a line of JSON each",
        protocol.EventBody,
        lines=True,
        query={
            "after": ({"type": "integer", "minimum": 0}, "only events of a greater number; default 0"),
            "follow": (_FLAG, "1: go on with new events until the client hangs up; default 0"),
        },
        errors=(400,),
    ),
    Operation(
        "post",
        "/v1/programs/{name}/{action}",
        "Start, stop or restart a program",
        protocol.ActionBody,
        query={"wait": _WAIT},
        within=(_NAME, _ACTION),
        errors=(404,),
    ),
    Operation(
        "post",
        "/v1/programs/{action}",
        "Start, stop or restart several programs, a line of JSON each, and a last line about all of them",
        protocol.ResultBody,
        lines=True,
        query={"name": ({"type": "array", "items": {"type": "string"}}, "a program, gateway or all"), "wait": _WAIT},
        within=(_ACTION,),
        errors=(400, 404),
    ),
    Operation(
        "post",
        "/v1/reload",
        "Read the configuration again, and change only what it changes",
        protocol.ReloadBody,
        query={"dry_run": (_FLAG, "1: only say what would change; default 0"), "wait": _WAIT},
    ),
    Operation("post", "/v1/upgrade", "Become the version that is installed now", protocol.UpgradeBody),
    Operation("post", "/v1/shutdown", "Stop everything and end", protocol.ShutdownBody),
)


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. Do not change what is returned: it is the same each time."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import JsonSchemaMode

    bodies = sorted({operation.body for operation in OPERATIONS} | {protocol.ErrorBody}, key=lambda body: body.__name__)
    adapters: list[tuple[type, JsonSchemaMode, TypeAdapter[Any]]] = [
        (body, "serialization", TypeAdapter(body)) for body in bodies
    ]
    found, whole = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
    schemas = {body: found[body, "serialization"] for body in bodies}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    anything = {"responses": {"200": _response("This document", JSON, {"type": "object"})}}
    paths[PATH] = {"get": {"summary": "This document", **anything}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm-supervisor's control API", "version": __version__},
        "paths": paths,
        "components": {"schemas": whole.get("$defs", {})},
    }


def _operation(operation: Operation, schemas: Mapping[type, Any]) -> dict[str, Any]:
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": does}
        for name, (schema, does) in operation.query.items()
    ]
    body = schemas[operation.body]
    errors = {str(code): _response("Not understood", JSON, schemas[protocol.ErrorBody]) for code in operation.errors}
    answer = _response(operation.summary, LINES if operation.lines else JSON, body)
    return {
        "summary": operation.summary,
        "parameters": [*operation.within, *query],
        "responses": {"200": answer, **errors},
    }


def _response(description: str, media_type: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}
