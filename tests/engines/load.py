"""A load of parallel clients on an OpenAI-compatible endpoint, bounded in number and time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Load:
    """What came of a load: answers by status (0: no answer; why is in ``errors``), and how long the slowest took
    (seconds)."""

    answers: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


async def _client(load: Load, base: str, headers: dict[str, str], body: dict[str, Any], end: float) -> None:
    # a client of its own each: connections that are shared in a pool are closed by one task when another has just
    # been given them (seen as ReadError without a word from the server)
    limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=300, limits=limits, trust_env=False) as http:
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                answer = await http.post("/v1/chat/completions", json=body)
                load.answers[answer.status_code] += 1
            except httpx.HTTPError as error:
                load.answers[0] += 1
                load.errors[f"{type(error).__name__}: {error} after {time.monotonic() - began:.1f} s"] += 1
            load.slowest = max(load.slowest, time.monotonic() - began)


async def run(base: str, key: str, body: dict[str, Any], *, clients: int, seconds: float) -> Load:
    """``clients`` parallel clients for ``seconds``, each sending its next request when the last is answered."""
    load = Load()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(load, base, headers, body, end))
    return load
