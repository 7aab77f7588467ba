"""Send requests over HTTP or TCP to a process of this machine. A failure of the other side is a value.

What our own side lacks for a connection (descriptors, memory, ports) says nothing of the other one: it is an OSError.

Loopback and unix sockets only, and never through a proxy that an environment variable names.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import httpx

from llm_supervisor.core.health import Answer, ProbeResult

# More than any answer that is wanted; what floods must not fill our memory
BODY_LIMIT = 16 * 1024 * 1024
# Errors that say that no process listens there
_NOBODY = (errno.ECONNREFUSED, errno.ENOENT)
# Errors that say what our own side lacks
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, whatever its status. ``took`` is in seconds."""

    status: int
    body: bytes
    took: float


@cache
def _tls_of_this_machine() -> ssl.SSLContext:
    """What https to a process of this machine needs. Its certificate is made for the name that clients know and not for
    127.0.0.1, it may be self-signed, expired or just renewed on disk; none of that says whether the process can answer.
    Whose port it is, the kernel says (``judge_port``)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Target:
    """One HTTP server: ``address`` is (host, port), or the path of a unix socket. Connections are kept open.

    With ``tls`` it is asked by https, and its certificate is not verified: see ``_tls_of_this_machine``."""

    def __init__(
        self, address: tuple[str, int] | str, headers: Mapping[str, str] | None = None, *, tls: bool = False
    ) -> None:
        self.address = address
        uds = address if isinstance(address, str) else None
        host = "localhost"
        if not isinstance(address, str):
            host = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                uds=uds, retries=0, limits=httpx.Limits(keepalive_expiry=60), verify=_tls_of_this_machine()
            ),
            base_url=f"{'https' if tls else 'http'}://{host}",
            # a key may be any text; httpx itself would raise for what is not ASCII
            headers=[(name.encode(), value.encode("utf-8", "replace")) for name, value in (headers or {}).items()],
            trust_env=False,
            timeout=None,
        )

    async def ask(
        self, path: str, timeout: float, json: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply | ProbeResult:
        """GET, or POST when there is ``json``. The time-out (seconds) is for the whole exchange.

        Raises OSError when this process lacks what a connection needs."""
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(timeout),
                self._client.stream("GET" if json is None else "POST", path, json=json, headers=headers) as response,
            ):
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > BODY_LIMIT:
                        detail = f"{path}: more than {BODY_LIMIT} bytes"
                        return ProbeResult(Answer.INVALID, detail, time.monotonic() - began)
                return Reply(response.status_code, bytes(body), time.monotonic() - began)
        except TimeoutError:
            return ProbeResult(Answer.SILENT, f"no answer from {path} within {timeout:g} s", time.monotonic() - began)
        except httpx.ConnectError as error:
            return _not_connected(self._where(), error, time.monotonic() - began)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # it accepted and then broke off: reset, or garbage instead of HTTP
            detail = f"{path}: {type(error).__name__} {error}".rstrip()
            return ProbeResult(Answer.INVALID, detail, time.monotonic() - began)

    def _where(self) -> str:
        return self.address if isinstance(self.address, str) else f"{self.address[0]}:{self.address[1]}"

    async def close(self) -> None:
        """Close the kept connections."""
        await self._client.aclose()


async def connect(host: str, port: int, timeout: float) -> ProbeResult:
    """Probe a TCP port: OK when it accepts a connection. Raises OSError when this process lacks what a connection
    needs."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return ProbeResult(Answer.OK, "accepts connections", time.monotonic() - began)
    except TimeoutError:
        return ProbeResult(
            Answer.SILENT, f"{host}:{port} does not accept within {timeout:g} s", time.monotonic() - began
        )
    except (OSError, ValueError, OverflowError) as error:  # ValueError: a name that can be none; OverflowError: a port
        return _not_connected(f"{host}:{port}", error, time.monotonic() - began)


def _not_connected(where: str, error: BaseException, took: float) -> ProbeResult:
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) is None:
        cause = cause.__cause__ or cause.__context__
    number = getattr(cause, "errno", None)
    if number in _OURS:
        raise OSError(number, f"{os.strerror(number)}: no connection to {where}")
    if number in _NOBODY:
        return ProbeResult(Answer.REFUSED, f"{where} refuses connections ({os.strerror(number)})", took)
    return ProbeResult(Answer.SILENT, f"{where} cannot be reached ({cause or error})", took)
