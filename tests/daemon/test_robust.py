"""What a person's terminal, disk or service manager does to the daemon must not end an engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemon.conftest import Make, program
from tests.support.programs import Lines, alive, open_gate

pytestmark = pytest.mark.slow


def test_a_reader_that_goes_away(make: Make) -> None:
    """``llm-supervisor run | head -1``, and the terminal's log likewise."""
    daemon = make({"p": program("obedient"), "q": program("obedient")}, start=False)
    out, err = os.pipe(), os.pipe()
    daemon.start(stdout=out[1], stderr=err[1])
    for fd in (out[1], err[1]):
        os.close(fd)
    assert "STARTING" in Lines(out[0]).next()
    for fd in (out[0], err[0]):
        os.close(fd)
    for name in ("p", "q"):
        daemon.wait(name, state="RUNNING")
    pid = daemon.program("p")["pid"]
    assert daemon.call("restart", "q").returncode == 0, "the changes after that are told to nobody"
    assert daemon.program("p")["pid"] == pid
    assert daemon.end() == 0


def test_a_full_disk_under_its_log(make: Make) -> None:
    daemon = make({"p": program("obedient")}, start=False)
    with open("/dev/full", "wb") as full:
        daemon.start(stdout=full, stderr=full)
    pid = daemon.wait("p", state="RUNNING")["pid"]
    assert daemon.call("restart", "p").returncode == 0
    assert not alive(pid)
    assert daemon.end() == 0


def test_a_closed_terminal(make: Make) -> None:
    """The window is closed: SIGHUP, and every write to it fails from then on."""
    daemon = make({"p": program("obedient")}, start=False)
    ours, theirs = os.openpty()
    daemon.start(stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert "STARTING" in Lines(ours).next()
    pid = daemon.wait("p", state="RUNNING")["pid"]
    os.close(ours)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.call("restart", "p").returncode == 0
    assert not alive(pid)
    assert daemon.end() == 0


def test_a_state_that_cannot_be_written_ends_nothing(make: Make) -> None:
    """It is said, and tried again; what runs goes on, and a restart comes about."""
    daemon = make({"p": program("obedient"), "q": program("obedient")})
    pids = {name: daemon.wait(name, state="RUNNING")["pid"] for name in ("p", "q")}
    folder = daemon.runtime / "state.json"
    folder.unlink()
    folder.mkdir()
    assert daemon.call("restart", "q").returncode == 0
    assert daemon.program("p")["pid"] == pids["p"]
    assert "the state cannot be written" in daemon.call("status").stderr
    folder.rmdir()
    daemon.wait_for(lambda: folder.is_file() and daemon.status()["supervisor"]["degraded"] == [], "it is written again")
    assert daemon.end() == 0


def test_the_service_manager_is_told(make: Make, tmp_path: Path) -> None:
    """READY=1 when what is wanted is ready, STATUS in words, STOPPING=1; and no child can speak in our name."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        environ = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"}
        daemon = make({"p": program("obedient")}, start=False, env=environ)
        daemon.start()
        heard: list[str] = []
        while not any("READY=1" in said for said in heard):
            heard.append(manager.recv(4096).decode())
        pid = daemon.wait("p", state="RUNNING")["pid"]
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert heard[-1].split("\n") == ["READY=1", "STATUS=1 of 1 ready"]
        while not any(said == "WATCHDOG=1" for said in heard):
            heard.append(manager.recv(4096).decode())
        assert daemon.end() == 0
        while not any(said.startswith("STOPPING=1") for said in heard):
            heard.append(manager.recv(4096).decode())
    assert daemon.stdout() == "", "nothing is shown where nobody looks"


def test_many_requests_at_once(make: Make) -> None:
    """However they cross each other: at the end there is one of each, and the daemon goes on."""
    daemon = make({name: program("obedient") for name in "abc"})
    for name in "abc":
        daemon.wait(name, state="RUNNING")
    asked = [daemon.background(action, name) for name in "abc" for action in ("restart", "restart", "start")]
    for one in asked:
        one.communicate(timeout=60)
        assert one.returncode == 0, one.args
    for name in "abc":
        daemon.ask("POST", f"/v1/programs/{name}/start")
        daemon.wait(name, state="RUNNING")
    assert len(daemon.children()) == 3
    answer = daemon.ask("POST", "/v1/programs/zzz/start")
    assert answer == (404, {"error": "no such program: zzz (there are: a, b, c)"})
    status, body = daemon.ask("POST", "/v1/programs/a/explode")
    assert status == 404
    assert "no such action" in body["error"]


def test_who_was_overruled_is_not_stranded(make: Make) -> None:
    """Somebody stops it, and before it is gone somebody else starts it again."""
    daemon = make({"p": program("stubborn", stop={"grace": 0.5})})
    pid = daemon.wait("p", state="RUNNING")["pid"]
    stopping = daemon.background("stop", "p")
    try:
        daemon.wait("p", state="STOPPING")
        assert daemon.call("start", "p").returncode == 0
        assert daemon.program("p")["pid"] != pid
        _, said = stopping.communicate(timeout=3)
        assert stopping.returncode == 1
        assert said.startswith(b"p: ")
    finally:
        stopping.kill()
        stopping.communicate()


def test_curl_reaches_the_control_socket(make: Make) -> None:
    daemon = make({"p": program("obedient")})
    daemon.wait("p", state="RUNNING")
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", str(daemon.runtime / "control.sock"), "http://localhost/v1/status"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert '"name":"p"' in done.stdout


def test_a_low_soft_limit_of_descriptors(make: Make) -> None:
    """A shell's 1024 is not enough for a few hundred programs; the hard limit is there to be used. The children get the
    limit that we got: some programs close every descriptor there could be."""
    sleeping = {"command": ["sleep", "1000"], "ready": {"after": 0}}
    daemon = make({f"p{n}": sleeping for n in range(40)}, prefix=["prlimit", "--nofile=64:4096"])
    try:
        daemon.wait_ready()
    except AssertionError:
        daemon.clean_up()
        raise
    limits = Path(f"/proc/{daemon.program('p39')['pid']}/limits").read_text()
    (soft,) = [line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")]
    assert soft == "64"


def test_following_a_line_that_is_not_finished(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo first; printf begun; read x < '{gate}'; echo ' and ended'; exec sleep 1000"
    daemon = make({"p": {"command": ["sh", "-c", script], "ready": {"after": 0}}})
    daemon.wait_for(lambda: daemon.log("p") == b"first\nbegun", "it began its line")
    follower = daemon.background("logs", "-f", "p")
    try:
        assert follower.stdout is not None
        lines = Lines(follower.stdout.fileno())
        assert lines.next() == "first"
        open_gate(gate)
        assert lines.next() == "begun and ended"
    finally:
        follower.kill()
        follower.communicate()
