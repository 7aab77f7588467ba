"""The daemon as process 1 of a container, as process 2 behind an init, and as any other: it finds and ends its own.

In a container the numbers 1 and 2 mean nothing: process 2 is no kernel thread, and its children are none either.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_supervisor.host.process import read_row, read_rows
from tests.daemon.conftest import program
from tests.support.harness import Daemon
from tests.support.programs import alive, gone

pytestmark = pytest.mark.slow
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
# What process 1 is, where it is not the daemon; and the number that the daemon gets
BEHIND = {
    1: [],
    2: ["sh", "-c", '"$@"; exit $?', "sh"],
    4: ["sh", "-c", 'true & true & wait; "$@"; exit $?', "sh"],
}


def namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


if not namespaces():
    pytest.skip("no namespace of processes can be made here (unshare --pid --mount-proc)", allow_module_level=True)


@pytest.fixture(params=BEHIND, ids=[f"pid {number}" for number in BEHIND])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has that number in a namespace of its own."""
    one = Daemon(tmp_path, {}, prefix=[*NAMESPACE, *BEHIND[request.param]])
    tag = ("--tag", one.mark)
    programs = {
        "orphans": program("daemoniser", "--stubborn", "--stay", *tag, stop={"grace": 0.05}),
        "wiped": program("leaver", "--stubborn", "--stay", *tag, stop={"grace": 0.05}),
        "stubborn": program("stubborn", stop={"grace": 0.2}),
    }
    one.write({"programs": programs})
    with one:
        for name in programs:
            one.wait(name, state="RUNNING")
        assert one.status()["supervisor"]["pid"] == request.param
        yield one
        assert one.ask("POST", "/v1/shutdown")[1] == {"ok": True}  # the command would wait for our own process 1
        one.wait_ended()


def pids(daemon: Daemon, name: str) -> list[int]:
    """The processes of a program as this namespace numbers them, the leader first."""
    found = daemon.tree(name)
    rows = sorted((row for pid in found if (row := read_row(pid)) is not None), key=lambda row: row.started)
    return [row.pid for row in rows]


def test_nothing_of_a_dead_leader_lives_beside_its_successor(daemon: Daemon) -> None:
    for name in ("orphans", "stubborn"):
        old = daemon.wait_for(lambda name=name: pids(daemon, name), f"{name} began")
        if name == "orphans":
            old = daemon.wait_for(lambda: len(found := pids(daemon, "orphans")) == 2 and found, "it has a child")
        os.kill(old[0], signal.SIGKILL)
        daemon.wait(name, state="RUNNING", restarts=1)
        assert not [pid for pid in old if alive(pid)]
        assert daemon.call("stop", name).returncode == 0
        assert daemon.tree(name) == {}
        assert daemon.program(name)["state"] == "STOPPED"


def test_orphans_are_reaped(daemon: Daemon) -> None:
    """They become the daemon's children, whatever its number; a stranger's, where it is process 1."""
    _, stray = daemon.wait_for(lambda: len(found := pids(daemon, "orphans")) == 2 and found, "it has a child")
    os.kill(stray, signal.SIGKILL)
    gone(stray)
    daemon.wait_for(lambda: not Path(f"/proc/{stray}").exists(), "it was reaped")


def test_strangers_are_reaped_by_process_1(daemon: Daemon) -> None:
    """What somebody starts in a container beside the daemon (``podman exec``) leaves its orphans to process 1."""
    if daemon.status()["supervisor"]["pid"] != 1:
        pytest.skip("here they are left to another process 1")
    assert daemon.process is not None
    inside = next(row.pid for row in read_rows().values() if row.ppid == daemon.process.pid)
    script = "(sleep 0.1 & exec sleep 0.05) & exit 0"
    entered = ["nsenter", "--pid", "--mount", "--target", str(inside), "sh", "-c", script]
    subprocess.run(entered, check=True, timeout=30, stdin=subprocess.DEVNULL)

    def zombies() -> list[int]:
        return [row.pid for row in read_rows().values() if row.ppid == inside and row.dead]

    def sleeping() -> list[int]:
        return [row.pid for row in read_rows().values() if row.ppid == inside and row.comm == "sleep"]

    daemon.wait_for(lambda: not sleeping(), "the strangers have ended")
    daemon.wait_for(lambda: not zombies(), "they were reaped")
