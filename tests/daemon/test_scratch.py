"""An engine's temporary files are in a folder of their own, and go with it, however it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, program
from tests.support.harness import Daemon
from tests.support.programs import free_port

pytestmark = pytest.mark.slow


def scratch_of(daemon: Daemon, name: str = "glm") -> Path:
    """Where the engine makes its temporary files; it makes one."""
    pid = daemon.wait(name, state="RUNNING", health="ready")["pid"]
    items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    said = {item.partition(b"=")[0].decode(): item.partition(b"=")[2].decode() for item in items}
    folder = Path(said["TMPDIR"])
    assert folder.is_dir() and said["VLLM_RPC_BASE_PATH"] == str(folder)
    (folder / "vllm_dist_0").touch()
    return folder


def test_they_go_with_the_engine(make: Make, engines: dict[str, Any], tmp_path: Path) -> None:
    weights, place = tmp_path / "weights", Path(f"/tmp/t{os.getpid()}")
    weights.mkdir()
    place.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    model = {
        "model": str(weights),
        "port": free_port(),
        "warm": "off",
        "health": {"startup_period": 0.1},
        "restart": {"backoff": 0},
        "env": {"TMPDIR": str(place)},
    }
    gateway = {"port": free_port(), "warm": "off"}
    daemon = make({"p": program("obedient")}, models={"glm": model}, gateway=gateway, engines=engines)
    try:
        first = scratch_of(daemon)
        assert first.parent == place, "below what the configuration says"
        os.kill(daemon.program("glm")["pid"], signal.SIGKILL)
        daemon.wait("glm", state="RUNNING", restarts=1)
        second = scratch_of(daemon)
        assert second != first
        daemon.wait_for(lambda: not first.exists(), "the first is gone")
        assert "TMPDIR" not in {
            item.partition(b"=")[0].decode()
            for item in Path(f"/proc/{daemon.program('p')['pid']}/environ").read_bytes().split(b"\0")
        } - set(os.environ), "a command is what it was"

        daemon.wait_written()
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        daemon.wait("glm", state="RUNNING")
        assert second.exists(), "an adopted engine keeps its files"
        assert daemon.call("stop", "glm").returncode == 0
        daemon.wait_for(lambda: not second.exists(), "the second is gone")
        assert daemon.call("start", "glm").returncode == 0
        third = scratch_of(daemon)
        assert daemon.end() == 0
        assert not third.exists(), "the daemon does not end before"
    finally:
        for left in place.iterdir():
            (left / "vllm_dist_0").unlink(missing_ok=True)
            left.rmdir()
        place.rmdir()
