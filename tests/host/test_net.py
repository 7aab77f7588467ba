"""Ports and sockets of this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports
from tests.support.programs import free_port
from tests.support.stage import Stage


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_the_holder_is_named_with_pid_and_command(stage: Stage) -> None:
    port = free_port()
    assert net_ports.holder(port) is None
    child = stage.spawn("listener", "--port", port)
    stage.lines.pid("listening")
    holder = net_ports.holder(port)
    assert holder is not None
    assert holder.pid == child.pid
    written = Path(f"/proc/{child.pid}/cmdline").read_text().replace("\0", " ").strip()
    assert f"listener --port {port}" in written
    assert holder.command == written[:120], "the path of a Python may be longer than what is shown"
    assert str(holder).startswith(f"pid {child.pid} (")
    assert " since 20" in str(holder)


def test_a_holder_whose_pid_is_not_told() -> None:
    assert str(net_ports.Holder(None, "", None)) == "another user's process"


def test_a_connection_is_no_holder() -> None:
    """Only who listens keeps a port; our own outgoing connection has its number, too."""
    with listening() as port, socket.create_connection(("127.0.0.1", port)) as connection:
        assert net_ports.holder(connection.getsockname()[1]) is None


_DUAL = pytest.param("::", marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here"))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", _DUAL])
def test_sock_diag_and_the_kernels_list_say_the_same(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(host) as port, socket.create_connection(("127.0.0.1", port)):
        (asked,) = net_ports.listening(port)
        assert net_ports._listed(port) == {asked}
        assert net_ports.held({asked}, [os.getpid()]) == {asked}

        def no_netlink(family: int) -> Iterator[tuple[int, int]]:
            raise OSError(errno.EAFNOSUPPORT, "no netlink here")

        monkeypatch.setattr(net_ports, "_listeners", no_netlink)
        assert net_ports.listening(port) == {asked}, "where the kernel does not answer its list is read"
    assert net_ports.listening(port) == set()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1")],
)
def test_a_taken_port_cannot_be_bound(theirs: str, ours: str) -> None:
    try:
        with listening(theirs) as port:
            error = net_listener.can_bind(ours, port)
            assert error is not None
            assert error.errno == errno.EADDRINUSE
            with pytest.raises(OSError, match="in use"):
                net_listener.bind(ours, port)
            holder = net_ports.holder(port)
            assert holder is not None
            assert holder.pid == os.getpid()
    except OSError as none:
        if none.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        pytest.skip("no IPv6 on this machine")


def test_a_free_port_can_be_bound_again_and_again() -> None:
    port = free_port()
    for _ in range(3):
        assert net_listener.can_bind("127.0.0.1", port) is None
    assert net_ports.holder(port) is None, "trying leaves nothing open"


def test_connections_in_time_wait_do_not_keep_a_port() -> None:
    sock = net_listener.bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    client = socket.create_connection(("127.0.0.1", port))
    connection, _ = sock.accept()
    connection.close()  # who closes first waits
    sock.close()
    assert client.recv(1) == b""
    client.close()
    net_listener.bind("127.0.0.1", port).close()


def test_a_listening_socket() -> None:
    sock = net_listener.bind("127.0.0.1", 0)
    assert not sock.get_inheritable()
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    with socket.create_connection(sock.getsockname()):
        pass
    sock.close()


def test_what_cannot_be_bound_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    for host in ("192.0.2.1", "no-such-host.invalid", "::ffff", "fe80::1%nothing"):
        error = net_listener.can_bind(host, 12345)
        assert isinstance(error, OSError)
        assert error.strerror
    with listening() as port:
        assert net_listener.can_bind("127.0.0.1", port)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("length", [40, 107, 108, 250])
def test_a_unix_socket(tmp_path: Path, length: int) -> None:
    """A path that is too long for an address is bound all the same, and reached."""
    folder = tmp_path / ("f" * max(length - len(str(tmp_path)) - 3, 1))
    folder.mkdir()
    path = f"{folder}/s"
    mask = os.umask(0)
    os.umask(mask)
    for _ in range(2):  # a stale one is replaced
        sock = net_listener.bind_unix(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        client = socket.socket(socket.AF_UNIX)
        client.connect(net_listener.reachable(path))
        client.close()
        sock.close()
    assert os.umask(mask) == mask


def test_a_unix_socket_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        net_listener.bind_unix(str(tmp_path / "none/s"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        net_listener.bind_unix(str(tmp_path / "folder"))
    assert os.listdir("/proc/self/fd") == before


# Getting a listening socket back ------------------------------------------------------------------------------


def served(sock: socket.socket) -> bool:
    """Whether who connects to its address comes out at this very socket."""
    with socket.create_connection(sock.getsockname()[:2], timeout=5):
        sock.settimeout(5)
        sock.accept()[0].close()
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_descriptor_is_taken_for_what_it_is(host: str) -> None:
    with net_listener.bind(host, 0) as sock:
        address = (host, sock.getsockname()[1])
        again = net_listener.listener(os.dup(sock.fileno()), address)
        assert again is not None
        with again:
            assert served(again)
            assert not again.get_inheritable()
        fd = os.dup(sock.fileno())
        assert net_listener.listener(fd, (host, free_port())) is None, "another address"
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
        with socket.create_connection(sock.getsockname()[:2]) as connected:
            assert net_listener.listener(os.dup(connected.fileno()), address) is None, "it does not listen"
    readable, writable = os.pipe()
    assert net_listener.listener(readable, ("127.0.0.1", 1)) is None
    os.close(writable)


@contextmanager
def handing_out(path: Path, fds: list[int]) -> Iterator[None]:
    """As a replica does it."""
    with net_listener.bind_unix(str(path)) as door:

        def serve() -> None:
            try:
                visitor, _ = door.accept()
            except OSError:
                return
            with visitor:
                if fds:
                    socket.send_fds(visitor, [b"listener"], fds)
                else:
                    visitor.sendall(b"none")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_program_hands_its_socket_out(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with net_listener.bind("127.0.0.1", 0) as sock, handing_out(path, [sock.fileno()]):
        got = asyncio.run(net_listener.ask_for_listener(str(path), ("127.0.0.1", sock.getsockname()[1])))
        assert got is not None
        with got:
            assert served(got)


def test_nobody_has_it_or_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, address = tmp_path / "sock", ("127.0.0.1", free_port())
    assert asyncio.run(net_listener.ask_for_listener(str(path), address)) is None
    with handing_out(path, []):
        assert asyncio.run(net_listener.ask_for_listener(str(path), address)) is None
    monkeypatch.setattr(net_listener, "HANDING_OVER", 0.1)
    with net_listener.bind_unix(str(path)):
        assert asyncio.run(net_listener.ask_for_listener(str(path), address)) is None


def test_a_socket_is_copied_out_of_a_process(stage: Stage) -> None:
    """As a debugger may: the replica need not help."""
    port = free_port()
    child = stage.spawn("listener", "--port", port)
    stage.lines.pid("listening")
    got = net_listener.copy_listener(child.pid, ("127.0.0.1", port))
    if got is None:
        pytest.skip("this kernel does not let us copy descriptors of our own children")
    with got:
        assert got.getsockname()[1] == port
        assert net_ports.held(net_ports.listening(port), [os.getpid()])
    assert net_listener.copy_listener(child.pid, ("127.0.0.1", free_port())) is None
    assert net_listener.copy_listener(2**22 + 1, ("127.0.0.1", port)) is None


OVERLAPPING = [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "::"), ("::", "127.0.0.1")]


@pytest.mark.parametrize(("old", "new"), OVERLAPPING)
def test_our_own_sockets_may_overlap_and_others_not(old: str, new: str) -> None:
    """One is about to leave, and until then both are there."""
    with net_listener.bind(old, 0) as leaving:
        port = leaving.getsockname()[1]
        assert net_listener.can_bind(new, port)
        with net_listener.bind(new, port, beside=[leaving]) as coming:
            assert not any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in (leaving, coming))
            assert net_listener.can_bind(new, port)
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            leaving.close()
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            coming.accept()[0].close()
            assert net_listener.can_bind(new, port)


def test_another_name_of_the_same_address_is_the_same_socket() -> None:
    with net_listener.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with net_listener.bind("localhost", port, beside=[first]) as second:
            assert os.fstat(first.fileno()).st_ino == os.fstat(second.fileno()).st_ino
            first.close()
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            second.accept()[0].close()


def test_a_port_of_somebody_else_is_not_shared_either() -> None:
    with net_listener.bind("127.0.0.1", 0) as ours, net_listener.bind("127.0.0.2", ours.getsockname()[1]):
        with pytest.raises(OSError, match="in use"):
            net_listener.bind("0.0.0.0", ours.getsockname()[1], beside=[ours])
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
