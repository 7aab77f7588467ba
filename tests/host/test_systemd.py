"""systemd's notification protocol, to a real datagram socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host.systemd import Notifier


class Manager:
    """What listens where ``address`` says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def heard(self) -> list[str]:
        """The lines of the next datagram."""
        return self.socket.recv(65536).decode().split("\n")


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@llm-supervisor-test/{uuid.uuid4().hex}"
    listening = Manager(address)
    yield listening
    listening.socket.close()


def test_every_message(manager: Manager) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.address})
    assert notifier.active
    notifier.ready("2 of 2 ready")
    assert manager.heard() == ["READY=1", "STATUS=2 of 2 ready"]
    notifier.status("1 of 2 ready: vllm loading weights 3/5")
    assert manager.heard() == ["STATUS=1 of 2 ready: vllm loading weights 3/5"]
    notifier.extend(60.0)
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=60000000"]
    notifier.alive()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.stopping("stopping")
    assert manager.heard() == ["STOPPING=1", "STATUS=stopping"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = manager.heard()
    assert first == "RELOADING=1"
    name, _, usec = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.monotonic_ns() // 1000


def test_a_status_that_is_no_ascii(manager: Manager) -> None:
    Notifier(manager.address).status("bereit: größer")
    assert manager.heard() == ["STATUS=bereit: größer"]


def test_a_status_is_one_assignment(manager: Manager) -> None:
    """Whatever an engine has written that it quotes."""
    Notifier(manager.address).ready("one failed: x\nMAINPID=1\nSTOPPING=1 \ud83d")
    assert manager.heard() == ["READY=1", "STATUS=one failed: x MAINPID=1 STOPPING=1 ?"]


def test_without_a_manager_nothing_happens() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier.from_environment(environ)
        assert not notifier.active
        assert notifier.watchdog is None
        assert notifier.send("READY=1") is False
        notifier.ready("")
        notifier.alive()


def test_an_absent_or_vanished_manager_is_no_error(tmp_path: Path) -> None:
    """It is restarting, maybe: what comes again is taken by the next one."""
    assert Notifier(str(tmp_path / "absent")).send("READY=1") is False
    assert Notifier("@llm-supervisor-test/absent").send("READY=1") is False
    assert Notifier("x" * 200).send("READY=1") is False, "no address at all"
    address = str(tmp_path / "notify")
    first = Manager(address)
    notifier = Notifier(address)
    assert notifier.send("READY=1")
    first.socket.close()
    assert notifier.send("WATCHDOG=1") is False, "its file is still there"
    os.unlink(address)
    assert notifier.send("WATCHDOG=1") is False
    second = Manager(address)
    assert notifier.send("WATCHDOG=1")
    assert second.heard() == ["WATCHDOG=1"]
    second.socket.close()


def test_a_manager_that_does_not_read_never_blocks_us(manager: Manager) -> None:
    """Its queue is full: the daemon's loop must go on turning."""
    notifier = Notifier(manager.address)
    sent = [notifier.send(f"STATUS={n}") for n in range(5000)]
    assert sent[0]
    assert not sent[-1]
    assert manager.heard() == ["STATUS=0"]
    assert notifier.send("READY=1"), "there is room again"


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "1"}
    notifier = Notifier.from_environment(environ)
    assert environ == {"OTHER": "1"}
    assert notifier.watchdog == 30.0


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog"),
    [
        ("30000000", None, 30.0),
        ("500000", "mine", 0.5),
        ("30000000", "1", None),
        ("30000000", "nonsense", None),
        ("0", None, None),
        ("", None, None),
        ("-5", None, None),
        ("soon", None, None),
        (None, "mine", None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(
    usec: str | None, pid: str | None, watchdog: float | None
) -> None:
    environ = {"NOTIFY_SOCKET": "/run/x"}
    if usec is not None:
        environ["WATCHDOG_USEC"] = usec
    if pid is not None:
        environ["WATCHDOG_PID"] = str(os.getpid()) if pid == "mine" else pid
    assert Notifier.from_environment(environ).watchdog == watchdog
    assert set(environ) == set()


def test_children_do_not_inherit_the_socket(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    assert notifier._socket is not None
    assert not notifier._socket.get_inheritable()


def test_descriptors_are_kept_and_let_go(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    readable, writable = os.pipe()
    os.write(writable, b"word")
    notifier.store("p.12345678", readable)
    message, fds, _, _ = socket.recv_fds(manager.socket, 65536, 4)
    assert message.decode().split("\n") == ["FDSTORE=1", "FDNAME=p.12345678", "FDPOLL=0"]
    (kept,) = fds
    os.close(readable)
    assert os.read(kept, 10) == b"word"
    notifier.forget("p.12345678")
    assert manager.heard() == ["FDSTOREREMOVE=1", "FDNAME=p.12345678"]
    os.close(kept)
    os.close(writable)
    Notifier(None).store("x", 0)  # without a manager nothing happens
    Notifier(None).forget("x")


def test_descriptors_come_back(tmp_path: Path) -> None:
    """As sd_listen_fds(3) says: from 3 on, for that process alone, by name."""
    script = (
        "import json, os\n"
        "from llm_supervisor.host.systemd import take_descriptors\n"
        "environ = dict(os.environ)\n"
        "found = take_descriptors(environ)\n"
        "left = [name for name in environ if name.startswith('LISTEN')]\n"
        "print(json.dumps([{k: os.read(v, 9).decode() for k, v in found.items()}, left,"
        " [os.get_inheritable(v) for v in found.values()]]))\n"
    )
    files = []
    for number in range(3):
        (tmp_path / str(number)).write_text(f"file {number}")
        files.append(str(tmp_path / str(number)))
    shell = 'exec 3<"$1" 4<"$2" 5<"$3"; LISTEN_PID=${4:-$$} LISTEN_FDS=3 LISTEN_FDNAMES=a:b:a exec "$0" -c "$5"'

    def run(pid: str) -> object:
        argv = ["sh", "-c", shell, sys.executable, *files, pid, script]
        return json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)

    assert run("") == [{"a": "file 0", "b": "file 1"}, [], [False, False]], "one of two with the same name is enough"
    assert run("1") == [{}, [], []], "those are somebody else's"
