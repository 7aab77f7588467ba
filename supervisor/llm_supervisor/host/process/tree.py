"""Find the processes of an incarnation: its tree, by every trace that a process of it can have.

No source alone is enough. Descendants are lost when a parent dies before it was seen; a session is left by setsid;
the cookie is lost where an environment is wiped or was never there (a fork server's children); the FIFO is left by
redirection; a control group is there only where ours is delegated to us. Their union misses only what tries to hide.
Finding only; signalling is ``child``'s.

``/proc/PID/stat`` always answers. ``environ`` does not while the process hangs in the kernel with its memory locked,
nor do files that it has open on a dead disk: these are asked last, only about processes that nothing else tells about,
and with a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from llm_supervisor.host import bounded
from llm_supervisor.host.process import cgroup
from llm_supervisor.host.process.proc import NO_COOKIE, Row, holds, may_hold, read_cookie, read_row, read_rows

REMEMBERED = 1000  # dead processes of a tree
WITHIN = 0.1  # seconds that one process may take to answer; usually it takes some microseconds


class Source(StrEnum):
    """A trace by which a process is known to belong to a tree."""

    DESCENDANTS = "descendants"
    SESSION = "session"
    COOKIE = "cookie"
    FIFO = "fifo"
    CGROUP = "cgroup"


ALL_SOURCES = frozenset(Source)


@dataclass
class Tree:
    """What is known of one incarnation's processes.

    ``leader`` is (pid, start time); as long as the leader is not reaped its pid, and so its session's number,
    cannot be reused. ``fifo`` is (device, inode). ``seen`` are descendants recorded while their parents lived;
    ``gone`` those of them that were not there any more at a later look, the last ``REMEMBERED``.
    """

    cookie: str
    leader: tuple[int, int] | None = None
    fifo: tuple[int, int] | None = None
    seen: set[tuple[int, int]] = field(default_factory=set)
    gone: dict[tuple[int, int], None] = field(default_factory=dict)
    cgroup: Path | None = None
    next_cookie: str = ""  # reserved: perhaps used by a daemon that was killed before it could say so

    def look(self, rows: dict[int, Row]) -> list[Row]:
        """Record the descendants among ``rows`` and return the living tree, the leader included. Cheap: no file is
        read, so it can be done for many programs from one reading of the table."""
        mine = {pid: row for pid, row in rows.items() if row.key in self.seen or row.key == self.leader}
        _add_descendants(mine, rows)
        present = {row.key for row in mine.values()}
        self.gone.update(dict.fromkeys(self.seen - present))
        while len(self.gone) > REMEMBERED:
            del self.gone[next(iter(self.gone))]
        self.seen = present
        return [row for row in mine.values() if not row.dead]

    def known(self) -> list[Row]:
        """The living of those that were seen before, the leader included: as many files are read."""
        keys = self.seen if self.leader is None else self.seen | {self.leader}
        rows = ((key, read_row(key[0])) for key in keys)
        return [row for key, row in rows if row is not None and row.key == key and not row.dead]


# What the environment of a process says does not change for what it is used for here: it is read once a process.
_cookies: dict[tuple[int, int], str] = {}


def _read_cookies(rows: list[Row]) -> dict[int, str]:
    """What the processes have as their cookie, by pid; one that does not answer is left out."""
    found = {row.pid: _cookies[row.key] for row in rows if row.key in _cookies}
    asked = {row.pid: named(row) for row in rows if row.pid not in found}
    keys = {row.pid: row.key for row in rows}
    for pid, said in bounded.each(read_cookie, asked, within=WITHIN).items():
        if said is None:
            continue
        found[pid] = said
        if not said.startswith(NO_COOKIE):  # a fork may write its own there in a moment
            _cookies[keys[pid]] = said
    return found


def named(row: Row) -> str:
    """How a process is called where it does not answer."""
    return f"process {row.pid} ({row.comm})"


def _forget_the_dead(rows: dict[int, Row]) -> None:
    if len(_cookies) > 2 * len(rows) + 64:
        living = {row.key for row in rows.values()}
        for key in [key for key in _cookies if key not in living]:
            del _cookies[key]


def find(tree: Tree, sources: frozenset[Source] = ALL_SOURCES) -> list[Row]:
    """Every living process of the tree, the leader included, zombies left out. About 15 µs a process of the host."""
    rows = read_rows()
    _forget_the_dead(rows)
    oldest = tree.leader[1] if tree.leader else 0
    known = set(tree.seen) if Source.DESCENDANTS in sources else set()
    if tree.leader:
        known.add(tree.leader)
    cookies = {tree.cookie, tree.next_cookie} - {""}
    grouped = cgroup.members(tree.cgroup) if tree.cgroup and Source.CGROUP in sources else set()
    mine: dict[int, Row] = {}
    others: list[Row] = []
    for row in rows.values():
        if row.started < oldest or row.kernel or row.dead:
            continue  # older than the tree, a kernel thread, or gone
        if (
            row.key in known
            or row.pid in grouped
            or (Source.SESSION in sources and tree.leader is not None and row.session == tree.leader[0])
        ):
            mine[row.pid] = row
        else:
            others.append(row)
    if Source.DESCENDANTS in sources:
        _add_descendants(mine, rows)
        others = [row for row in others if row.pid not in mine]
    if Source.COOKIE in sources:
        said = _read_cookies(others)
        mine |= {row.pid: row for row in others if said.get(row.pid) in cookies}
    if Source.FIFO in sources and (fifo := tree.fifo) is not None:
        asked = {row.pid: named(row) for row in others if row.pid not in mine and may_hold(row.pid)}
        said_so = bounded.each(lambda pid: holds(pid, fifo), asked, within=WITHIN)
        mine |= {pid: rows[pid] for pid, held in said_so.items() if held}
    if Source.DESCENDANTS in sources:
        _add_descendants(mine, rows)
    return [row for row in mine.values() if not row.dead]


def _add_descendants(mine: dict[int, Row], rows: dict[int, Row]) -> None:
    children: dict[int, list[Row]] = {}
    for row in rows.values():
        children.setdefault(row.ppid, []).append(row)
    frontier = list(mine)
    while frontier:
        for child in children.get(frontier.pop(), ()):
            if child.pid not in mine:
                mine[child.pid] = child
                frontier.append(child.pid)
