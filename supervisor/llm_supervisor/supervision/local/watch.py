"""Watching what runs: the tree of each incarnation in the process table, and what its program writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.host import bounded, pyspy
from llm_supervisor.host.output.reader import read_from
from llm_supervisor.host.output.segments import Position
from llm_supervisor.host.process import Child, Row, read_rows, transferred
from llm_supervisor.host.process.tree import WITHIN, named
from llm_supervisor.supervision.local.incarnation import BEGINNING, Incarnation
from llm_supervisor.supervision.world import Post

MIB = 1024 * 1024
RESCAN = 30.0  # seconds between two searches of the whole process table for new members of a program that runs
MAPS_AGE = 2.0  # seconds between two readings of the maps of an engine that starts: milliseconds each
TABLE_AGE = 0.4  # seconds for which one reading of the process table serves all programs
SHARED_WITHIN = 30.0  # seconds for reading what all processes of a tree have mapped
LONGEST_LINE = 4096  # bytes of an unfinished line that are kept
DISK_WITHIN = 2.0  # seconds that a disk may take to answer


class TreeWatch:
    """Looks at the trees of the incarnations. The process table is read at most twice a second for all of them."""

    def __init__(self) -> None:
        self._rows: tuple[float, dict[int, Row]] = (float("-inf"), {})
        self._noting: dict[str, asyncio.Task[None]] = {}  # by cookie

    def take_baseline(self, spec: ProgramSpec, living: Incarnation, post: Post) -> None:
        """Watch every vital member from now on. Those that were expected and are not there are posted as lost."""
        rows = living.tree.look(read_rows())
        here = {row.key for row in rows}
        for pid, started, comm in living.expected:
            if (pid, started) not in here:  # it died while no daemon lived
                post(ev.MemberLost(living.number, pid, comm))
        self._note_shared(living, rows)
        for row in rows:
            if row.key == living.tree.leader or not _is_vital(spec, row):
                continue
            member = Child.open(row.pid)
            if member is None:
                post(ev.MemberLost(living.number, row.pid, row.comm))
                continue
            living.members.append(member)
            if (known := (row.pid, row.started, row.comm)) not in living.expected:  # an adopted one is there already
                living.expected += (known,)
            member.watch(_poster(post, ev.MemberLost(living.number, row.pid, row.comm)))

    def look(self, living: Incarnation) -> list[Row]:
        """The living processes of the tree, with those that are new in it."""
        now = asyncio.get_running_loop().time()
        if now - self._rows[0] >= TABLE_AGE:
            self._rows = (now, read_rows())
        living.looked = now
        return living.tree.look(self._rows[1])

    def _note_shared(self, living: Incarnation, rows: Iterable[Row]) -> None:
        """Have it noted what an engine has made in /dev/shm, unless that is being looked at."""
        if living.shm_before is None or living.cookie in self._noting:
            return
        loop = asyncio.get_running_loop()
        living.maps_read = loop.time()
        self._noting[living.cookie] = task = loop.create_task(living.note_shared(rows, within=SHARED_WITHIN))
        task.add_done_callback(lambda _: self._noting.pop(living.cookie, None))

    def worked(self, living: Incarnation) -> int:
        """Clock ticks of CPU time plus MiB read and written, of the whole tree, while it starts."""
        rows = self.look(living)
        if asyncio.get_running_loop().time() - living.maps_read >= MAPS_AGE:
            self._note_shared(living, rows)  # it may die before it is ready
        moved = bounded.each(transferred, {row.pid: named(row) for row in rows}, within=WITHIN)
        return sum(row.cpu for row in rows) + sum(size // MIB for size in moved.values())

    def stopped(self, spec: ProgramSpec, living: Incarnation) -> tuple[str, ...]:
        """The vital members that are stopped, or hang in the kernel. Only the known members are read; the whole process
        table is searched for new ones every ``RESCAN`` seconds."""
        rescan = asyncio.get_running_loop().time() - living.looked >= RESCAN
        mine = self.look(living) if rescan else living.tree.known()
        vital = [row for row in mine if row.key == living.tree.leader or _is_vital(spec, row)]
        stopped = tuple(f"{row.comm} (pid {row.pid}) is stopped" for row in vital if row.state in "Tt")
        # state D twice in a row means that the process hangs in the kernel; once is normal
        waiting = {row.key for row in vital if row.state == "D"}
        stopped += tuple(
            f"{row.comm} (pid {row.pid}) hangs in the kernel"
            for row in vital
            if row.key in waiting and row.key in living.waiting
        )
        living.waiting = waiting
        return stopped

    async def dump_stacks(self, spec: ProgramSpec, living: Incarnation) -> None:
        """Record the stacks of the leader and of the vital members in the incarnation."""
        vital = [row for row in living.tree.look(read_rows()) if _is_vital(spec, row)]
        pids = [living.leader.pid] if living.leader is not None else []
        living.stacks = await pyspy.dump(dict.fromkeys([*pids, *(row.pid for row in vital)]))


class OutputReader:
    """Reads back what programs write. ``folder`` returns the folder of a program's log."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._read: MutableMapping[str, tuple[Position, bytes]] = {}

    def begin(self, name: str, position: Position) -> None:
        """Read the program's log from there on."""
        self._read[name] = (position, b"")

    async def lines(self, name: str) -> tuple[list[bytes], bool]:
        """The complete lines since the last call, and whether there was anything at all; none where the disk of the log
        does not answer."""
        at, rest = self._read.get(name, (BEGINNING, b""))
        folder = self._folder(name)
        try:
            data, after = await bounded.ask(f"the folder {folder}", read_from, folder, at, within=DISK_WITHIN)
        except bounded.NoAnswer:
            return [], False
        if self._read.get(name, (at, rest)) != (at, rest):
            return [], True  # another incarnation has begun meanwhile
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        self._read[name] = (after, rest[-LONGEST_LINE:])
        return lines, bool(data)

    def forget(self, name: str) -> None:
        """The program is no longer configured."""
        self._read.pop(name, None)


def _is_vital(spec: ProgramSpec, row: Row) -> bool:
    return row.comm.startswith(spec.vital or ("\0",))  # without prefixes no name fits


def _poster(post: Post, event: Event) -> Callable[[ExitStatus], None]:
    return lambda _: post(event)
