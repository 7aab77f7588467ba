"""The callback by which requests wait in LiteLLM: what it does with what the daemon has written, or has not.

The real file; what it needs of LiteLLM are stand-ins. With the real LiteLLM: ``tests.engines.test_hold``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llm_supervisor.engines import environment as envs

BASE, OTHER = "http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1"
ENGINE = {"model_name": "glm", "litellm_params": {"api_base": BASE}}
SECOND = {"model_name": "glm", "litellm_params": {"api_base": OTHER + "/"}}
CLOUD = {"model_name": "glm", "litellm_params": {"api_base": "https://example.org/v1"}}


class Error(Exception):
    """As LiteLLM's errors are made."""

    def __init__(self, message: str, model: str, llm_provider: str) -> None:
        super().__init__(message)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file as a module."""
    names = ("litellm", "litellm.integrations", "litellm.integrations.custom_logger", "litellm.proxy")
    stands: dict[str, Any] = {name: ModuleType(name) for name in (*names, "litellm.proxy.proxy_server")}
    stands["litellm"].NotFoundError = Error
    stands["litellm.integrations.custom_logger"].CustomLogger = object
    stands["litellm.proxy"].proxy_server = stands["litellm.proxy.proxy_server"]
    stands["litellm.proxy.proxy_server"].llm_router = None
    for name, stand in stands.items():
        monkeypatch.setitem(sys.modules, name, stand)
    spec = importlib.util.spec_from_file_location("hold_under_test", envs.INSIDE / "litellm_hold.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Daemon:
    """Who writes the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def says(self, age: float = 0.0, **engines: dict[str, Any]) -> None:
        """How the engines are: by BASE or OTHER, what differs from one that is down for a minute yet."""
        now = time.monotonic()
        down = {"up": False, "until": now + 60, "final": False, "retry_after": 30, "why": "it is starting"}
        bases = {"one": BASE, "two": OTHER}
        said = {"at": now - age, "engines": {bases[name]: down | more for name, more in engines.items()}}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self.file)


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "engines.json")


def asked(hold: Any, *deployments: dict[str, Any], **request: Any) -> Awaitable[list[dict[str, Any]]]:
    answer: Awaitable[list[dict[str, Any]]] = hold.async_filter_deployments("glm", list(deployments), None, request)
    return answer


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(bounded())


def at_once(hold: Any, *deployments: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    """The answer of one that may not wait at all."""
    waiting = asked(hold, *deployments, **request).__await__()
    with pytest.raises(StopIteration) as done:
        next(waiting)
    found: list[dict[str, Any]] = done.value.value
    return found


@pytest.mark.parametrize("written", [None, "", "{", "[]", '{"at": "x"}', '{"at": 1e9}', '{"engines": {}}', "old"])
def test_without_word_from_the_daemon_nothing_happens(module: Any, daemon: Daemon, written: str | None) -> None:
    if written == "old":
        daemon.says(module.OLD + 1, one={})
    elif written is not None:
        daemon.file.write_text(written)
    hold = module.Hold(str(daemon.file))
    assert at_once(hold, ENGINE, CLOUD) == [ENGINE, CLOUD]
    assert at_once(hold, ENGINE, metadata={"attempted_retries": 1}) == [ENGINE]


def test_an_engine_that_is_up_costs_no_wait(module: Any, daemon: Daemon) -> None:
    daemon.says(one={"up": True})
    assert at_once(module.Hold(str(daemon.file)), ENGINE) == [ENGINE]


def test_where_others_can_be_asked_these_are(module: Any, daemon: Daemon) -> None:
    daemon.says(one={}, two={"up": True})
    hold = module.Hold(str(daemon.file))
    assert at_once(hold, ENGINE, SECOND) == [SECOND]
    assert at_once(hold, ENGINE, CLOUD) == [CLOUD]


@pytest.mark.parametrize("spelled", ["http://localhost:8000/v1", "http://[::1]:8000/v1/"])
def test_an_engine_by_another_name_of_its_address(module: Any, daemon: Daemon, spelled: str) -> None:
    daemon.says(one={})
    named = {"litellm_params": {"api_base": spelled}}
    assert at_once(module.Hold(str(daemon.file)), named, CLOUD) == [CLOUD]


def test_it_waits_until_the_engine_is_back(module: Any, daemon: Daemon) -> None:
    daemon.says(one={})
    hold = module.Hold(str(daemon.file))

    async def scene() -> None:
        waiting = [asyncio.ensure_future(asked(hold, ENGINE)) for _ in range(5)]
        await asyncio.sleep(3 * module.LOOK)
        assert hold.waiting == 5 and not any(one.done() for one in waiting)
        daemon.says(one={"up": True})
        assert await asyncio.gather(*waiting) == [[ENGINE]] * 5
        assert hold.waiting == 0

    play(scene)


def test_a_daemon_that_falls_silent_holds_nobody_any_more(
    module: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OLD", 0.2)
    daemon.says(one={})

    async def scene() -> None:
        assert await asked(module.Hold(str(daemon.file)), ENGINE) == [ENGINE]

    play(scene)


@pytest.mark.parametrize("how", ["past", "final", "later"])
def test_past_the_hold_it_is_unavailable_and_says_when_to_come_again(module: Any, daemon: Daemon, how: str) -> None:
    until = {"past": {"until": time.monotonic()}, "final": {"final": True}, "later": {"until": time.monotonic() + 0.2}}
    daemon.says(one=until[how], two={**until[how], "retry_after": 7, "why": "it was stopped"})
    hold = module.Hold(str(daemon.file))

    async def scene() -> None:
        answer: dict[str, int] = {}
        module._retry_after.set(answer)
        with pytest.raises(module.Unavailable) as refusal:
            await asked(hold, ENGINE, SECOND)
        assert refusal.value.status_code == 503
        assert str(refusal.value) == (
            "glm is not available: it is starting; it was stopped. Ask again in about 7 s; the operator sees more with "
            "`llm-supervisor status`."
        )
        assert answer == {"seconds": 7}, "as soon as the first of them may be back"
        assert hold.waiting == 0

    play(scene)


def test_only_so_many_wait(module: Any, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    daemon.says(one={})
    hold = module.Hold(str(daemon.file))

    async def scene() -> None:
        waiting = [asyncio.ensure_future(asked(hold, ENGINE)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(module.Unavailable, match="3 requests wait for it already"):
            await asked(hold, ENGINE)
        waiting[0].cancel()  # its client has gone
        await asyncio.wait(waiting[:1])
        waiting.append(asyncio.ensure_future(asked(hold, ENGINE)))
        await asyncio.sleep(0)
        assert hold.waiting == 3
        daemon.says(one={"up": True})
        assert await asyncio.gather(*waiting[1:]) == [[ENGINE]] * 3

    play(scene)


@pytest.mark.parametrize(
    ("fallbacks", "waits"),
    [([{"glm": ["cloud"]}], False), ([{"*": ["cloud"]}], False), ([{"other": ["cloud"]}], True), (None, True)],
)
def test_who_has_a_fallback_goes_there_without_waiting(
    module: Any, daemon: Daemon, fallbacks: list[dict[str, list[str]]] | None, waits: bool
) -> None:
    sys.modules["litellm.proxy.proxy_server"].llm_router = type("Router", (), {"fallbacks": fallbacks})  # type: ignore[attr-defined]
    daemon.says(one={"until": time.monotonic() + 0.2})

    async def scene() -> None:
        began = time.monotonic()
        with pytest.raises(module.Unavailable):
            await asked(module.Hold(str(daemon.file)), ENGINE)
        assert (time.monotonic() - began >= 0.2) is waits

    play(scene)


def test_one_that_broke_is_not_sent_to_where_it_broke(module: Any, daemon: Daemon) -> None:
    """The daemon may not have seen yet why it broke."""
    daemon.says(one={"up": True})
    hold = module.Hold(str(daemon.file))

    async def scene() -> None:
        again = asyncio.ensure_future(asked(hold, ENGINE, metadata={"attempted_retries": 1}))
        await asyncio.sleep(0)
        daemon.says(one={})
        await asyncio.sleep(module.NOTICE + 2 * module.LOOK)
        assert not again.done()
        daemon.says(one={"up": True})
        assert await again == [ENGINE]

    play(scene)


def test_the_answer_says_it_in_its_header(module: Any) -> None:
    async def scene() -> None:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["refused"]:
                module._retry_after.get()["seconds"] = 12
            headers = [(b"content-type", b"x"), (b"retry-after", b"1")]
            await send({"type": "http.response.start", "status": scope["status"], "headers": headers})

        for refused, status in ((True, 500), (True, 200), (False, 500)):
            await module.RetryAfter(app)({"type": "http", "refused": refused, "status": status}, None, send)
        assert [(message["status"], dict(message["headers"])[b"retry-after"]) for message in sent] == [
            (503, b"12"),
            (200, b"1"),  # a fallback has answered
            (500, b"1"),  # somebody else's failure
        ]

    play(scene)
