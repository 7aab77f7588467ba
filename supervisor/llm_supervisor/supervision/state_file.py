"""What a former daemon wrote down for the one after it: the state file in the runtime folder, read and judged.

The file is replaced atomically, so it is whole; but it may be another boot's, another version's, or somebody's garbage.
What is not understood is not touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_supervisor.core.serialize import from_record
from llm_supervisor.core.spec import StopSpec
from llm_supervisor.core.state import State
from llm_supervisor.host.output.pump import Pump, open_fifo
from llm_supervisor.host.process import boot_id, find, identify, read_rows
from llm_supervisor.host.process.tree import Tree

STATE = "state.json"
# 2: how each program was, and not only what it left; written by, and for, daemons since 0.2
STATE_VERSION = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One program, as it was. ``leader`` and ``members`` are (pid, start time). ``stop`` is how it was to be ended (an
    older daemon does not say). ``state`` is None where it cannot be told: then what it left can be found, and ended."""

    cookie: str
    next: str
    fifo: str
    cgroup: str
    leader: tuple[int, int] | None
    number: int = 0
    digest: str = ""
    warm: bool = False
    port: int | None = None
    uds: str = ""
    listener: tuple[str, int] | None = None
    began: float = 0.0
    log_from: tuple[int, int] = (0, 0)
    baselines: tuple[tuple[int, int], ...] = ()
    members: tuple[tuple[int, int, str], ...] = ()
    stop: StopSpec | None = None
    state: State | None = None

    def tree(self) -> Tree:
        """Its processes. The leader was the former daemon's child and not ours: its number may have been used again
        since, so only what is certain is kept."""
        rows = read_rows()
        known = [self.leader, *((pid, started) for pid, started, _ in self.members)]
        certain = {key for key in known if key and key[0] in rows and rows[key[0]].key == key}
        row = rows.get(self.leader[0]) if self.leader in certain and self.leader is not None else None
        # one that is dead, and not reaped because it is our own child (after an exec), has a status to tell
        leader = self.leader if row is not None and (not row.dead or row.ppid == os.getpid()) else None
        tree = Tree(self.cookie, leader=leader, seen=certain, next_cookie=self.next)
        tree.cgroup = Path(self.cgroup) if self.cgroup else None
        return tree


@dataclass(frozen=True, slots=True)
class Handover:
    """What a daemon that became us by exec has left open, by descriptor, and what it was asked for last: the replicas
    that are to be replaced."""

    lock: int
    control: int
    listeners: Mapping[tuple[str, int], int]
    fifos: Mapping[str, int]
    events: tuple[dict[str, Any], ...]
    upgrades: int
    began: float
    replace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Former:
    """The daemon before this one. ``limits`` are those of its logs: bytes in a segment, segments kept."""

    programs: Mapping[str, Entry]
    limits: tuple[int, int] | None = None
    handover: Handover | None = None
    pipes: dict[str, int] = field(default_factory=dict)  # our ends of the FIFOs, once they are open again

    def paths(self, runtime: Path) -> list[Path]:
        """The FIFOs."""
        return [path for entry in self.programs.values() if (path := fifo_of(runtime, entry)) is not None]

    def lives(self) -> bool:
        """Whether anything of its programs does."""
        return any(find(entry.tree()) for entry in self.programs.values())

    def goes_on(self) -> bool:
        """Whether there is something to go on with, whatever is wrong by now: living programs, or ourselves before an
        exec, who had passed the rehearsal and must not end for what a daemon that starts may refuse."""
        return self.handover is not None or self.lives()


def read(runtime: Path) -> Former | None:
    """What the former daemon of this boot recorded, if only that it has started nothing; None where there is nothing
    that can be used."""
    try:
        data = json.loads((runtime / STATE).read_bytes())
        if data["boot"] != boot_id():
            return None
        current = data["version"] == STATE_VERSION
        programs = {str(name): _entry(entry, current) for name, entry in data["programs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    handover = limits = None
    if current:
        try:
            limits = (int(data["limits"][0]), int(data["limits"][1]))
            me = identify(os.getpid())
            if (
                data.get("handover")
                and me
                and (data["daemon"]["pid"], data["daemon"]["started"]) == (me.pid, me.started)
            ):
                handover = _handover(data["handover"])
        except (ValueError, KeyError, TypeError, IndexError):
            pass
    programs = {name: entry for name, entry in programs.items() if entry.cookie or entry.next or entry.state}
    return Former(programs, limits, handover)


def _entry(data: Mapping[str, Any], current: bool) -> Entry:
    base = Entry(
        str(data["cookie"]),
        str(data["next"]),
        str(data["fifo"]),
        str(data.get("cgroup", "")),
        None if data["pid"] is None else (int(data["pid"]), int(data["started"])),
    )
    if not current:
        return base
    listener = data.get("listener")
    try:
        return Entry(
            base.cookie,
            base.next,
            base.fifo,
            base.cgroup,
            base.leader,
            number=int(data["number"]),
            digest=str(data["digest"]),
            warm=bool(data["warm"]),
            port=None if data["port"] is None else int(data["port"]),
            uds=str(data["uds"]),
            listener=None if listener is None else (str(listener[0]), int(listener[1])),
            began=float(data["began"]),
            log_from=(int(data["log_from"][0]), int(data["log_from"][1])),
            baselines=tuple((int(index), int(used)) for index, used in data["baselines"]),
            members=tuple((int(pid), int(started), str(comm)) for pid, started, comm in data["members"]),
            stop=None if data.get("stop") is None else _stop(data["stop"]),
            state=None if data["state"] is None else from_record(data["state"]),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return base  # what it left can be found all the same


def _stop(data: Mapping[str, Any]) -> StopSpec:
    seconds = asdict(StopSpec()) | {key: float(value) for key, value in data.items() if key in StopSpec.__slots__}
    return StopSpec(**{**seconds, "signal": int(seconds["signal"])})


def _handover(data: Mapping[str, Any]) -> Handover:
    return Handover(
        int(data["lock"]),
        int(data["control"]),
        {(str(host), int(port)): int(fd) for host, port, fd in data["listeners"]},
        {str(path): int(fd) for path, fd in data["fifos"].items()},
        tuple(data["events"]),
        int(data["upgrades"]),
        float(data["began"]),
        tuple(str(name) for name in data.get("replace", ())),  # older daemons put nothing off
    )


def fifo_path(runtime: Path, cookie: str) -> Path:
    """Where the FIFO of that incarnation is."""
    return runtime / "fifo" / f"{cookie.partition('/')[0]}.{cookie[-8:]}"


def fifo_of(runtime: Path, entry: Entry) -> Path | None:
    """The FIFO of what that program left: the recorded one, or that of a start which could not be recorded any more."""
    fresh = fifo_path(runtime, entry.next) if entry.next else None
    if fresh is not None and fresh.exists():
        return fresh
    return Path(entry.fifo) if entry.fifo else None


def reopen(former: Former, runtime: Path, pump: Pump, kept: Mapping[str, int]) -> None:
    """Take up every FIFO: a child whose output nobody takes stands still sooner or later. ``kept`` are descriptors of
    FIFOs, by the path's last part, that somebody (the service manager, ourselves before an exec) has held meanwhile:
    they are closed, as what is in a pipe stays while one end of it is open."""
    held = dict(kept)
    if former.handover is not None:
        held |= {Path(path).name: fd for path, fd in former.handover.fifos.items()}
    for name, entry in former.programs.items():
        fifo = fifo_of(runtime, entry)
        if fifo is None:
            continue
        try:
            pipe = open_fifo(fifo) if fifo.exists() else held.pop(fifo.name)
            pump.add(name, pipe)
        except (OSError, KeyError):
            continue  # it had none yet, or none any more
        former.pipes[name] = pipe
    for fd in held.values():
        os.close(fd)
