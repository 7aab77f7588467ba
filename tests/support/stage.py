"""Real processes for the tests of ``host``: each has a FIFO for its output, a mark, and an end.

The test process itself plays the daemon: it is the child subreaper, and nobody but the code under test reaps.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_supervisor.host.output.pump import make_fifo
from llm_supervisor.host.process import COOKIE, Child, Tree, become_subreaper, reap_strangers, spawn
from tests.support.programs import MARK, Lines, command, gone, marked


@dataclass
class Stage:
    """Where children are started. ``lines`` is what they print."""

    folder: Path
    mark: str
    fifo: Path
    pipe: int
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = Lines(self.pipe)
        at = os.fstat(self.pipe)
        self.fifo_id = (at.st_dev, at.st_ino)

    @property
    def cookie(self) -> str:
        """Of the incarnation that is started here."""
        return f"program/{self.mark}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of what is started here."""
        return {"PATH": os.environ["PATH"], MARK: self.mark, COOKIE: self.cookie}

    def spawn(self, name: str, *arguments: object, pass_fds: tuple[int, ...] = ()) -> Child:
        """Start one of the child programs."""
        pid = spawn(command(name, *arguments), self.env, output=self.fifo, pass_fds=pass_fds)
        child = Child.open(pid)
        assert child is not None
        self.children.append(child)
        return child

    def tree(self, leader: Child) -> Tree:
        """What the daemon would know of that child."""
        key = (leader.pid, leader.identity.started)
        return Tree(self.cookie, leader=key, fifo=self.fifo_id, seen={key})


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A place to start children; afterwards nothing that was started there is left, not even a zombie."""
    become_subreaper()
    mark = uuid.uuid4().hex
    fifo = tmp_path / "fifo"
    pipe = make_fifo(fifo, 256 * 1024)
    here = Stage(tmp_path, mark, fifo, pipe)
    try:
        yield here
    finally:
        for child in here.children:
            # by its pidfd: the mark of one that is in the middle of an exec cannot be read
            if child.signal(signal.SIGKILL):
                gone(child.pid)
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
            gone(pid)
        for child in here.children:
            child.reap()
        reap_strangers(())
        os.close(pipe)
    assert not marked(mark)
