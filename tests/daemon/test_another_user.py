"""A program that becomes another user's, whom the daemon may not signal: for real, under ``setpriv``."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.support.harness import Daemon

CHANGES = "import os, time; os.setgid(65534); os.setuid(65534); print('changed', flush=True); time.sleep(100000)"
# Root without the right to signal others' processes: what the daemon of an ordinary user is beside a setuid program
PREFIX = ("setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill")


@pytest.mark.soak  # a minute: what survives SIGKILL for 30 s, twice, is reported
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_program_that_may_not_be_signalled_ends_nothing_else(tmp_path: Path) -> None:
    programs = {
        "changer": {"command": [sys.executable, "-c", CHANGES], "stop": {"grace": 0.5}},
        "calm": {"command": ["sleep", "100000"]},
    }
    with Daemon(tmp_path, {"programs": programs}, prefix=PREFIX) as daemon:
        daemon.wait_ready()
        daemon.wait_for(lambda: b"changed" in daemon.log("changer"), "it has changed its user")
        calm, pid = daemon.program("calm")["pid"], daemon.program("changer")["pid"]
        done = daemon.cli("stop", "changer")
        if done.returncode == 0:  # where there are control groups, these end it
            assert not Path(f"/proc/{pid}").exists()
        else:
            assert done.returncode == 1
            assert "runs as another user by now" in done.stdout + done.stderr
            assert str(pid) in done.stdout + done.stderr
            os.kill(pid, signal.SIGKILL)
        daemon.wait("changer", timeout=60, state="STOPPED", health="unknown")
        assert daemon.program("calm")["pid"] == calm
