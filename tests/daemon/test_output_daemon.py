"""Through the real daemon: a minute of 500 lines a second from one child, and 100 MiB at once from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.conftest import Make, program
from tests.host.test_output import assert_numbered
from tests.support.harness import Daemon
from tests.support.programs import gone
from tests.support.programs.children import LINE

MIB = 1024 * 1024
RATE = 500
FLOOD = 100 * MIB // LINE


def rss(daemon: Daemon) -> int:
    """The daemon's resident memory in bytes."""
    assert daemon.process is not None
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.soak)])
def test_steady_lines_and_a_hundred_mib_at_once(make: Make, seconds: int) -> None:
    """Complete, in order, rotated; and the daemon's memory does not grow with what children say."""
    once, lines = {"policy": "never"}, seconds * RATE
    daemon = make(
        {
            "steady": program("chatty", "--lines", lines, "--rate", RATE, restart=once),
            "flood": program("chatty", "--lines", FLOOD, restart=once, autostart=False),
        },
        logs={"max_bytes": "1MB", "backups": 1000},
    )
    steady = daemon.wait("steady", state="RUNNING")["pid"]
    before = rss(daemon)
    daemon.cli("start", "flood")
    most = before
    while daemon.program("flood")["state"] != "EXITED":
        most = max(most, rss(daemon))
    assert daemon.program("steady")["pid"] == steady, "the one does not disturb the other"
    assert daemon.cli("logs", "-n", "1", "flood").stdout.startswith(f"{FLOOD - 1:012d} ")
    gone(steady, patience=120)
    daemon.wait("steady", state="EXITED")
    most = max(most, rss(daemon))
    assert most - before < 6 * MIB, f"{before} -> {most}"
    logs = daemon.home / "logs"
    assert_numbered(logs / "steady", lines)
    assert_numbered(logs / "flood", FLOOD)
    assert segments(logs / "steady") == lines * LINE // MIB + 1
    assert segments(logs / "flood") - FLOOD * LINE // MIB in (0, 1), "the last may have just been begun"
    assert daemon.program("steady")["exit"] == daemon.program("flood")["exit"] == {"code": 0, "signal": None}


def segments(folder: Path) -> int:
    """How many segments a log has."""
    return len(list(folder.glob("*.log")))
