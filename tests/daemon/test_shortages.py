"""A host that has run out of something, for real: room for the state, room for the logs, descriptors. The daemon lives,
what runs goes on, what has died waits without a strike, and all is well when the shortage is over."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults
from tests.support.harness import Daemon, free_port

pytestmark = pytest.mark.slow

SERVED = Path(__file__).parent.parent / "support/programs/served.py"


def two(**restart: Any) -> dict[str, Any]:
    """Two programs that answer."""
    programs = {}
    for name in ("victim", "other"):
        port = free_port()
        programs[name] = {
            "command": [sys.executable, "-S", str(SERVED), port],
            "ready": {"http": f"http://127.0.0.1:{port}/"},
            "health": {"period": 0.2, "timeout": 2, "startup_period": 0.05},
            "restart": {"backoff": 0.05, "backoff_cap": 0.1, "intensity": 3, **restart},
            "stop": {"grace": 1},
        }
    return {"programs": programs}


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte more goes onto that file system."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


def degraded(daemon: Daemon) -> str:
    """What `status` says that the daemon cannot do."""
    return "; ".join(daemon.status()["supervisor"]["degraded"])


def survives(daemon: Daemon, before: dict[str, Any]) -> None:
    """The other program was not touched, and the victim has had no strike."""
    daemon.wait_ready(30)
    after = {one["name"]: one for one in daemon.status()["programs"]}
    assert after["other"]["pid"] == before["other"]["pid"]
    assert after["victim"]["pid"] != before["victim"]["pid"]
    daemon.wait_for(lambda: degraded(daemon) == "", "nothing is degraded any more", 20)


def kill(daemon: Daemon) -> dict[str, Any]:
    """Kill the victim; how all were before."""
    before = {one["name"]: one for one in daemon.status()["programs"]}
    os.kill(before["victim"]["pid"], signal.SIGKILL)
    return before


def test_no_room_for_the_state(tmp_path: Path) -> None:
    """A start needs its cookie on the disk, else a daemon that dies would leave a process that nobody finds: it waits.
    What runs goes on, and commands are answered."""
    with faults.small_disk(tmp_path / "run", "1m") as disk:
        daemon = Daemon(tmp_path, two())
        with daemon:
            daemon.wait_ready()
            with full(disk):
                before = kill(daemon)
                daemon.wait_for(lambda: "state cannot be written" in degraded(daemon), "it says so", 20)
                os.kill(daemon.wait("victim", timeout=20, state="RUNNING")["pid"], signal.SIGKILL)
                daemon.wait_for(
                    lambda: "state cannot be written" in daemon.program("victim")["reason"], "its start waits", 20
                )
                assert "No space left on device" in daemon.cli("status").stderr
            survives(daemon, before)


def test_no_room_for_the_logs(tmp_path: Path) -> None:
    """A log never blocks a program, nor its start."""
    with faults.small_disk(tmp_path / "home", "1m") as disk, Daemon(tmp_path, two()) as daemon:
        daemon.wait_ready()
        with full(disk):
            before = kill(daemon)
            daemon.wait_for(lambda: daemon.program("victim")["restarts"] == 1, "it was replaced")
            daemon.wait_ready(20)
            daemon.wait_for(
                lambda: "output of victim cannot be kept: No space left" in degraded(daemon), "it says so", 20
            )
        survives(daemon, before)


def test_the_file_system_of_the_logs_turns_read_only(tmp_path: Path) -> None:
    """As the kernel does with an ext4 that is damaged. What runs goes on, what dies is replaced; when there is
    another one in its place, the logs are kept there."""
    with faults.ext4(tmp_path / "home", tmp_path / "image") as disk, Daemon(tmp_path, two()) as daemon:
        if disk is None:
            pytest.skip("no ext4 can be mounted by this user")
        daemon.wait_ready()
        disk.damage()
        before = kill(daemon)
        daemon.wait_for(lambda: daemon.program("victim")["restarts"] == 1, "it was replaced")
        daemon.wait_ready(20)
        daemon.wait_for(lambda: "Read-only file system" in degraded(daemon), "it says so", 20)
        disk.replace()
        survives(daemon, before)


def test_no_descriptors(tmp_path: Path) -> None:
    with Daemon(tmp_path, two()) as daemon:
        daemon.wait_ready()
        assert daemon.process is not None
        pid = daemon.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        before = {one["name"]: one for one in daemon.status()["programs"]}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (6, hard))
        os.kill(before["victim"]["pid"], signal.SIGKILL)
        daemon.wait_for(
            lambda: daemon.stderr().count("Too many open files") > 2 and daemon.process.poll() is None,  # type: ignore[union-attr]
            "it tries and waits",
        )
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        survives(daemon, before)
