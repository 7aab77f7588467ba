"""A daemon that only answers ``GET /v1/status``, for commands that are tested without a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.paths import SOCKET


def program(name: str, **changes: Any) -> dict[str, Any]:
    """A program that is ready, as the status describes it."""
    row = {"name": name, "kind": "command", "wanted": "up", "state": "RUNNING", "health": "ready", "pid": 77}
    row |= {"uptime_s": 3661.0, "progress": None, "failure": None, "exit": None, "reason": "", "retry_in_s": None}
    return row | {"fork_server": None, "started": "cold"} | changes


class FakeDaemon:
    """``status`` is what it answers; a test may change it at any time."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.asked = 0
        about: dict[str, Any] = {"pid": 1, "version": "1", "uptime_s": 1.0, "state": "running", "config_problems": []}
        about |= {"loop_lag_s": 0.0, "not_answering": []}
        self.status: dict[str, Any] = {"supervisor": about, "endpoint": None, "programs": [], "models": []}
        self._listener = net_listener.bind_unix(str(runtime / SOCKET))

    def serve(self) -> None:
        """Answer until ``close``."""
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            with visitor:
                if visitor.recv(65536):
                    self.asked += 1
                    body = json.dumps(self.status).encode()
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    visitor.sendall(head.encode() + body)

    def close(self) -> None:
        """End ``serve``."""
        self._listener.shutdown(2)
        self._listener.close()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A daemon that the commands of this process and of its children find."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    fake = FakeDaemon(tmp_path)
    thread = threading.Thread(target=fake.serve)
    thread.start()
    yield fake
    fake.close()
    thread.join(10)
