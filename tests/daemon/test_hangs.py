"""A GPU, a disk or a process that never answers: everything else goes on as if it were not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import Make, program
from tests.support.hangs import Hangs
from tests.support.harness import Daemon
from tests.support.programs import alive, command, free_port, gone

pytestmark = pytest.mark.slow
SECOND = 1.0


@pytest.fixture
def hangs(tmp_path: Path) -> Iterator[Hangs]:
    place = tmp_path / "machine"
    place.mkdir()
    one = Hangs(place)
    yield one
    one.end()


def model_on(disk: Path) -> str:
    """A folder that can be taken for a model's."""
    folder = disk / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return str(folder)


@pytest.fixture
def daemon(make: Make, hangs: Hangs, engines: dict[str, Any]) -> Daemon:
    """Two programs, and a played engine on GPU 0 whose weights are on the disk."""
    model = {
        "model": model_on(hangs.disk),
        "port": free_port(),
        "gpus": [0],
        "warm": "off",
        "health": {"startup_period": 0.1},
        "restart": {"backoff": 0},
    }
    programs = {"p": program("obedient"), "q": program("obedient")}
    gateway = {"port": free_port(), "warm": "off"}
    one = make(programs, models={"glm": model}, gateway=gateway, engines=engines, env=hangs.env)
    for name in ("p", "q", "glm"):
        one.wait(name, state="RUNNING", health="ready")
    return one


def quick(act: Callable[[], Any]) -> Any:
    """What it returns, within a second beside what a command takes that asks nobody (on a busy machine, a second)."""
    began = time.monotonic()
    found = act()
    took = time.monotonic() - began
    if took >= SECOND:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "llm_supervisor.cli", "--version"], check=True, stdout=subprocess.DEVNULL)
        assert took < SECOND + 2 * (time.monotonic() - began), f"it took {took:.2f} s: {found}"
    return found


def silent(daemon: Daemon) -> list[str]:
    """What the status says does not answer."""
    return [one["name"] for one in daemon.status()["supervisor"]["not_answering"]]


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is not ours, and that the daemon has not seen before."""
    with subprocess.Popen(command("obedient"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.parametrize("what", ["gpu0", "disk", "process"])
def test_everything_else_answers_within_a_second(daemon: Daemon, hangs: Hangs, stranger: int, what: str) -> None:

    old = daemon.config_file.read_text()
    hangs.begin(what, stranger)
    glm = daemon.program("glm")["pid"]
    os.kill(glm, signal.SIGKILL)  # its end and its next start need all three
    name = {"gpu0": "GPU 0", "disk": str(hangs.disk), "process": f"process {stranger}"}[what]
    for _ in range(3):
        assert quick(lambda: daemon.call("restart", "p")).returncode == 0
        assert quick(lambda: daemon.call("stop", "q")).returncode == 0
        assert quick(lambda: daemon.call("start", "q")).returncode == 0
        assert quick(lambda: daemon.call("status", "--json")).returncode in (0, 3)
        assert quick(lambda: daemon.call("reload")).returncode == 0
    if what != "gpu0":
        daemon.wait("glm", state="RUNNING", restarts=1)
        assert quick(lambda: daemon.call("restart", "glm", "--no-wait")).returncode == 0
    else:
        seen = daemon.wait("glm", state="BACKOFF")
        assert (seen["failure"]["kind"], seen["failure"]["summary"]) == ("gpu_silent", "GPU 0 does not answer")
        assert quick(lambda: daemon.call("stop", "glm")).returncode == 0
        assert quick(lambda: daemon.call("start", "glm")).returncode == 1, "it waits for its GPU, and says so"
    daemon.wait_for(lambda: any(name in one for one in silent(daemon)), f"{name} is named")
    said = daemon.call("status")
    assert f"{name}" in said.stderr
    assert "does not answer" in said.stderr
    assert daemon.status()["supervisor"]["loop_lag_s"] < SECOND
    assert daemon.call("upgrade").returncode == 1, "nobody execs whose threads hang in the kernel"
    hangs.end()
    daemon.wait_for(lambda: not silent(daemon), "everything answers again")
    daemon.wait("glm", state="RUNNING", health="ready")
    assert daemon.config_file.read_text() == old


def test_a_daemon_starts_while_nothing_answers(make: Make, hangs: Hangs, stranger: int, tmp_path: Path) -> None:
    """It does not wait for a driver that hangs, and neither does `check`."""
    daemon = make({"p": program("obedient")}, start=False, env=hangs.env)
    hangs.begin("gpu0")
    hangs.begin("disk")
    hangs.begin("process", stranger)
    daemon.start()
    daemon.wait("p", state="RUNNING")
    assert daemon.end() == 0


def test_a_program_on_a_disk_that_does_not_answer(make: Make, hangs: Hangs) -> None:
    """Its start would hang in the exec, and the daemon with it."""
    far = hangs.disk / "far"
    far.write_text("#!/bin/sh\nexec sleep 1000\n")
    far.chmod(0o755)
    away = {**program("obedient"), "command": [str(far)]}
    daemon = make({"p": program("obedient"), "away": away}, env=hangs.env)
    for name in ("p", "away"):
        daemon.wait(name, state="RUNNING")
    hangs.begin("disk")
    os.kill(daemon.program("away")["pid"], signal.SIGKILL)
    for _ in range(3):
        assert quick(lambda: daemon.call("restart", "p")).returncode == 0
    failure = daemon.wait("away", state="BACKOFF")["failure"]
    assert (failure["kind"], failure["summary"]) == ("disk_silent", f"the disk of {far} does not answer")
    assert quick(lambda: daemon.call("stop", "away")).returncode == 0
    assert quick(lambda: daemon.call("start", "away")).returncode == 1
    hangs.end()
    daemon.wait("away", state="RUNNING")


@pytest.mark.parametrize("how", ["stop", "shutdown"])
def test_what_survives_sigkill_is_not_called_stopped(make: Make, hangs: Hangs, how: str) -> None:
    daemon = make({"p": program("stubborn", stop={"grace": 0.1}), "q": program("obedient")}, env=hangs.env)
    pid = daemon.wait("p", state="RUNNING")["pid"]
    daemon.wait("q", state="RUNNING")
    hangs.begin("unkillable", pid)
    done = daemon.call(*(["stop", "p", "q"] if how == "stop" else ["shutdown"]))
    assert done.returncode == 1
    assert "p: still alive: survives SIGKILL for" in done.stderr
    assert f"(pid {pid}, state S)" in done.stderr
    assert done.stdout == ("q: stopped\n" if how == "stop" else "")
    if how == "shutdown":
        assert alive(pid)
        hangs.end()
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        daemon.clean_up()
        return
    assert daemon.call("stop", "p").returncode == 1, "asked again: it is alive all the same"
    assert daemon.call("start", "p").returncode == 1, "nothing starts beside it"
    assert daemon.call("stop", "p").returncode == 1
    hangs.end()
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    daemon.wait_for(lambda: daemon.call("stop", "p").returncode == 0, "it counts as stopped when it is gone")
