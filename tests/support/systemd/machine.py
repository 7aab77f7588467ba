"""The unit under a systemd that is booted for the tests (``box.py``), and what they ask of it.

Whatever a test wants to know is asked by commands that run where that systemd runs.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.support.systemd import inside
from tests.support.systemd.box import Box, NoSystemd, booted
from tests.support.systemd.inside import CONFIG, DROPIN, NAME

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "systemd" / "llm-supervisor.service"
USERS = ROOT / "systemd" / "sysusers.d" / "llm-supervisor.conf"
BIN = Path(sys.prefix) / "bin"
AS_USER = f"setpriv --reuid={NAME} --regid={NAME} --init-groups"
# A bound for what should take little time: reaching it is a failure, never a way to wait
PATIENCE = 60.0


@contextmanager
def a_machine() -> Iterator[Machine]:
    """A systemd for some tests. Raises NoSystemd."""
    # by their own path, wherever they lie: a box hides /tmp, and has none of this machine's other file systems
    with booted({ROOT, Path(sys.prefix), Path(sys.base_prefix)} - {Path("/usr")}) as box:
        machine = Machine(box)
        machine.make_user()
        yield machine


class Machine:
    """A running systemd, with our unit in it: only the paths of its commands are this environment's."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._cursor = ""

    def run(self, command: str, *, check: bool = True, given: str = "", timeout: float = 90) -> str:
        """Run a shell command there, with ``given`` as its standard input; its output, both streams together."""
        done = self._box.run(command, given, timeout)
        assert not (check and done.returncode), f"{command}: exit {done.returncode}\n{done.stdout}\n{self.journal()}"
        return done.stdout.strip()

    def make_user(self) -> None:
        """Make the unit's user, as its sysusers.d file says. Raises NoSystemd where that user cannot reach the commands
        under test: the folders that are shown from this machine are as they are."""
        self.run(f"mkdir -p /etc/sysusers.d && cp {USERS} /etc/sysusers.d/ && systemd-sysusers")
        for path in (BIN / "python", Path(sys.base_prefix) / "bin", UNIT):
            self.open_to_everybody(path)
        if NAME not in self.run(f"{AS_USER} {BIN}/llm-supervisor --version", check=False).split():
            raise NoSystemd(f"the unit's user cannot run {BIN}/llm-supervisor")

    def inside(self, *words: object, given: str = "") -> Any:
        """One of the commands of ``inside.py``."""
        argv = [BIN / "python", "-I", "-S", inside.__file__, *words]
        return json.loads(self.run(shlex.join(map(str, argv)), given=given))

    def install(self, programs: dict[str, Any], *, dropin: str = "") -> None:
        """The unit, a configuration of these programs, and what a drop-in of the unit says under [Service]."""
        files = {
            inside.UNIT: UNIT.read_text().replace("/opt/llm-supervisor/bin", str(BIN)),
            CONFIG: yaml.safe_dump({"ready_when": "all", "programs": programs}),
            DROPIN: f"[Service]\n{dropin}",
        }
        self._cursor = self.inside("install", given=json.dumps({str(path): text for path, text in files.items()}))

    def start(self, *names: str) -> dict[str, str]:
        """``systemctl start``, and then as ``whole``."""
        self.run(f"systemctl start {NAME}")
        return self.whole(*names)

    def whole(self, *names: str, patience: float = PATIENCE) -> dict[str, str]:
        """Wait until these programs, and no others, are ready; their incarnations.

        From then on exactly one incarnation of each may live, the one that the daemon knows."""
        seen = self.inside("whole", patience, *names)
        assert seen["ready"] == sorted(names), f"{seen}\n{self.journal()}"
        known = {name: one["incarnation"] for name, one in seen["status"].items()}
        alive = {name: list(tree) for name, tree in seen["programs"].items()}
        assert alive == {name: [uuid] for name, uuid in known.items()}, self.journal()
        assert seen["others"] == [seen["main"]], self.journal()
        return known

    def assert_nothing_left(self, *ports: int) -> None:
        """No process of ours, no state of one, no socket, no port."""
        seen = self.inside("look")
        assert (seen["programs"], seen["others"], seen["left"]) == ({}, [], []), f"{seen}\n{self.journal()}"
        assert not set(ports) & set(seen["listening"])

    def show(self, *names: str) -> list[str]:
        """Properties of our unit."""
        said = dict(line.split("=", 1) for line in self.run(f"systemctl show {NAME} -p {','.join(names)}").splitlines())
        return [said[name] for name in names]

    @property
    def main_pid(self) -> int:
        """Of the daemon; 0 when there is none."""
        return int(self.show("MainPID")[0])

    def journal(self) -> str:
        """What our unit wrote to the journal since ``install``."""
        after = f"--after-cursor={shlex.quote(self._cursor)}" if self._cursor else ""
        return self.run(f"journalctl --sync; journalctl -u {NAME} --no-pager -o cat {after}", check=False)

    def open_to_everybody(self, path: Path) -> None:
        """Let others than root reach a path. The folders above it are the box's own."""
        self.run(f"chmod o+x {' '.join(map(str, path.parents))} 2>/dev/null", check=False)

    def until(self, look: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
        """Wait until that is true."""
        ends = time.monotonic() + patience
        while not look():
            assert time.monotonic() < ends, f"not within {patience:g} s: {what}\n{self.journal()}"
