"""Ask the daemon over its unix socket: HTTP with the standard library only, so that ``status`` starts quickly."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_supervisor.ownership import NotOurs, owner_to_ask, require_peer
from llm_supervisor.paths import SOCKET


class NoDaemon(Exception):
    """No daemon answers at the control socket."""


class Distrusted(NoDaemon):
    """Somebody may answer there, but who that is must not be asked: nothing was sent. The text says why."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect, if it is a daemon that may be asked. Raises NotOurs or OSError."""
        owner = owner_to_ask(self._path.parent, os.environ)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        path = str(self._path)
        if len(os.fsencode(path)) <= 107:
            self.sock.connect(path)
        else:
            folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
        require_peer(self.sock, self._path, owner)


def _answer(
    connection: _Connection, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    """The answer, its body unread. A daemon that becomes another version lets go of connections whose request has not
    reached it yet; the new one is asked again, where asking twice is no harm."""
    try:
        connection.request(method, path, body, headers or {})
        return connection.getresponse()
    except (ConnectionResetError, BrokenPipeError):
        if method != "GET":
            raise
    connection.close()
    connection.request(method, path, body, headers or {})
    return connection.getresponse()


def request(
    runtime: Path, method: str, path: str, body: object = None, timeout: float | None = 30.0
) -> tuple[int, Any]:
    """One request; the status and the decoded JSON. ``timeout`` is in seconds, None waits for ever.

    Raises NoDaemon when nobody answers, and Distrusted when who answers must not be asked.
    """
    connection = _Connection(runtime / SOCKET, timeout)
    try:
        data = None if body is None else json.dumps(body)
        response = _answer(connection, method, path, data, {"Content-Type": "application/json"} if data else None)
        return response.status, json.loads(response.read() or b"null")
    except NotOurs as error:
        raise Distrusted(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoDaemon(f"{runtime / SOCKET}: {error}") from error
    finally:
        connection.close()


def lines(runtime: Path, path: str, method: str = "GET") -> Iterator[Any]:
    """The lines of JSON of a streaming answer, as they come; one line with an ``error`` where the daemon does not know
    the request. Raises NoDaemon when nobody answers, and Distrusted when who answers must not be asked."""
    connection = _Connection(runtime / SOCKET, None)
    try:
        response = _answer(connection, method, path)
        if response.status == 404 and response.headers.get_content_type() != "application/json":
            yield {"error": "the daemon runs another version of llm-supervisor: use `llm-supervisor upgrade` first"}
            return
        for line in response:
            yield json.loads(line)
    except NotOurs as error:
        raise Distrusted(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoDaemon(f"{runtime / SOCKET}: {error}") from error
    finally:
        connection.close()
