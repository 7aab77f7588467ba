"""The control API answers as its OpenAPI document says: every route, every state that a program can be in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.routing import Route

from llm_supervisor.control import openapi
from llm_supervisor.control.protocol import (
    About,
    EventBody,
    ForkServerBody,
    ReloadBody,
    StatusBody,
    UpgradeBody,
    event_message,
    status_message,
)
from llm_supervisor.control.server import application
from llm_supervisor.core.group import ModelGroup
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import Phase, State
from tests.core.diagram import walk as every_state
from tests.core.makers import CHECKED, ENGINE, at
from tests.support.openapi import check, strict

ABOUT = About(1, "0.1.0", 2.5, "running", "http://127.0.0.1:4000", "/a.yaml", "/logs", 1, ("a warning",), ("/a.yaml",))
GROUPS = (
    ModelGroup("engine", vision=True, engines=("engine",)),
    ModelGroup("cloud", vision=None),
    ModelGroup("disabled", vision=None, disabled="KEY is not set"),
)
FORK_SERVER: ForkServerBody = {
    "state": "ready",
    "reason": "",
    "pid": 7,
    "memory_bytes": 1 << 30,
    "forks": 2,
    "import_s": 20.5,
}


class OneOf:
    """A daemon with an engine and another program, both in the same phase."""

    ending, handing_over = False, True  # nobody waits

    def __init__(self, phase: Phase) -> None:
        self.specs: Mapping[str, ProgramSpec] = {"checked": CHECKED, "engine": ENGINE}
        self.states: dict[str, State] = {"checked": at(phase, CHECKED), "engine": at(phase, ENGINE)}
        self.reloaded: ReloadBody = {"ok": True, "problems": ["a warning"], "changes": []}
        self.upgraded: UpgradeBody = {"ok": True, "version": "0.1.0", "upgrades": 1}

    def incarnation(self, name: str) -> str | None:
        return f"{name}/1" if self.states[name].incarnation else None

    def status(self) -> StatusBody:
        names = {name: told for name in self.specs if (told := self.incarnation(name))}
        return status_message(ABOUT, self.specs, self.states, GROUPS, 2000.0, names, {"engine": FORK_SERVER})

    def events(self, after: int) -> list[EventBody]:
        messages = [event_message(name, State(), state, None) for name, state in self.states.items()]
        return [{"id": id, "at": "2030-01-01T00:00:00.000+00:00", **one} for id, one in enumerate(messages, after + 1)]

    def addressed(self, action: str, names: Sequence[str]) -> list[str]:
        return list(names)

    async def act(self, action: str, names: Sequence[str], *, wait: bool) -> AsyncIterator[tuple[str, RequestOutcome]]:
        for name in names:
            if action == "stop" and name == "checked":
                del self.states[name]
                self.specs = {"engine": ENGINE}
            yield name, RequestOutcome(True, f"{action} of {name}")

    async def until(self, holds: Callable[[], bool]) -> None: ...

    async def reload(self, *, dry_run: bool, wait: bool) -> ReloadBody:
        return self.reloaded

    async def upgrade(self) -> UpgradeBody:
        return self.upgraded

    def shut_down(self, why: str) -> None: ...

    async def is_down(self) -> None: ...


def ask(daemon: OneOf, method: str, path: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(application(daemon))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path)

    return asyncio.run(asked())


@pytest.mark.parametrize("phase", Phase)
def test_what_is_answered_about_a_program_is_as_documented(phase: Phase) -> None:
    check("/v1/status", ask(OneOf(phase), "GET", "/v1/status").json())
    for line in ask(OneOf(phase), "GET", "/v1/events?after=3").text.splitlines():
        check("/v1/events", json.loads(line))
    for name in ("checked", "engine"):
        for action in ("start", "stop", "restart"):
            body = ask(OneOf(phase), "POST", f"/v1/programs/{name}/{action}").json()
            check("/v1/programs/{name}/{action}", body, method="post")
            several = ask(OneOf(phase), "POST", f"/v1/programs/{action}?name=checked&name=engine").text.splitlines()
            assert len(several) == 3
            for line in several:
                check("/v1/programs/{action}", json.loads(line), method="post")


def test_every_state_is_documented() -> None:
    for count, (spec, state, now) in enumerate(every_state()):
        if count % 7 == 0:
            told = status_message(ABOUT, {"a": spec}, {"a": state}, (), now, {})
            check("/v1/status", json.loads(json.dumps(told)))


@pytest.mark.parametrize("path", ["/v1/programs/nobody/start", "/v1/programs/engine/dance"])
def test_what_is_not_understood_is_answered_as_documented(path: str) -> None:
    answer = ask(OneOf(Phase.RUNNING), "POST", path)
    assert answer.status_code == 404
    check("/v1/programs/{name}/{action}", answer.json(), method="post", status=404)
    answer = ask(OneOf(Phase.RUNNING), "POST", "/v1/programs/stop")
    assert answer.status_code == 400
    check("/v1/programs/{action}", answer.json(), method="post", status=400)
    answer = ask(OneOf(Phase.RUNNING), "GET", "/v1/events?after=x")
    assert answer.status_code == 400
    check("/v1/events", answer.json(), status=400)


def test_the_other_requests_are_answered_as_documented() -> None:
    daemon = OneOf(Phase.RUNNING)
    changes: list[Any] = [
        {"program": "a", "action": "restart", "why": "is another"},
        {"program": "b", "action": "stop", "why": "is no longer configured", "ok": True, "outcome": "stopped"},
    ]
    for reloaded in (
        ReloadBody(ok=True, problems=["a warning"], changes=changes),
        ReloadBody(ok=False, problems=[], changes=[], error="the daemon is about to end"),
    ):
        daemon.reloaded = reloaded
        check("/v1/reload", ask(daemon, "POST", "/v1/reload?dry_run=1").json(), method="post")
    check("/v1/upgrade", ask(daemon, "POST", "/v1/upgrade").json(), method="post")
    daemon.upgraded = {"ok": False, "error": "the daemon is about to end"}
    check("/v1/upgrade", ask(daemon, "POST", "/v1/upgrade").json(), method="post")
    check("/v1/shutdown", ask(daemon, "POST", "/v1/shutdown").json(), method="post")
    daemon.states["engine"] = replace(at(Phase.STOPPED, ENGINE), orphaned=True)
    answer = ask(daemon, "POST", "/v1/shutdown").json()
    check("/v1/shutdown", answer, method="post")
    assert (answer["ok"], list(answer["left"])) == (False, ["engine"])
    assert answer["left"]["engine"].startswith("still alive: ")


def test_the_document_is_served_and_names_every_route() -> None:
    answer = ask(OneOf(Phase.RUNNING), "GET", openapi.PATH)
    assert answer.json() == openapi.document()
    served = {
        (method.lower(), route.path)
        for route in application(OneOf(Phase.RUNNING)).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == {(method, path) for path, methods in openapi.document()["paths"].items() for method in methods}


def test_every_reference_of_the_document_leads_somewhere() -> None:
    text = json.dumps(openapi.document())
    for name in openapi.document()["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"
    for schema in openapi.document()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_a_field_that_is_missing_or_not_documented_is_noticed() -> None:
    body = ask(OneOf(Phase.RUNNING), "GET", "/v1/status").json()
    body["programs"][0]["mood"] = "fine"
    with pytest.raises(jsonschema.ValidationError, match="mood"):
        check("/v1/status", body)
    del body["programs"][0]["mood"], body["programs"][0]["pid"]
    with pytest.raises(jsonschema.ValidationError, match="pid"):
        check("/v1/status", body)
    assert strict({"type": "object"}) == {"type": "object"}
