"""Asking a process something: every way in which a server can answer or not is a value, never an exception."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llm_supervisor.core.health import Answer, ProbeResult
from llm_supervisor.host.http import Reply, Target, connect
from llm_supervisor.host.net import listener as net_listener
from tests.support.programs import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Server:
    """An HTTP server that says exactly what it is told to. ``asked`` are the requests it got."""

    def __init__(self, behave: bytes | str) -> None:
        self.behave = behave
        self.asked: list[bytes] = []
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while request := await self._request(reader):
                self.asked.append(request)
                if self.behave == "hang":
                    await asyncio.sleep(3600)
                if self.behave == "reset":
                    sock = writer.get_extra_info("socket")
                    if sock.family != socket.AF_UNIX:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    writer.transport.abort()
                    return
                if self.behave == "close":
                    return
                if self.behave == "trickle":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                    while True:
                        writer.write(b".")
                        await asyncio.sleep(0.01)
                if self.behave == "flood":
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
                        await writer.drain()
                assert isinstance(self.behave, bytes)
                writer.write(self.behave)
                await writer.drain()
                if b"Content-Length" not in self.behave:
                    return
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ength:" in line), 0)
        return head + await reader.readexactly(length)


async def at_tcp(server: Server) -> tuple[asyncio.Server, tuple[str, int]]:
    listening = await asyncio.start_server(server._serve, "127.0.0.1", 0)
    return listening, listening.sockets[0].getsockname()[:2]


def ask(behave: bytes | str, timeout: float = 5.0, **headers: str) -> Reply | ProbeResult:
    """One question to a server that behaves like that."""

    async def go() -> Reply | ProbeResult:
        listening, address = await at_tcp(Server(behave))
        target = Target(address, headers)
        try:
            return await target.ask("/health", timeout)
        finally:
            await target.close()
            listening.close()

    return asyncio.run(go())


def test_an_answer_is_a_reply_whatever_its_status() -> None:
    reply = ask(OK)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (200, b"hello")
    assert 0 < reply.took < 5
    reply = ask(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (503, b"")


@pytest.mark.parametrize("location", [b"http://192.0.2.1/", b"http://[", b"\xff", b""])
def test_a_redirection_is_not_followed(location: bytes) -> None:
    reply = ask(b"HTTP/1.1 302 Elsewhere\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(reply, Reply)
    assert reply.status == 302


SILENT = "no answer from /health within 0.2 s"
ODD = [
    ("hang", Answer.SILENT, SILENT),
    ("trickle", Answer.SILENT, SILENT),
    ("reset", Answer.INVALID, "/health: ReadError"),
    ("close", Answer.INVALID, "/health: RemoteProtocolError"),
    (b"SSH-2.0-OpenSSH_9.2p1\r\n", Answer.INVALID, "/health: RemoteProtocolError"),
    (b"\0\xff\xfe garbage \r\n\r\n" * 10, Answer.INVALID, "/health: RemoteProtocolError"),
    (b"\x15\x03\x01\x00\x02\x02\x46", Answer.INVALID, "/health: RemoteProtocolError"),
    (b"x" * 300_000, Answer.INVALID, "/health: RemoteProtocolError"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", Answer.SILENT, SILENT),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Answer.INVALID, "/health: RemoteProtocolError"),
    (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", Answer.INVALID, "/health: Decoding"),
    ("flood", Answer.INVALID, "/health: more than"),
]


@pytest.mark.parametrize(("behave", "answer", "detail"), ODD, ids=[str(row[0])[:24] for row in ODD])
def test_odd_servers(behave: bytes | str, answer: Answer, detail: str) -> None:
    timeout = 0.2 if answer is Answer.SILENT else 20
    probe = ask(behave, timeout)
    assert isinstance(probe, ProbeResult)
    assert (probe.answer, probe.detail[: len(detail)]) == (answer, detail)
    assert probe.took < timeout + 2


def test_nobody_listens() -> None:
    async def go() -> tuple[Reply | ProbeResult, ProbeResult]:
        target = Target(("127.0.0.1", port))
        try:
            return await target.ask("/health", 5), await connect("127.0.0.1", port, 5)
        finally:
            await target.close()

    port = free_port()
    asked, connected = asyncio.run(go())
    assert isinstance(asked, ProbeResult)
    assert asked.answer is connected.answer is Answer.REFUSED
    assert asked.detail == connected.detail == f"127.0.0.1:{port} refuses connections (Connection refused)"


def test_a_port_that_accepts() -> None:
    async def go() -> ProbeResult:
        listening, (host, port) = await at_tcp(Server("hang"))
        try:
            return await connect(host, port, 5)
        finally:
            listening.close()

    probe = asyncio.run(go())
    assert (probe.answer, probe.detail) == (Answer.OK, "accepts connections")


def test_a_full_backlog_is_silence_not_refusal() -> None:
    """A busy server is not a dead one: it only does not come round to accepting."""

    async def go(port: int) -> tuple[ProbeResult, Reply | ProbeResult]:
        target = Target(("127.0.0.1", port))
        try:
            return await connect("127.0.0.1", port, 0.2), await target.ask("/health", 0.2)
        finally:
            await target.close()

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        port = busy.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        connected, asked = asyncio.run(go(port))
        for one in waiting:
            one.close()
    assert isinstance(asked, ProbeResult)
    assert (connected.answer, asked.answer) == (Answer.SILENT, Answer.SILENT)


def test_our_own_lack_of_descriptors_is_not_the_servers_death() -> None:
    """REFUSED kills an engine at once; that we cannot even open a socket says nothing about it, so it is no answer."""

    async def go() -> None:
        listening, address = await at_tcp(Server(OK))
        target = Target(address)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            for asking in (target.ask("/health", 5), connect(*address, 5)):
                with pytest.raises(OSError, match=r"Too many open files: no connection to 127\.0\.0\.1"):
                    await asking
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)
            await target.close()
            listening.close()

    asyncio.run(go())


@pytest.mark.parametrize("length", [60, 107, 108, 180])
def test_a_unix_socket_whatever_the_length_of_its_path(tmp_path: Path, length: int) -> None:
    """An address holds 107 bytes."""
    folder = tmp_path / ("d" * max(length - len(str(tmp_path)) - 10, 1))
    folder.mkdir()
    path = str(folder / "s").ljust(length, "s") if length > 60 else str(folder / "s")
    server = Server(OK)

    async def go() -> list[Reply | ProbeResult]:
        listening = await asyncio.start_unix_server(server._serve, sock=net_listener.bind_unix(path))
        target = Target(net_listener.reachable(path))
        answers = [await target.ask("/one", 5), await target.ask("/two", 5, json={"a": 1})]
        listening.close()
        server.behave = "close"
        await target.close()
        if os.path.exists(path):  # Python 3.13 has removed it with the server
            os.unlink(path)
        answers.append(await target_of(path))
        return answers

    async def target_of(path: str) -> Reply | ProbeResult:
        target = Target(net_listener.reachable(path))
        try:
            return await target.ask("/three", 5)
        finally:
            await target.close()

    one, two, absent = asyncio.run(go())
    assert isinstance(one, Reply)
    assert isinstance(two, Reply)
    assert isinstance(absent, ProbeResult)
    assert absent.answer is Answer.REFUSED
    assert server.asked[0].startswith(b"GET /one HTTP/1.1\r\nHost: localhost\r\n")
    assert server.asked[1].startswith(b"POST /two HTTP/1.1\r\n")
    assert server.asked[1].endswith(b'{"a":1}')


def test_a_unix_socket_without_a_server_is_refused(tmp_path: Path) -> None:
    """The file is left by a dead one."""
    path = str(tmp_path / "stale")
    net_listener.bind_unix(path).close()

    async def go() -> Reply | ProbeResult:
        target = Target(path)
        try:
            return await target.ask("/", 5)
        finally:
            await target.close()

    probe = asyncio.run(go())
    assert isinstance(probe, ProbeResult)
    assert probe.answer is Answer.REFUSED
    assert path in probe.detail


def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    reply = ask(OK)
    assert isinstance(reply, Reply)
    assert reply.status == 200


def test_a_netrc_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = Server(OK)

    async def go() -> None:
        listening, address = await at_tcp(server)
        target = Target(address, {"Authorization": "Bearer key"})
        await target.ask("/", 5)
        await target.close()
        listening.close()

    asyncio.run(go())
    (request,) = server.asked
    assert b"Authorization: Bearer key\r\n" in request
    assert b"Basic" not in request


def test_connections_are_kept_and_made_anew() -> None:
    """One connection for many questions; when the server is another one, the next question finds it."""
    server = Server(OK)

    async def go() -> list[Reply | ProbeResult]:
        listening, address = await at_tcp(server)
        target = Target(address)
        answers = [await target.ask("/", 5) for _ in range(5)]
        assert server.connections == 1
        server.behave = "close"
        answers.append(await target.ask("/", 5))
        server.behave = OK
        answers.append(await target.ask("/", 5))
        await target.close()
        listening.close()
        return answers

    answers = asyncio.run(go())
    assert [isinstance(answer, Reply) for answer in answers] == [True] * 5 + [False, True]


def test_a_question_after_a_time_out_is_answered() -> None:
    """The time-out leaves no broken connection behind, nor any that stays open."""
    server = Server("hang")

    async def go() -> tuple[Reply | ProbeResult, Reply | ProbeResult]:
        listening, address = await at_tcp(server)
        target = Target(address)
        first = await target.ask("/", 0.05)
        server.behave = OK
        second = await target.ask("/", 5)
        await target.close()
        listening.close()
        return first, second

    before = len(os.listdir("/proc/self/fd"))
    first, second = asyncio.run(go())
    assert isinstance(first, ProbeResult)
    assert isinstance(second, Reply)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("key", ["with\nnewline", "with\0nul", "schlüssel", "ключ", "\udce4"])
def test_a_key_that_no_header_can_carry_is_no_exception(key: str) -> None:
    probe = ask(OK, Authorization=f"Bearer {key}")
    assert isinstance(probe, (ProbeResult, Reply))


def test_a_name_that_cannot_be_resolved_is_not_the_programs_death() -> None:
    """Names are allowed for programs (``localhost:6379``)."""
    probe = asyncio.run(connect("no-such-host.invalid", 1, 20))
    assert probe.answer is Answer.SILENT


def test_importing_the_probe_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import threading, llm_supervisor.host.http; print(threading.active_count())"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "1\n"
