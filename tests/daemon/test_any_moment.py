"""Random things in random order, the daemon's own death among them: afterwards everything is as it was last wanted.

A run is a function of its seed; a failure names the steps.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.conftest import program
from tests.support.harness import Daemon
from tests.support.programs import gone, until

pytestmark = pytest.mark.slow

COUNTER = """
import sys, time
number = 0
while True:
    print(number, flush=True)
    number += 1
    time.sleep(0.001)
"""


class Run:
    """A daemon over a few programs, and what is wanted of each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        counter = {**program("obedient"), "command": [sys.executable, "-c", COUNTER]}
        self.programs: dict[str, Any] = {
            "counter": counter,
            "calm": program("obedient"),
            "tree": program("daemoniser", "--stay", "--stubborn", stop={"grace": 0.1}),
            "stubborn": program("stubborn", stop={"grace": 0.2}),
        }
        self.names = [name for name in self.programs if name != "counter"]
        self.wanted = dict.fromkeys(self.programs, True)
        self.daemon = Daemon(folder, {"programs": self.programs})
        self.steps: list[str] = []

    def step(self) -> None:
        """One thing; sometimes the next one comes at once."""
        one = self.random.choice([self.kill_daemon, self.upgrade, self.reload, self.kill_child, self.ask, self.ask])
        one()
        time.sleep(self.random.choice([0, 0, 0.02, 0.1, 0.3]))

    def note(self, *words: object) -> None:
        self.steps.append(" ".join(map(str, words)))

    def kill_daemon(self) -> None:
        self.note("kill -9 the daemon")
        assert self.daemon.process is not None
        self.daemon.process.kill()
        self.daemon.process.wait()
        time.sleep(self.random.choice([0, 0.05, 0.2]))
        self.daemon.start()
        if self.random.random() < 0.7:
            self.daemon.wait_up()

    def upgrade(self) -> None:
        self.daemon.wait_up()
        self.note("upgrade")
        done = self.daemon.cli("upgrade")
        assert done.returncode == 0, done

    def reload(self) -> None:
        self.daemon.wait_up()
        name = self.random.choice(self.names)
        self.programs[name]["env"] = {"STEP": str(len(self.steps))}
        self.note("reload with another", name)
        self.daemon.write({"programs": self.programs})
        done = self.daemon.cli("reload", *self.random.choice([(), ("--no-wait",)]))
        assert done.returncode == 0, done

    def kill_child(self) -> None:
        name = self.random.choice(self.names)
        pids = [pid for pid, cookie in self.daemon.children().items() if cookie.startswith(f"{name}/")]
        if pids:
            pid = self.random.choice(pids)
            self.note("kill -9 of", name, pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            gone(pid)

    def ask(self) -> None:
        self.daemon.wait_up()
        name, action = self.random.choice(self.names), self.random.choice(["start", "stop", "restart"])
        self.note(action, name)
        done = self.daemon.cli(action, name, *self.random.choice([(), ("--no-wait",)]))
        assert done.returncode == 0, done
        self.wanted[name] = action != "stop"

    def settled(self) -> bool:
        """Whether all is as wanted: one incarnation of each that is wanted, and of the others none."""
        seen = {one["name"]: one for one in self.daemon.status()["programs"]}
        alive: dict[str, set[str]] = {}
        for cookie in self.daemon.children().values():
            name, _, uuid = cookie.partition("/")
            alive.setdefault(name, set()).add(uuid)
        expected = {name: {seen[name]["incarnation"]} for name, up in self.wanted.items() if up and name in seen}
        states = {name: one["state"] for name, one in seen.items()}
        return alive == expected and states == {
            name: "RUNNING" if up else "STOPPED" for name, up in self.wanted.items()
        }


def play(folder: Path, seed: int, steps: int) -> None:
    run = Run(folder, seed)
    with run.daemon as daemon:
        for name in run.programs:
            daemon.wait(name, state="RUNNING")
        pid = daemon.program("counter")["pid"]
        try:
            for number in range(steps):
                run.step()
                if number % 10 == 9:
                    until(run.settled, "all is as wanted", patience=40)
            until(run.settled, "all is as wanted", patience=40)
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}: {'; '.join(run.steps)}\n{daemon.status()}\n{daemon.children()}\n{error}"
            ) from None
        assert daemon.program("counter")["pid"] == pid, "whom nobody touched nobody touched"
        assert daemon.cli("stop", "counter").returncode == 0
        lines = daemon.log("counter").split(b"\n")[:-1]
        assert lines == [b"%d" % number for number in range(len(lines))], "every line once, in order"
        assert len(lines) > 100


@pytest.mark.parametrize("seed", [1])
def test_whatever_happens_it_is_as_it_was_last_wanted(tmp_path: Path, seed: int) -> None:
    play(tmp_path, seed, 20)


@pytest.mark.soak
def test_whatever_happens_for_long(tmp_path: Path) -> None:
    for seed in (2, 3, *range(100, 120)):
        (folder := tmp_path / str(seed)).mkdir()
        play(folder, seed, 30)
