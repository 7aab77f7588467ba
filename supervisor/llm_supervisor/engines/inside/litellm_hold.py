"""Requests for a local model that restarts wait for it, instead of failing. Part of a LiteLLM replica, by path.

The daemon writes how its engines are into a file, atomically, at every change and every few seconds::

    {"at": MONOTONIC, "engines": {"http://127.0.0.1:8000/v1":
        {"up": false, "until": MONOTONIC, "final": false, "retry_after": 30, "why": "..."}}}

LiteLLM asks its callbacks at every choice of a deployment, retries included: there a request waits as long as all
deployments of its group are down engines, at most ``until``. A request that broke is retried by LiteLLM
(``num_retries`` of the group) and so waits here too. Past ``until``, or where nothing is to be waited for (``final``),
it is answered 503 with Retry-After at once; where a fallback is configured it goes there without waiting. Without the
file, or with an old one, nothing happens: a daemon that is gone holds nobody.

Standard library beside litellm. When all is well this costs one stat of a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

OLD = 20.0  # seconds after which a file says nothing any more
LOOK = 0.05  # seconds between two looks of a request that waits
MAX_WAITING = 2000  # requests
NOTICE = 0.3  # seconds that the daemon gets to notice what a broken request has seen

LOOPBACK = re.compile(r"//(localhost|\[::1\])(?=:)")  # other names of where the engines are
HTTPS = re.compile(r"^https:")  # one that speaks it is known by the other scheme, too

Deployments = list[dict[str, Any]]
Engine = dict[str, Any]
# For the request's answer: how long to wait before another one
_retry_after: ContextVar[dict[str, int] | None] = ContextVar("llm_supervisor_retry_after", default=None)


class Unavailable(litellm.NotFoundError):  # type: ignore[misc]
    """The model is not there. NotFoundError, because the router retries every 503 itself, and this one has waited long
    enough; the client sees 503."""

    def __init__(self, model: str, why: str, seconds: int) -> None:
        then = f"Ask again in about {seconds} s; the operator sees more with `llm-supervisor status`."
        message = f"{model} is not available: {why}. {then}"
        super().__init__(message=message, model=model, llm_provider="llm-supervisor")
        self.status_code = 503


class States:
    """What the daemon says, read again when the file has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int] = (0, 0)
        self._at = 0.0
        self._engines: dict[str, Engine] = {}

    def read(self) -> dict[str, Engine] | None:
        """The engines by address; None when nobody says how they are."""
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_ino)
            if seen != self._seen:
                with open(self._path, encoding="utf-8") as file:
                    said = json.load(file)
                self._at, self._engines, self._seen = float(said["at"]), dict(said["engines"]), seen
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return self._engines if time.monotonic() - self._at < OLD else None


def engine_of(deployment: dict[str, Any], engines: dict[str, Engine]) -> Engine | None:
    """The engine of ours behind a deployment; None for anybody else's."""
    base = deployment.get("litellm_params", {}).get("api_base")
    return engines.get(HTTPS.sub("http:", LOOPBACK.sub("//127.0.0.1", str(base).rstrip("/")))) if base else None


class Hold(CustomLogger):  # type: ignore[misc]
    """LiteLLM's callback: a request for an engine that is down waits until it is ready, or until the hold is over."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._states = States(path)
        self.waiting = 0

    def _usable(self, deployments: Deployments) -> tuple[Deployments, list[Engine]]:
        """Those deployments that are not down engines of ours, and the engines that are down."""
        engines = self._states.read()
        if engines is None:
            return deployments, []
        usable, down = [], []
        for deployment in deployments:
            engine = engine_of(deployment, engines)
            if engine is None or engine["up"]:
                usable.append(deployment)
            else:
                down.append(engine)
        return usable, down

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: Deployments,
        messages: object,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: object = None,
    ) -> Deployments:
        """The deployments that can be used now, or as soon as there is one. Raises Unavailable."""
        usable, down = self._usable(healthy_deployments)
        if not down:
            if not retried(request_kwargs) or not self._ours(healthy_deployments):
                return healthy_deployments
            # it broke, or was refused, and the daemon may not have seen why yet
            await asyncio.sleep(NOTICE)
            usable, down = self._usable(healthy_deployments)
        if usable or not down:
            return usable
        if has_fallback(model):
            raise self._unavailable(model, down)
        if self.waiting >= MAX_WAITING:
            raise self._unavailable(model, down, f"{self.waiting} requests wait for it already")
        self.waiting += 1
        try:
            while not usable:
                if all(engine["final"] or time.monotonic() >= engine["until"] for engine in down):
                    raise self._unavailable(model, down)
                await asyncio.sleep(LOOK)
                usable, down = self._usable(healthy_deployments)
        finally:
            self.waiting -= 1
        return usable

    def _ours(self, deployments: Deployments) -> bool:
        engines = self._states.read() or {}
        return any(engine_of(deployment, engines) is not None for deployment in deployments)

    def _unavailable(self, model: str, down: list[Engine], why: str | None = None) -> Unavailable:
        seconds = int(min(engine["retry_after"] for engine in down))
        if (answer := _retry_after.get()) is not None:
            answer["seconds"] = seconds
        return Unavailable(model, why or "; ".join(dict.fromkeys(str(engine["why"]) for engine in down)), seconds)


def retried(request_kwargs: dict[str, Any] | None) -> bool:
    """Whether this request was tried before."""
    for name in ("metadata", "litellm_metadata"):
        said = (request_kwargs or {}).get(name)
        if isinstance(said, dict) and (said.get("attempted_retries") or said.get("previous_models")):
            return True
    return False


def has_fallback(model: str) -> bool:
    """Whether LiteLLM was told where requests for this group go when it is not there."""
    from litellm.proxy import proxy_server

    router = getattr(proxy_server, "llm_router", None)
    return any(
        isinstance(entry, dict) and (model in entry or "*" in entry)
        for entry in getattr(router, "fallbacks", None) or ()
    )


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RetryAfter:
    """An ASGI application around LiteLLM's: gives the header to the answers of requests that were not served."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer: dict[str, int] = {}
        _retry_after.set(answer)

        async def with_header(message: Message) -> None:
            if answer and message["type"] == "http.response.start" and message["status"] >= 500:
                message["status"] = 503
                kept = [(name, value) for name, value in message["headers"] if name.lower() != b"retry-after"]
                message["headers"] = [*kept, (b"retry-after", str(answer["seconds"]).encode())]
            await send(message)

        await self._app(scope, receive, with_header)
