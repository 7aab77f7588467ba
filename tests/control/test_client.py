"""Asking the daemon: a connection that is let go of before its request was read is made again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_supervisor.control.client import NoDaemon, lines, request
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.paths import SOCKET

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def daemon(runtime: Path, *, answers_from: int) -> Iterator[list[bytes]]:
    """One that closes its first connections without an answer; the requests that it has read."""
    asked: list[bytes] = []
    listener = net_listener.bind_unix(str(runtime / SOCKET))

    def serve() -> None:
        count = 0
        while True:
            try:
                visitor, _ = listener.accept()
            except OSError:
                return
            with visitor:
                count += 1
                if count >= answers_from:
                    asked.append(visitor.recv(65536))
                    visitor.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_a_question_is_asked_again(tmp_path: Path) -> None:
    with daemon(tmp_path, answers_from=2) as asked:
        assert request(tmp_path, "GET", "/v1/status", timeout=10) == (200, {})
        assert len(asked) == 1
    with daemon(tmp_path, answers_from=2):
        assert list(lines(tmp_path, "/v1/events")) == [{}]


def test_an_order_is_not_given_twice(tmp_path: Path) -> None:
    with daemon(tmp_path, answers_from=2) as asked:
        with pytest.raises(NoDaemon):
            request(tmp_path, "POST", "/v1/shutdown", timeout=10)
        assert asked == []


def test_one_that_never_answers_is_none(tmp_path: Path) -> None:
    with daemon(tmp_path, answers_from=100), pytest.raises(NoDaemon):
        request(tmp_path, "GET", "/v1/status", timeout=10)
    with pytest.raises(NoDaemon):
        request(tmp_path, "GET", "/v1/status", timeout=10)
