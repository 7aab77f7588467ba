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

SERVED = Path(__file__).parent.parent / "support/programs/served.py"
SEED = int(os.environ.get("WORLD_SEED", "20261128"))
ERRORS = (
    "ENOSPC EROFS EIO ESTALE ENOMEM ETIMEDOUT ENODEV EMFILE ENFILE EACCES EPERM EAGAIN ENOENT EBUSY EINTR EDQUOT "
    "RuntimeError RuntimeError RuntimeError"
).split()
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

    def pids(self) -> dict[str, tuple[int, str]]:
        """The pid and the incarnation of each of the others."""
        seen = {one["name"]: one for one in self.status()["programs"]}
        return {name: (seen[name]["pid"], seen[name]["incarnation"]) for name in OTHERS}

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
        before = world.pids()
        world.tell(arm=armed)
        act()
        until_met = time.monotonic() + HOLD
        while time.monotonic() < until_met and (armed["times"] > 2 or not world.tell()["hits"]):
            time.sleep(0.01)
        met += world.tell(arm=None)["hits"] > 0
        assert world.process is not None
        assert world.process.poll() is None, f"the daemon ended at {what}\n{world.stderr()[-5000:]}"
        if world.program(VICTIM)["wanted"] == "down":
            world.ask("POST", f"/v1/programs/{VICTIM}/start?wait=0")  # the request for a start was what failed
        try:
            world.well(what)
        except AssertionError as error:
            raise AssertionError(f"{what}\n{error}") from None
        assert world.pids() == before, f"another program was touched at {what}\n{world.stderr()[-5000:]}"
    return met


@pytest.mark.slow
def test_two_hundred_errors_end_nothing(world: FailingDaemon) -> None:
    assert fail(world, 200, SEED) > 60, "most functions are called within a moment"


@pytest.mark.soak
def test_three_thousand_errors_end_nothing(world: FailingDaemon) -> None:
    fail(world, 3000, SEED + 1)
