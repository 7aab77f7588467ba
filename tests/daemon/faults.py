"""Random faults in a row, seeded and so replayable, on a running daemon; and what must hold after each.

A fault hurts some program in some way; then every wanted program must be ready again, with exactly one incarnation of
each alive and no process of an older one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.daemon.harness import Daemon, marked, name_of

# Cookies that were ever seen, by program: an older one must have no process left
Seen = dict[str, set[str]]


@dataclass
class Faults:
    """A seeded source of faults for some programs of a daemon."""

    daemon: Daemon
    programs: tuple[str, ...]
    seed: int
    stops: bool = True  # SIGSTOP too, where a stopped program is found
    patience: float = 60.0
    history: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def one(self) -> None:
        """One fault, and what must hold after it."""
        before = {program["name"]: program for program in self.daemon.wait_ready(self.patience)["programs"]}
        for name, program in before.items():
            self.seen.setdefault(name, set()).add(program["incarnation"])
        name = self._random.choice(self.programs)
        kinds: list[Callable[[str], bool]] = [self._kill_leader, self._kill_any, self._kill_all, self._garbage]
        if self.stops:
            kinds.append(self._stop_any)
        hurt = self._random.choice(kinds)(name)
        if hurt:
            self.daemon.wait_for(
                lambda: self.daemon.program(name)["incarnation"] not in (None, before[name]["incarnation"]),
                f"{name} to be replaced after {self.history[-1]}",
                self.patience,
            )
        self.check()

    def check(self) -> None:
        """Ready again; one living incarnation of each; nothing of an older one; no stranger."""
        after = {program["name"]: program for program in self.daemon.wait_ready(self.patience)["programs"]}
        for name, program in after.items():
            assert program["state"] == "RUNNING", (self.seed, self.history, program)
            for old in self.seen.get(name, set()) - {program["incarnation"]}:
                assert not self.daemon.tree(name, old), (self.seed, self.history, name, old)
        assert self.daemon.process is not None
        mine = {pid for name in after for pid in self.daemon.tree(name)}
        strangers = set(marked(self.daemon.mark)) - mine - {self.daemon.process.pid}
        assert not strangers, (self.seed, self.history, strangers)

    def _pids(self, name: str) -> list[int]:
        return sorted(self.daemon.tree(name))

    def _kill_leader(self, name: str) -> bool:
        return self._signal(name, [self.daemon.program(name)["pid"]], signal.SIGKILL, "kill leader")

    def _kill_any(self, name: str) -> bool:
        victim = self._random.choice(self._pids(name))
        leader = victim == self.daemon.program(name)["pid"]
        needed = vital(victim)
        return self._signal(name, [victim], signal.SIGKILL, "kill one") and (leader or needed)

    def _kill_all(self, name: str) -> bool:
        return self._signal(name, self._pids(name), signal.SIGKILL, "kill all")

    def _stop_any(self, name: str) -> bool:
        needed = [pid for pid in self._pids(name) if vital(pid)]
        return self._signal(
            name, [self._random.choice(needed or [self.daemon.program(name)["pid"]])], signal.SIGSTOP, "stop"
        )

    def _garbage(self, name: str) -> bool:
        """A configuration that is broken by now does not matter to a daemon that runs."""
        self.history.append("garbage configuration")
        text = self.daemon.config_file.read_text()
        self.daemon.config_file.write_text("{ : [\n" + text[: self._random.randrange(len(text))])
        assert self.daemon.cli("status").returncode == 0
        self.daemon.config_file.write_text(text)
        return False

    def _signal(self, name: str, pids: list[int], signum: int, what: str) -> bool:
        self.history.append(f"{what} of {name}: {pids}")
        for pid in pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue
        return True


def vital(pid: int) -> bool:
    """Whether an engine cannot work without it."""
    try:
        return name_of(pid).startswith("VLLM::")
    except OSError:
        return False


def run(faults: Faults, count: int) -> None:
    """So many faults; the seed and the history are shown when one is not healed."""
    began = time.monotonic()
    for _ in range(count):
        faults.one()
    print(f"{count} faults (seed {faults.seed}) in {time.monotonic() - began:.0f} s")
