"""Asking a process on this machine something over HTTP or TCP, without ever raising: an answer or the lack of one.

Loopback and unix sockets only, and never through a proxy that an environment variable names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from llm_supervisor.core.health import Answer, Probe


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, whatever its status. ``took`` is in seconds."""

    status: int
    body: bytes
    took: float


class Target:
    """One HTTP server: ``address`` is (host, port), or the path of a unix socket. Connections are kept open."""

    def __init__(self, address: tuple[str, int] | str, headers: Mapping[str, str] | None = None) -> None:
        self.address = address
        uds = address if isinstance(address, str) else None
        host = "localhost" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=uds, retries=0, limits=httpx.Limits(keepalive_expiry=60)),
            base_url=f"http://{host}",
            headers=dict(headers or {}),
            trust_env=False,
            timeout=None,
        )

    async def ask(self, path: str, timeout: float, json: object = None) -> Reply | Probe:
        """GET, or POST when there is ``json``. The time-out (seconds) is for the whole exchange."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                if json is None:
                    response = await self._client.get(path)
                else:
                    response = await self._client.post(path, json=json)
                return Reply(response.status_code, response.content, time.monotonic() - began)
        except TimeoutError:
            return Probe(Answer.SILENT, f"no answer from {path} within {timeout:g} s", time.monotonic() - began)
        except httpx.ConnectError as error:
            return Probe(Answer.REFUSED, f"{self._where()} refuses connections ({error})", time.monotonic() - began)
        except httpx.HTTPError as error:
            # it accepted and then broke off: reset, or garbage instead of HTTP
            detail = f"{path}: {type(error).__name__} {error}".rstrip()
            return Probe(Answer.INVALID, detail, time.monotonic() - began)

    def _where(self) -> str:
        return self.address if isinstance(self.address, str) else f"{self.address[0]}:{self.address[1]}"

    async def close(self) -> None:
        """Close the kept connections."""
        await self._client.aclose()


async def connect(host: str, port: int, timeout: float) -> Probe:
    """Whether somebody accepts TCP connections there."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return Probe(Answer.OK, "accepts connections", time.monotonic() - began)
    except TimeoutError:
        return Probe(Answer.SILENT, f"{host}:{port} does not accept within {timeout:g} s", time.monotonic() - began)
    except OSError as error:
        return Probe(Answer.REFUSED, f"{host}:{port}: {error.strerror or error}", time.monotonic() - began)
