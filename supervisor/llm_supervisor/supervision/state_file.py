"""The state file in the runtime folder: what a daemon writes down for the one after it, in one schema for both sides.

The file is replaced atomically, so it is whole; but it may be of another boot, of another version, or garbage. What
cannot be understood is left alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError, ValidatorFunctionWrapHandler
from pydantic.functional_validators import WrapValidator

from llm_supervisor import ownership
from llm_supervisor.core.health import NEW
from llm_supervisor.core.serialize import from_record, to_record
from llm_supervisor.core.spec import StopSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.host import log
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.output.pump import Pump, open_fifo
from llm_supervisor.host.process import Identity, boot_id, find, identify, read_rows
from llm_supervisor.host.process.tree import Tree
from llm_supervisor.supervision import confinement
from llm_supervisor.supervision.lost_fifo import open_fifo_of
from llm_supervisor.supervision.troubles import Troubles

STATE = "state.json"
FIFOS = "fifo"  # the folder of the FIFOs, in the runtime folder
# 2: the state of each program, and not only its processes
STATE_VERSION = 2
SAVE_WITHIN = 0.02  # seconds; changes within that time are written once
SAVE_AGAIN = 2.0  # seconds until the file is tried again where it could not be written

Address = tuple[str, int]  # host and port


# The schema ---------------------------------------------------------------------------------------------------


def _read_state(record: object) -> State:
    try:
        return from_record(record)  # type: ignore[arg-type]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a recorded state: {error!r}") from error


RecordedState = Annotated[State, PlainValidator(_read_state), PlainSerializer(to_record)]


@dataclass(frozen=True, slots=True)
class Entry:
    """One program. ``pid`` and ``started`` (clock ticks since boot) are its leader's.

    ``next`` is the cookie of its next incarnation, which is written before that starts. ``members`` are vital
    processes: pid, start time, name. ``baselines`` are pairs of GPU and bytes that nobody used there before the start.
    ``scratch`` is the folder of its temporary files. ``stop`` is how it is to be ended; older daemons did not write it.
    ``state`` is None where it cannot be understood: then the processes can be found and ended, but not adopted.
    """

    cookie: str
    next: str
    pid: int | None
    started: int | None
    fifo: str
    cgroup: str = ""
    number: int = 0
    digest: str = ""
    warm: bool = False
    port: int | None = None
    uds: str = ""
    scratch: str = ""
    listener: Address | None = None
    began: float = 0.0
    log_from: tuple[int, int] = (0, 0)
    baselines: tuple[tuple[int, int], ...] = ()
    members: tuple[tuple[int, int, str], ...] = ()
    stop: StopSpec | None = None
    state: RecordedState | None = None

    @property
    def leader(self) -> tuple[int, int] | None:
        """(pid, start time) of the leader, dead or alive; None when it never had one."""
        return None if self.pid is None or self.started is None else (self.pid, self.started)

    def tree(self) -> Tree:
        """Its processes. The leader was the child of the former daemon and is not ours: its pid may have been used
        again since, so only processes whose start time fits too, and which do not have another cookie, are kept."""
        rows = read_rows()
        known = [self.leader, *((pid, started) for pid, started, _ in self.members)]
        certain = {
            key
            for key in known
            if key and key[0] in rows and rows[key[0]].key == key
            and confinement.is_of(rows[key[0]], {self.cookie, self.next}, self.pid)
        }  # fmt: skip
        row = rows.get(self.leader[0]) if self.leader in certain and self.leader is not None else None
        # a dead leader that is our own child (after an exec) is not reaped yet, and has a status to tell
        leader = self.leader if row is not None and (not row.dead or row.ppid == os.getpid()) else None
        tree = Tree(self.cookie, leader=leader, seen=certain, next_cookie=self.next)
        tree.cgroup = Path(self.cgroup) if self.cgroup else None
        return tree


NO_ENTRY = Entry(cookie="", next="", pid=None, started=None, fifo="")
# What every version has written, and what is enough to find the processes of a program
_TRACES = ("cookie", "next", "pid", "started", "fifo", "cgroup")


def _traces(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an entry")
    return {name: value[name] for name in _TRACES if name in value}


def _or_traces(value: Any, validate: ValidatorFunctionWrapHandler) -> Entry:
    """An entry that cannot be understood as a whole is reduced to what finds its processes."""
    try:
        entry: Entry = validate(value)
    except ValidationError:
        entry = validate(_traces(value))
    return entry


def _or_none(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Handover:
    """What a daemon leaves to itself over an exec. ``lock``, ``control`` and the numbers in ``listeners`` (host, port,
    descriptor) and ``fifos`` (by path) are descriptors that stay open. ``began`` is the wall clock at its start.
    ``replace`` are replicas of the gateway that are still to be replaced, ``umask`` is that of children: older daemons
    did not write these. (Theirs cannot be known any more; 022 is the usual one.)"""

    lock: int
    control: int
    events: tuple[Mapping[str, Any], ...]
    upgrades: int
    began: float
    replace: tuple[str, ...] = ()
    listeners: tuple[tuple[str, int, int], ...] = ()
    fifos: dict[str, int] = field(default_factory=dict)
    umask: int = 0o022

    def descriptors(self) -> list[int]:
        """All descriptors that stay open over the exec."""
        return [self.lock, self.control, *(fd for _, _, fd in self.listeners), *self.fifos.values()]


@dataclass(frozen=True, slots=True)
class Writer:
    """The daemon that wrote the file: pid and start time."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The whole file. ``limits`` are those of the logs: bytes in a segment, segments kept."""

    version: int = STATE_VERSION
    boot: str
    daemon: Annotated[Writer | None, WrapValidator(_or_none)] = None
    limits: Annotated[tuple[int, int] | None, WrapValidator(_or_none)] = None
    handover: Annotated[Handover | None, WrapValidator(_or_none)] = None
    programs: dict[str, Annotated[Entry, WrapValidator(_or_traces)]]


_SCHEMA = TypeAdapter(Content)


# Reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Former:
    """What the daemon before this one left. ``limits`` are those of its logs: bytes in a segment, segments kept."""

    programs: Mapping[str, Entry]
    limits: tuple[int, int] | None = None
    handover: Handover | None = None
    pipes: dict[str, int] = field(default_factory=dict)  # our ends of the FIFOs, by program, once they are open again
    writer: Writer | None = None  # the daemon itself
    refused: tuple[str, ...] = ()  # what the file names and is not ours, for people; nothing is done with it

    def paths(self, runtime: Path) -> list[Path]:
        """The FIFOs of its programs."""
        return [path for entry in self.programs.values() if (path := fifo_of(runtime, entry)) is not None]

    def is_running(self) -> bool:
        """Whether the daemon itself is alive; it may be ourselves, before an exec."""
        seen = None if self.writer is None else identify(self.writer.pid)
        return seen is not None and self.writer == Writer(seen.pid, seen.started)

    def lives(self) -> bool:
        """Whether any process of its programs is alive."""
        return any(find(entry.tree()) for entry in self.programs.values())

    def goes_on(self) -> bool:
        """Whether there is something to go on with, whatever is wrong with the configuration by now: living programs,
        or ourselves before an exec. That daemon had passed the rehearsal, and must not end for a reason for which a
        daemon that starts may refuse."""
        return self.handover is not None or self.lives()


def read(runtime: Path, owner: int | None = None) -> Former | None:
    """What the former daemon of this boot wrote down, even if it has started nothing; None when there is no file that
    can be used. Of another version's file only the traces of the processes are read. ``owner`` is the user whose daemon
    it was (default: ours). Raises NotOurs when the file belongs to somebody else, or can be changed by others."""
    try:
        data = json.loads(ownership.read_file(runtime / STATE, owner))
        if data["boot"] != boot_id():
            return None
        if data["version"] != STATE_VERSION:
            data = {"boot": data["boot"], "programs": {str(n): _traces(one) for n, one in data["programs"].items()}}
        content = _SCHEMA.validate_python(data)
    except ownership.NotOurs:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    me = identify(os.getpid())
    is_ours = me is not None and content.daemon == Writer(me.pid, me.started)
    refused: list[str] = []
    confined = {name: _confined(name, entry, runtime, refused) for name, entry in content.programs.items()}
    programs = {
        name: one for name, one in confined.items() if one is not None and (one.cookie or one.next or one.state)
    }
    handover = content.handover if is_ours else None
    return Former(programs, content.limits, handover, writer=content.daemon, refused=tuple(refused))


def _confined(name: str, entry: Entry, runtime: Path, refused: list[str]) -> Entry | None:
    """The entry with what may be ours only; None where its very names cannot be. What is left out is added to
    ``refused``."""
    if not confinement.is_program(name) or not all(confinement.is_cookie(one) for one in (entry.cookie, entry.next)):
        refused.append(f"{name!r} with the incarnations {entry.cookie!r} and {entry.next!r}")
        return None
    if not confinement.is_fifo(entry.fifo, runtime):
        refused.append(f"the pipe {entry.fifo!r} of {name}")
        entry = replace(entry, fifo="")
    if not confinement.is_group(entry.cgroup, entry.cookie, entry.next):
        refused.append(f"the control group {entry.cgroup!r} of {name}")
        entry = replace(entry, cgroup="")
    if not confinement.is_socket(entry.uds, runtime):
        refused.append(f"the socket {entry.uds!r} of {name}")
        entry = replace(entry, uds="")
    return entry


def fifo_path(runtime: Path, cookie: str) -> Path:
    """Where the FIFO of the incarnation with that cookie is."""
    return runtime / FIFOS / f"{cookie.partition('/')[0]}.{cookie[-8:]}"


def fifo_of(runtime: Path, entry: Entry) -> Path | None:
    """The FIFO of what that program left: the recorded one, or that of a start which could not be recorded any more."""
    fresh = fifo_path(runtime, entry.next) if entry.next else None
    if fresh is not None and fresh.exists():
        return fresh
    return Path(entry.fifo) if entry.fifo else None


def reopen(former: Former, runtime: Path, pump: Pump, kept: Mapping[str, int]) -> None:
    """Take up every FIFO: a child whose output nobody takes stands still sooner or later.

    ``kept`` are descriptors of FIFOs, by the last part of their path, that the service manager has held meanwhile, or
    we ourselves before an exec: what is in a pipe stays while one end of it is open. They are closed here."""
    held = dict(kept)
    if former.handover is not None:
        held |= {Path(path).name: fd for path, fd in former.handover.fifos.items()}
    for name, entry in former.programs.items():
        fifo = fifo_of(runtime, entry)
        if fifo is None:
            continue
        try:
            if fifo.exists():
                pipe = open_fifo(fifo)
            else:
                pipe = held.pop(fifo.name) if fifo.name in held else open_fifo_of(entry.tree(), fifo)
            pump.add(name, pipe)
        except OSError:
            continue  # it has no FIFO yet, or not any more
        former.pipes[name] = pipe
    for fd in held.values():
        os.close(fd)


# Writing ------------------------------------------------------------------------------------------------------


def new_cookie(name: str) -> str:
    """A cookie that no other incarnation has, ever."""
    return f"{name}/{uuid.uuid4().hex}"


class StateFile:
    """Keeps the state file up to date. A cookie is on disk before the incarnation that has it starts.

    ``living`` returns the entries of the living incarnations, as far as they are known to the world; ``accepting`` on
    which addresses programs listen; ``limits`` those of the logs.
    """

    def __init__(
        self,
        runtime: Path,
        *,
        living: Callable[[], Mapping[str, Entry]],
        accepting: Callable[[], Mapping[str, Address]],
        limits: Callable[[], tuple[int, int]],
        troubles: Troubles | None = None,
    ) -> None:
        self._file = runtime / STATE
        self._troubles = troubles or Troubles()
        self._closed = False
        self._reserved: set[str] = set()  # programs whose next cookie is on disk
        self._living, self._accepting, self._limits = living, accepting, limits
        self._states: dict[str, tuple[State | None, State]] = {}  # by program: what is compared, and what is written
        self._cookies: dict[str, str] = {}  # of each program's next incarnation
        self._digests: dict[str, str] = {}  # by program: of what its last incarnation was started with
        self._stops: dict[str, StopSpec] = {}
        self._handover: Handover | None = None
        self._saving: asyncio.TimerHandle | None = None

    @property
    def file(self) -> Path:
        """The path of the file, in the present runtime folder."""
        return self._file

    def move(self, runtime: Path) -> None:
        """Write it to that runtime folder from now on. Raises OSError when it cannot be written there."""
        self._file = runtime / STATE
        self.save()

    def remember(self, name: str, state: State) -> None:
        """Note the state of a program; written within ``SAVE_WITHIN`` seconds."""
        # every sign of life of a start moves its deadline
        deadline = None if state.phase is Phase.STARTING else state.deadline
        startup = replace(state.startup, stirred_at=None, loaded_at=None, loading=None)
        seen = replace(state, health=NEW, startup=startup, reason="", deadline=deadline)
        if self._states.get(name, (None,))[0] != seen:
            self._states[name] = (seen, state)
            self.save_soon()

    def starting(self) -> list[str]:
        """The programs whose last noted state is STARTING."""
        return [name for name, (_, state) in self._states.items() if state.phase is Phase.STARTING]

    def note_stop(self, name: str, stop: StopSpec) -> None:
        """Note how a program is to be ended, for a daemon that finds it and whose configuration no longer has it."""
        self._stops[name] = stop
        self.save_soon()

    def note_digest(self, name: str, digest: str) -> None:
        """Note what the present incarnation of a program is started with. Written with the next save."""
        self._digests[name] = digest

    def digest(self, name: str) -> str | None:
        """What the last incarnation of a program was started with; None when that is not known."""
        return self._digests.get(name)

    def reserve_cookie(self, name: str) -> str:
        """A cookie for the next incarnation that is on disk already. Raises OSError when it cannot be written.

        A daemon that is killed right after the spawn thus leaves nothing that the next one cannot find, and a restart
        does not wait for the disk."""
        if name not in self._reserved:
            self._cookies.setdefault(name, new_cookie(name))
            self.save()
        return self._cookies[name]

    def cookie_used(self, name: str) -> None:
        """The reserved cookie has its incarnation: write that down, with the next one. Where that fails it is tried
        again; until then a new daemon finds the incarnation by the cookie, which is on disk as the next one's."""
        self._cookies[name] = new_cookie(name)
        self._reserved.discard(name)
        self.save_now()

    def forget(self, name: str) -> None:
        """The program is no longer configured, and nothing of it is left."""
        known: dict[str, Any]
        for known in (self._states, self._cookies, self._digests, self._stops):
            known.pop(name, None)
        self._reserved.discard(name)
        self.save_soon()

    def forget_states(self) -> None:
        """At an orderly end: the next daemon is to end what could not be ended, and to start everything anew."""
        self._states.clear()

    def inherit(self, former: Former) -> None:
        """Go on with what a former daemon wrote down."""
        for name, entry in former.programs.items():
            if entry.next:
                self._cookies[name] = entry.next
                self._reserved.add(name)
            if entry.digest:
                self._digests[name] = entry.digest
            if entry.state is not None:
                self._states[name] = (None, entry.state)  # until its runner says more

    def hand_over(self, handover: Handover) -> None:
        """Leave these descriptors open over an exec, and write them down. Raises OSError."""
        self._handover = handover
        for fd in handover.descriptors():
            os.set_inheritable(fd, True)
        self.save()

    def take_back(self) -> None:
        """The exec has failed: nothing is handed over."""
        if self._handover is not None:
            for fd in self._handover.descriptors():
                os.set_inheritable(fd, False)
        self._handover = None
        self.save_now()

    def save_soon(self, within: float = SAVE_WITHIN) -> None:
        """Write the file within that many seconds: many changes at once are written once."""
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(within, self.save_now)

    def flush(self) -> None:
        """Write what is not written yet, before a request is answered: what was answered survives a crash."""
        if self._saving is not None:
            self._saving.cancel()
            self.save_now()

    def save_now(self) -> None:
        """Write the file. Where that fails it is logged, and tried again every ``SAVE_AGAIN`` seconds."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        try:
            self.save()
        except Exception as error:
            text = f"the state cannot be written, so a new daemon would not know what runs: {error}"
            if self._troubles.note("state file", text):
                defect = not isinstance(error, OSError)
                log.get().error("the state cannot be written", error=str(error), exc_info=defect)
            if not self._closed:
                self.save_soon(SAVE_AGAIN)

    def save(self) -> None:
        """Write what the next daemon needs to go on, should this one be killed. Raises OSError."""
        me = identify(os.getpid()) or Identity(os.getpid(), 0, boot_id())
        living, accepting = self._living(), self._accepting()
        content = Content(
            version=STATE_VERSION,
            boot=boot_id(),
            daemon=Writer(me.pid, me.started),
            limits=self._limits(),
            handover=self._handover,
            programs={
                name: replace(
                    living.get(name, NO_ENTRY),
                    next=self._cookies.get(name, ""),
                    digest=self._digests.get(name, ""),
                    listener=accepting.get(name),
                    stop=self._stops.get(name),
                    state=self._states[name][1] if name in self._states else None,
                )
                for name in sorted(living.keys() | self._cookies.keys() | self._states.keys())
            },
        )
        write_atomically(self._file, json.dumps(_SCHEMA.dump_python(content)).encode())
        self._reserved = set(self._cookies)
        if self._troubles.clear("state file"):
            log.get().info("the state can be written again")

    def close(self) -> None:
        """Write no more on our own account."""
        self._closed = True
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
