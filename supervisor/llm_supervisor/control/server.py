"""The control API's server: HTTP on a unix socket, for our own command and for ``curl --unix-socket``.

GET  /v1/status                         what ``status --json`` prints
GET  /v1/events[?after=N][&follow=1]     state and verdict changes, a line of JSON each; follow: until one hangs up
POST /v1/programs/NAME/{start,stop,restart}[?wait=0]
POST /v1/programs/{start,stop,restart}?name=NAME[&name=...][&wait=0]
                                        for several at once: a line of JSON for each, and a last one for all
                                        NAME may be ``gateway``, all of its replicas, and ``all``
POST /v1/reload[?dry_run=1][?wait=0]      the plan, and what became of it
POST /v1/upgrade                         answers once the new code has passed its rehearsal, or has not
POST /v1/shutdown
GET  /v1/openapi.json                   this API as an OpenAPI document
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llm_supervisor.control import openapi
from llm_supervisor.control.protocol import (
    ActionBody,
    ErrorBody,
    EventBody,
    ProgramBody,
    ReloadBody,
    ResultBody,
    ShutdownBody,
    StatusBody,
    UpgradeBody,
    program_message,
)
from llm_supervisor.core import event as ev
from llm_supervisor.core.request import RequestOutcome, still_alive
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import State
from llm_supervisor.suggest import nearest

REQUESTS: Mapping[str, type] = {
    "start": ev.StartRequested,
    "stop": ev.StopRequested,
    "restart": ev.RestartRequested,
}


class Fleet(Protocol):
    """What the server needs of the daemon."""

    @property
    def specs(self) -> Mapping[str, ProgramSpec]:
        """The specifications of all programs."""

    @property
    def states(self) -> Mapping[str, State]:
        """The present states of all programs."""

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""

    @property
    def handing_over(self) -> bool:
        """Whether it is about to become another version: everybody who waits is answered now."""

    def status(self) -> StatusBody:
        """The answer of ``GET /v1/status``."""

    def incarnation(self, name: str) -> str | None:
        """The unique name of the present incarnation; None where there is none."""

    def addressed(self, action: str, names: Sequence[str]) -> list[str]:
        """The programs that these names mean; one that does not exist is returned as it is."""

    def act(self, action: str, names: Sequence[str], *, wait: bool) -> AsyncIterator[tuple[str, RequestOutcome]]:
        """Start, stop or restart these programs, and say what became of each, in this order; without ``wait``, what has
        been decided about it."""

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds`` is true of the present state."""

    def events(self, after: int) -> list[EventBody]:
        """What happened since the event of that number."""

    async def reload(self, *, dry_run: bool, wait: bool) -> ReloadBody:
        """Read the configuration again and change what it changes."""

    async def upgrade(self) -> UpgradeBody:
        """Become the version that is installed now."""

    def shut_down(self, why: str) -> None:
        """Stop everything and end."""

    async def is_down(self) -> None:
        """Wait until everything is stopped."""


def application(fleet: Fleet) -> Starlette:
    """The routes of the API over one daemon."""

    async def status(request: Request) -> JSONResponse:
        return JSONResponse(fleet.status())

    async def document(request: Request) -> JSONResponse:
        return JSONResponse(openapi.document())

    async def act(request: Request) -> JSONResponse:
        name, action = request.path_params["name"], request.path_params["action"]
        names, wrong = _understood(fleet, action, [name])
        if wrong is not None:
            return wrong
        results = {one: result async for one, result in fleet.act(action, names, wait=_flag(request, "wait", True))}
        return JSONResponse(_action_body(results, _program(fleet, name)))

    async def act_on_several(request: Request) -> Response:
        action = request.path_params["action"]
        names, wrong = _understood(fleet, action, request.query_params.getlist("name"))
        if wrong is not None:
            return wrong
        lines = _results(fleet, action, names, wait=_flag(request, "wait", True))
        return StreamingResponse(lines, media_type=openapi.LINES)

    async def events(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            return _error(400, f"after={after}: not the number of an event")
        lines = _lines(fleet, int(after), follow=_flag(request, "follow", False))
        return StreamingResponse(lines, media_type=openapi.LINES)

    async def reload(request: Request) -> JSONResponse:
        dry_run, wait = _flag(request, "dry_run", False), _flag(request, "wait", True)
        return JSONResponse(await fleet.reload(dry_run=dry_run, wait=wait))

    async def upgrade(request: Request) -> JSONResponse:
        return JSONResponse(await fleet.upgrade())

    async def shutdown(request: Request) -> JSONResponse:
        fleet.shut_down("asked by shutdown")
        await fleet.is_down()
        left = {name: alive for name, state in fleet.states.items() if (alive := still_alive(state)) is not None}
        body: ShutdownBody = {"ok": False, "left": left} if left else {"ok": True}
        return JSONResponse(body)

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/events", events),
            Route("/v1/programs/{name}/{action}", act, methods=["POST"]),
            Route("/v1/programs/{action}", act_on_several, methods=["POST"]),
            Route("/v1/reload", reload, methods=["POST"]),
            Route("/v1/upgrade", upgrade, methods=["POST"]),
            Route("/v1/shutdown", shutdown, methods=["POST"]),
            Route(openapi.PATH, document),
        ]
    )


def _flag(request: Request, name: str, default: bool) -> bool:
    """A parameter of the request that is on unless it is 0."""
    value = request.query_params.get(name)
    return default if value is None else value != "0"


def _error(status: int, words: str) -> JSONResponse:
    body: ErrorBody = {"error": words}
    return JSONResponse(body, status)


def _understood(fleet: Fleet, action: str, names: Sequence[str]) -> tuple[list[str], JSONResponse | None]:
    """The programs that a request is about; and the answer where nothing is done, because it names no program, or an
    action or a program that does not exist."""
    if action not in REQUESTS:
        return [], _error(404, f"no such action: {action}; there are: {', '.join(REQUESTS)}")
    if not names:
        return [], _error(400, f"which program? name it: /v1/programs/{action}?name=NAME")
    found = fleet.addressed(action, names)
    unknown = next((name for name in found if name not in fleet.specs), None)
    return found, None if unknown is None else _error(404, nearest(unknown, fleet.specs))


def _program(fleet: Fleet, name: str) -> ProgramBody | None:
    """One program as the status shows it; None when it is not there, or no longer."""
    if name not in fleet.specs:
        return None
    now = asyncio.get_running_loop().time()
    return program_message(fleet.specs[name], fleet.states[name], now, fleet.incarnation(name))


def _action_body(results: Mapping[str, RequestOutcome], program: ProgramBody | None) -> ActionBody:
    """The answer about one name, which may mean several programs: what became of all of them, in one sentence."""
    told = dict.fromkeys(result.words for result in results.values())
    words = next(iter(told)) if len(told) == 1 else "; ".join(f"{one}: {results[one].words}" for one in results)
    return {"ok": all(result.done for result in results.values()), "outcome": words, "program": program}


async def _results(fleet: Fleet, action: str, names: Sequence[str], *, wait: bool) -> AsyncIterator[str]:
    """A line for each program as soon as it is known what became of it. The last line is about all of them: a client
    that does not get it knows that the daemon has not answered to the end."""
    all_ok = True
    async for name, (ok, words) in fleet.act(action, names, wait=wait):
        all_ok = all_ok and ok
        line: ResultBody = {"program": name, "ok": ok, "outcome": words}
        yield json.dumps(line) + "\n"
    last: ResultBody = {"ok": all_ok}
    yield json.dumps(last) + "\n"


async def _lines(fleet: Fleet, after: int, *, follow: bool) -> AsyncIterator[str]:
    """A line for each event since the one of that number; with ``follow`` until the daemon ends or becomes another
    version."""

    def is_over() -> bool:
        return not follow or fleet.ending or fleet.handing_over

    def has_news() -> bool:
        return is_over() or bool(fleet.events(after))

    while True:
        for event in fleet.events(after):
            after = event["id"]
            yield json.dumps(event) + "\n"
        if is_over():
            return
        await fleet.until(has_news)


DRAIN_IDLE = 1.0  # seconds after which idle connections are closed when the server stops


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the daemon's: uvicorn would replace its handlers."""
        yield

    async def main_loop(self) -> None:
        """Sleep until told to stop: uvicorn's own loop wakes ten times a second for a Date header that nobody needs,
        which was a third of all the CPU time of an idle daemon."""
        self.told = asyncio.Event()
        if not self.should_exit:
            await self.told.wait()

    told: asyncio.Event | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn closes idle connections at once, perhaps one whose request is on its way: nobody new is let in first,
        and who is there gets a moment to ask, to be answered, and to go."""
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + DRAIN_IDLE
        while self.server_state.connections and loop.time() < end:
            await asyncio.sleep(0.005)
        await super().shutdown(sockets)


class ControlServer:
    """The control API on a socket, until ``stop``."""

    def __init__(self, fleet: Fleet, sock: socket.socket) -> None:
        config = uvicorn.Config(
            application(fleet),
            log_config=None,
            date_header=False,
            server_header=False,
            access_log=False,
            lifespan="off",
            loop="none",
            http="h11",
            ws="none",
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._socket = sock

    async def run(self) -> None:
        """Serve. uvicorn closes the socket at its end."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Answer what is in hand, then end ``run``."""
        self._server.should_exit = True
        if self._server.told is not None:
            self._server.told.set()
