"""One port, one engine: vLLM listens with SO_REUSEPORT, so nothing but looking shows that another one does too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes import VLLM, litellm_python, scenario
from tests.support.harness import Daemon
from tests.support.programs import free_port

pytestmark = pytest.mark.slow


def config(port: int, start: float, folder: Path) -> dict[str, Any]:
    health = {"period": 0.2, "readiness_period": 0.2, "startup_period": 0.1, "canary": False}
    model = {"model": "nobody/nothing", "port": port, "health": health, "env": {"FAKE_VLLM": scenario(start=start)}}
    engines = {"vllm": {"python": str(VLLM)}, "litellm": {"python": str(litellm_python(folder))}}
    return {"gateway": {"port": free_port()}, "engines": engines, "models": {"glm": model}}


@contextmanager
def another(port: int) -> Iterator[int]:
    """Another engine of this user on the port, which serves the same name; its pid."""
    argv = [sys.executable, str(VLLM), "--port", str(port), "--served-model-name", "glm"]
    other = subprocess.Popen(argv, env={"FAKE_VLLM": scenario(start=0)}, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        next(line for line in other.stdout if b"Started server" in line)
        yield other.pid
    finally:
        other.terminate()
        other.wait()
        other.stdout.close()


def test_a_second_engine_on_the_port_is_named(tmp_path: Path) -> None:
    port = free_port()
    with Daemon(tmp_path, config(port, 0.1, tmp_path)) as daemon:
        before = daemon.wait("glm", state="RUNNING", health="ready")
        with another(port) as pid:
            seen = daemon.wait("glm", health="degraded")
            assert f"port {port} is shared: pid {pid}" in seen["reason"]
        after = daemon.wait("glm", health="ready")
        assert after["pid"] == before["pid"], "a restart would not help"


def test_the_answers_of_another_engine_do_not_make_ours_ready(tmp_path: Path) -> None:
    """It came after our start had found the port free, and before we listened on it."""
    port = free_port()
    with Daemon(tmp_path, config(port, 3.0, tmp_path)) as daemon:
        daemon.wait("glm", state="STARTING")
        daemon.wait_for(lambda: b"Loading" in daemon.log("glm"), "our own start went past the look at the port")
        with another(port) as pid:
            said = f"port {port} is answered by pid {pid}"
            daemon.wait_for(lambda: said in daemon.program("glm")["reason"], "it is told")
            assert daemon.program("glm")["state"] == "STARTING"
        daemon.wait("glm", state="RUNNING", health="ready", restarts=0)
