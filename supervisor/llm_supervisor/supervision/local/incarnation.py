"""What is held for one incarnation of a program: its processes, its pipe, its ports, and what was seen of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from llm_supervisor.host import bounded
from llm_supervisor.host.output.segments import Position
from llm_supervisor.host.process import Child, Row, Tree, shared_memory
from llm_supervisor.supervision.state_file import Entry, fifo_of, fifo_path

BEGINNING = Position(0, 0)


@dataclass
class Incarnation:
    """One incarnation. ``number`` is the core's and is counted per program; ``cookie`` is unique for ever."""

    number: int
    cookie: str
    tree: Tree
    fifo: Path
    pipe: int | None = None  # our end of the FIFO
    first: tuple[int, int] | None = None  # (pid, start time) of its leader, dead or alive
    expected: tuple[tuple[int, int, str], ...] = ()  # vital members: pid, start time, name
    warm: bool = False  # forked from a fork server
    port: int | None = None  # the TCP port on which it alone should listen
    uds: str | None = None  # the unix socket on which it listens
    scratch: Path | None = None  # the folder of its temporary files
    leader: Child | None = None
    members: list[Child] = field(default_factory=list)  # vital members that are watched
    log_from: Position = BEGINNING
    baselines: list[tuple[int, int]] = field(default_factory=list)  # (GPU, bytes in use by nobody before the start)
    pids: set[int] = field(default_factory=set)  # of its tree, as they were seen when it ended
    stacks: str = ""  # where its processes stood when it was suspected to hang
    outlived: list[str] = field(default_factory=list)  # processes that the sweep found
    began: float = field(default_factory=time.time)  # wall clock, to compare with the times of files
    shm_before: frozenset[str] | None = None  # names in /dev/shm before its start; None where that is not known
    shared: dict[str, int] = field(default_factory=dict)  # what its tree has made in /dev/shm: name and inode
    waiting: set[tuple[int, int]] = field(default_factory=set)  # members that were in state D at the last look
    maps_read: float = float("-inf")  # loop time at which it was last looked what the tree has mapped
    looked: float = float("-inf")  # loop time at which the whole process table was last searched for its members

    @property
    def uuid(self) -> str:
        """The part of the cookie behind the program's name."""
        return self.cookie.rpartition("/")[2]

    async def note_shared(self, rows: Iterable[Row], within: float) -> None:
        """Note what these processes of its tree have made in /dev/shm, if they show it ``within`` so many seconds. Only
        of engines, which leave it there when they are killed; other programs remove their shared memory themselves."""
        if (before := self.shm_before) is None:
            return
        pids = [row.pid for row in rows]
        try:
            self.shared |= await bounded.ask(
                f"what {self.cookie} has mapped", lambda: shared_memory.made_by(pids, before), within=within
            )
        except bounded.NoAnswer:
            pass  # then it stays there

    @classmethod
    def from_entry(cls, entry: Entry, runtime: Path, pipe: int | None) -> Incarnation:
        """What a former daemon recorded. ``pipe`` is our end of its FIFO; None where that could not be opened."""
        tree = entry.tree()
        fifo = fifo_of(runtime, entry)
        if fifo is not None and pipe is not None:
            at = os.fstat(pipe)
            tree.fifo = (at.st_dev, at.st_ino)
        return cls(
            entry.number,
            entry.cookie,
            tree,
            fifo or fifo_path(runtime, entry.cookie or entry.next),
            pipe,
            first=entry.leader,
            expected=entry.members,
            warm=entry.warm,
            port=entry.port,
            uds=entry.uds or None,
            scratch=Path(entry.scratch) if entry.scratch else None,
            log_from=Position(*entry.log_from),
            baselines=list(entry.baselines),
            began=entry.began,
        )

    def entry(self) -> Entry:
        """What the next daemon must know of it."""
        pid, started = self.first or (None, None)
        return Entry(
            cookie=self.cookie,
            next="",
            pid=pid,
            started=started,
            fifo=str(self.fifo),
            cgroup=str(self.tree.cgroup) if self.tree.cgroup else "",
            number=self.number,
            warm=self.warm,
            port=self.port,
            uds=self.uds or "",
            scratch=str(self.scratch or ""),
            began=self.began,
            log_from=(self.log_from.segment, self.log_from.offset),
            baselines=tuple(self.baselines),
            members=self.expected,
        )


def shown(row: Row) -> str:
    """A process for people: its name, pid and state."""
    return f"{row.comm} (pid {row.pid}, state {row.state})"
