"""A load of parallel clients on an OpenAI-compatible endpoint, bounded in number and time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

from tests.support.harness import Daemon


@dataclass
class Load:
    """What came of a load: answers by status (0: no answer; why is in ``errors``), and how long the slowest took
    (seconds)."""

    answers: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


async def _client(load: Load, base: str, headers: dict[str, str], body: dict[str, Any], ended: asyncio.Event) -> None:
    # a client of its own each: connections that are shared in a pool are closed by one task when another has just
    # been given them (seen as ReadError without a word from the server)
    limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=300, limits=limits, trust_env=False) as http:
        while not ended.is_set():
            began = time.monotonic()
            try:
                answer = await http.post("/v1/chat/completions", json=body)
                load.answers[answer.status_code] += 1
            except httpx.HTTPError as error:
                load.answers[0] += 1
                load.errors[f"{type(error).__name__}: {error} after {time.monotonic() - began:.1f} s"] += 1
            load.slowest = max(load.slowest, time.monotonic() - began)


async def run(
    base: str, body: dict[str, Any], *, clients: int, seconds: float, longest: float, enough: Callable[[Load], bool]
) -> Load:
    """``clients`` parallel clients, each sending its next request when the last is answered: for ``seconds``, and then
    until it is enough, at most for ``longest``."""
    load, ended, began = Load(), asyncio.Event(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(load, base, {}, body, ended))
        await asyncio.sleep(seconds)
        while time.monotonic() - began < longest and not enough(load):
            await asyncio.sleep(1.0)
        ended.set()
    return load


async def keep_chatting(
    daemon: Daemon, model: str, meanwhile: Callable[[], None], *, clients: int, retries: int = 0, **body: Any
) -> Counter[str]:
    """How the requests end of ``openai`` clients that ask all the time, a second before and after ``meanwhile`` too."""
    answers: Counter[str] = Counter()
    done = asyncio.Event()
    key = (daemon.home / "master_key").read_text().strip()
    url = f"{daemon.status()['endpoint']}/v1"

    async def keep_asking() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=retries, timeout=120) as client:
            while not done.is_set():
                try:
                    await client.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": "hi"}], **body
                    )
                    answers["ok"] += 1
                except openai.OpenAIError as error:
                    answers[f"{type(error).__name__}: {str(error)[:200]}"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(keep_asking())
        await asyncio.sleep(1.0)
        await asyncio.to_thread(meanwhile)
        await asyncio.sleep(1.0)
        done.set()
    return answers
