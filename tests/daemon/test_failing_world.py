"""A world in which anything may fail at any time: no error of any function of ``host/`` ends the daemon or another
program, and its victim is well again once the error is gone.

Each seed chooses a function, an error, from which call on and how often it fails, and what is done meanwhile. A seed
that fails replays with ``WORLD_SEED=N``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_supervisor.control.client import NoDaemon
from tests.daemon.test_adoption import pair
from tests.support.harness import Daemon, cookie_of, free_port, marked
from tests.support.programs import until

SERVED = Path(__file__).parent.parent / "support/programs/served.py"
SEED = int(os.environ.get("WORLD_SEED", "20261128"))
ERRORS = (
    "ENOSPC EROFS EIO ESTALE ENOMEM ETIMEDOUT ENODEV EMFILE ENFILE EACCES EPERM EAGAIN ENOENT EBUSY EINTR EDQUOT "
    "RuntimeError RuntimeError RuntimeError"
).split()
OF_A_COMMAND = ("ENOENT", "EACCES", "EPERM")  # nobody can tell them from those of a wrong command
VICTIM, OTHERS = "victim", ("other", "plain", "glm", "gateway")
HOLD = 0.25  # seconds for which an error without an end lasts


class FailingDaemon(Daemon):
    """A daemon whose ``host`` functions fail when they are told to."""

    @property
    def command(self) -> list[str]:
        words = super().command
        return [
            *words[: words.index("llm_supervisor.cli")],
            "tests.support.failing_daemon",
            *words[words.index("run") :],
        ]

    def tell(self, **request: Any) -> dict[str, Any]:
        """One request to the world; see ``failing_daemon``."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(self.env["FAILING_SOCKET"])
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(sock.makefile().readline())
            return answer

    def disarmed(self) -> bool:
        """Let nothing fail any more; False while it is not there to be told."""
        try:
            self.tell(arm=None)
        except OSError:
            return False
        return True

    def pids(self, *names: str) -> dict[str, tuple[int, str]]:
        """The pid and the incarnation of each of these programs."""
        seen = {one["name"]: one for one in self.status()["programs"]}
        return {name: (seen[name]["pid"], seen[name]["incarnation"]) for name in names}

    def helped(self, error: str) -> None:
        """Ask for a start where that request was what failed, or where the command seemed to be wrong."""

        def settled() -> bool:
            victim = self.program(VICTIM)
            refused = victim["state"] == "FATAL" and error in OF_A_COMMAND
            if victim["wanted"] == "down" or refused:
                self.ask("POST", f"/v1/programs/{VICTIM}/start?wait=0")
            return victim["state"] == "RUNNING"

        self.wait_for(settled, f"{VICTIM} runs", 60)

    def well(self, what: str) -> None:
        """Wait until all programs are ready, and nothing of an older incarnation is left."""
        self.wait_ready(60)

        def strangers() -> list[str]:
            cookies = {f"{one['name']}/{one['incarnation']}" for one in self.status()["programs"]}
            assert self.process is not None
            theirs = {pid: cookie_of(pid) for pid in marked(self.mark) if pid not in (self.process.pid, os.getpid())}
            return [one for one in theirs.values() if one not in cookies and not one.startswith("fork-server")]

        self.wait_for(lambda: not strangers(), f"nothing is left after {what}", 30)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FailingDaemon]:
    settings = pair(tmp_path, litellm_config=None)
    health = {"period": 0.1, "timeout": 2, "startup_period": 0.05}
    ports = {name: free_port() for name in (VICTIM, "other")}
    restart = {"backoff": 0.02, "backoff_cap": 0.1, "intensity": 10_000}
    settings["programs"] = {
        name: {
            "command": [sys.executable, "-S", str(SERVED), port],
            "ready": {"http": f"http://127.0.0.1:{port}/"},
            "health": health,
            "restart": restart,
            "stop": {"grace": 1},
        }
        for name, port in ports.items()
    }
    settings["programs"]["plain"] = {"command": ["sleep", "100000"], "restart": restart}
    settings["gateway"]["warm"] = settings["models"]["glm"]["warm"] = "off"
    env = {"FAILING_SOCKET": str(tmp_path / "world.sock")}
    with FailingDaemon(tmp_path, settings, env=env) as running:
        running.wait_ready()
        yield running


class Actions:
    """What is done to the victim while something fails; each begins at once and waits for nothing."""

    def __init__(self, daemon: FailingDaemon) -> None:
        self._daemon = daemon

    def kill(self) -> None:
        """Its leader dies."""
        if (pid := self._daemon.program(VICTIM)["pid"]) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Somebody asks for a restart."""
        self._ask("POST", f"/v1/programs/{VICTIM}/restart?wait=0")

    def stop_and_start(self) -> None:
        """Somebody asks for a stop, and changes his mind."""
        self._ask("POST", f"/v1/programs/{VICTIM}/stop?wait=0")
        self._ask("POST", f"/v1/programs/{VICTIM}/start?wait=0")

    def reload(self) -> None:
        """The configuration of the victim changes."""
        import yaml

        config = yaml.safe_load(self._daemon.config_file.read_text())
        config["programs"][VICTIM]["env"] = {"CHANGED": str(time.monotonic_ns())}
        self._daemon.write(config)
        self._ask("POST", "/v1/reload?wait=0")

    def nothing(self) -> None:
        """It is only looked at."""

    def _ask(self, method: str, path: str) -> None:
        with contextlib.suppress(NoDaemon):  # what answers it may be what fails
            self._daemon.ask(method, path)

    def all(self) -> list[Any]:
        """All of them."""
        return [self.kill, self.kill, self.restart, self.stop_and_start, self.reload, self.nothing]


def fail(world: FailingDaemon, count: int, seed: int) -> int:
    """Let something fail so many times; how many of them were met at all."""
    dice, actions, met = random.Random(seed), Actions(world).all(), 0
    names = sorted(world.tell()["calls"])
    for number in range(count):
        armed = {
            "name": dice.choice(names),
            "error": dice.choice(ERRORS),
            "nth": dice.choice([1, 1, 1, 2, 3]),
            "times": dice.choice([1, 1, 2, 10**9]),
        }
        act = dice.choice(actions)
        what = f"{number} of seed {seed}: {armed}, {act.__name__}"
        before = world.pids(*OTHERS)
        world.tell(arm=armed)
        act()
        until_met = time.monotonic() + HOLD
        while time.monotonic() < until_met and (armed["times"] > 2 or not world.tell()["hits"]):
            time.sleep(0.01)
        met += world.tell(arm=None)["hits"] > 0
        assert world.process is not None
        assert world.process.poll() is None, f"the daemon ended at {what}\n{world.stderr()[-5000:]}"
        try:
            world.helped(armed["error"])
            world.well(what)
        except AssertionError as error:
            raise AssertionError(f"{what}\n{error}") from None
        assert world.pids(*OTHERS) == before, f"another program was touched at {what}\n{world.stderr()[-5000:]}"
    return met


def adopt(world: FailingDaemon, count: int, seed: int) -> int:
    """The daemon dies, and something fails when the next one starts. That one may refuse to start; then the third one
    has to adopt everything. How many of the errors were met while it started."""
    dice, met = random.Random(seed), 0
    names = sorted(world.tell()["calls"])
    for number in range(count):
        times = dice.choice([1, 1, 2, 5])
        armed = {
            "name": dice.choice(names),
            "error": dice.choice(ERRORS),
            "nth": dice.choice([1, 1, 2, 3]),
            "times": times,
        }
        what = f"adoption {number} of seed {seed}: {armed}"
        before = world.pids(VICTIM, *OTHERS)
        world.wait_written()
        assert world.process is not None
        world.end(signal.SIGKILL)
        world.env["FAILING_PLAN"] = json.dumps(armed)
        world.start()
        del world.env["FAILING_PLAN"]
        until(lambda: world.status()["supervisor"] or world.process is None or world.process.poll() is not None)
        if world.process.poll() is not None:
            met += 1
            world.start()
        world.wait_for(lambda: world.status()["supervisor"], f"it answers after {what}")
        met += world.tell(arm=None)["hits"] > 0
        try:
            world.well(what)
        except AssertionError as error:
            raise AssertionError(f"{what}\n{error}") from None
        assert world.pids(VICTIM, *OTHERS) == before, f"not adopted after {what}\n{world.stderr()[-5000:]}"
    return met


def upgrade(world: FailingDaemon, count: int, seed: int) -> None:
    """Something fails while the daemon becomes another version: it does, or stays what it is, and no program ends."""
    dice = random.Random(seed)
    names = sorted(world.tell()["calls"])
    for number in range(count):
        times = dice.choice([1, 2, 10**9])
        armed = {"name": dice.choice(names), "error": dice.choice(ERRORS), "nth": dice.choice([1, 2]), "times": times}
        what = f"upgrade {number} of seed {seed}: {armed}"
        before = world.pids(VICTIM, *OTHERS)
        world.tell(arm=armed)
        with contextlib.suppress(NoDaemon):
            world.ask("POST", "/v1/upgrade")
        world.wait_for(lambda: world.status()["supervisor"], f"it answers after {what}")
        world.wait_for(lambda: world.disarmed(), f"it can be told after {what}")
        assert world.process is not None
        assert world.process.poll() is None, f"the daemon ended at {what}\n{world.stderr()[-5000:]}"
        try:
            world.well(what)
        except AssertionError as error:
            raise AssertionError(f"{what}\n{error}") from None
        assert world.pids(VICTIM, *OTHERS) == before, f"a program was touched at {what}\n{world.stderr()[-5000:]}"


@pytest.mark.slow
def test_errors_at_an_adoption_end_nothing(world: FailingDaemon) -> None:
    assert adopt(world, 12, SEED) >= 3


@pytest.mark.slow
def test_errors_at_an_upgrade_end_nothing(world: FailingDaemon) -> None:
    upgrade(world, 6, SEED)


@pytest.mark.soak
def test_hundreds_of_errors_at_adoptions_and_upgrades_end_nothing(world: FailingDaemon) -> None:
    adopt(world, 300, SEED + 1)
    upgrade(world, 200, SEED + 1)


@pytest.mark.slow
def test_two_hundred_errors_end_nothing(world: FailingDaemon) -> None:
    assert fail(world, 200, SEED) > 60, "most functions are called within a moment"


@pytest.mark.soak
def test_three_thousand_errors_end_nothing(world: FailingDaemon) -> None:
    fail(world, 3000, SEED + 1)
