"""The real world behind ``World``: what one daemon does with processes, pipes, sockets and the state file.

Joins the modules of ``host``; decides nothing that ``core`` should decide.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.failure import ExitStatus, Failure
from llm_supervisor.core.health import NEW, Answer, Counters, Probe
from llm_supervisor.core.probe import Asking, Canary, Question, Reading
from llm_supervisor.core.program import Found
from llm_supervisor.core.serialize import to_record
from llm_supervisor.core.spec import Kind, ProgramSpec, StopSpec
from llm_supervisor.core.state import Cause, Departure, Phase, State
from llm_supervisor.diagnosis import Component, Diagnosis, diagnose
from llm_supervisor.engines import hub_cache
from llm_supervisor.host import gpu, http, incident, kmsg, log, net, output, pyspy
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.process import (
    COOKIE,
    PATIENCE,
    Child,
    ForkError,
    Identity,
    Row,
    SpawnError,
    Tree,
    boot_id,
    cgroup,
    find,
    identify,
    read_rows,
    reap_strangers,
    shared_memory,
    signal_process,
    spawn,
    transferred,
)
from llm_supervisor.host.systemd import Notifier
from llm_supervisor.supervision.local.fork_servers import ForkServerPool
from llm_supervisor.supervision.state_file import STATE, STATE_VERSION, Former, fifo_of, fifo_path
from llm_supervisor.supervision.world import Launched, SpawnRefused, Swept

# What the service manager says to us and nobody else, and what belongs to our own interpreter
_NOT_INHERITED = frozenset(
    """NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_USEC WATCHDOG_PID JOURNAL_STREAM INVOCATION_ID
    SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
    RUNTIME_DIRECTORY LOGS_DIRECTORY STATE_DIRECTORY VIRTUAL_ENV PYTHONHOME __PYVENV_LAUNCHER__""".split()
)
COMPONENTS: Mapping[Kind, Component] = {Kind.VLLM: "vllm", Kind.LITELLM: "litellm", Kind.COMMAND: "command"}


MIB = 1024 * 1024
SAVE_WITHIN = 0.02  # seconds
LOOK_AROUND = 30.0  # seconds between two looks for new members of a program that runs
UNKILLABLE = 10.0  # seconds after which what survives SIGKILL is said to
LETTING_GO = 2.0  # seconds that the kernel may take to close a dead process's socket
BEGINNING = output.Position(0, 0)


class Store(Protocol):
    """Who keeps descriptors for the next daemon (``host.notify.Notifier``)."""

    def store(self, name: str, fd: int) -> None:
        """Keep it under that name."""

    def forget(self, name: str) -> None:
        """Keep it no longer."""


@dataclass
class Incarnation:
    """What is held for one incarnation. ``number`` is the core's, ``cookie`` is unique for ever."""

    number: int
    cookie: str
    tree: Tree
    fifo: Path
    pipe: int | None = None
    first: tuple[int, int] | None = None  # (pid, start time) of its leader, dead or alive
    expected: tuple[tuple[int, int, str], ...] = ()  # vital members that a former daemon knew: pid, start time, name
    warm: bool = False  # from a fork server
    port: int | None = None  # where it alone should listen
    uds: str | None = None  # and privately
    leader: Child | None = None
    members: list[Child] = field(default_factory=list)
    log_from: output.Position = BEGINNING
    baselines: list[tuple[int, int]] = field(default_factory=list)  # (GPU, bytes in use before the start)
    stacks: str = ""  # where its processes stood when it was suspected to hang
    outlived: list[str] = field(default_factory=list)  # processes that the sweep found
    began: float = field(default_factory=time.time)  # wall clock, as files have it
    shared: set[str] = field(default_factory=set)  # names in /dev/shm that its tree had mapped
    waiting: set[tuple[int, int]] = field(default_factory=set)  # members that were in state D at the last look
    looked: float = float("-inf")  # when the whole process table was last looked through for its members

    @property
    def uuid(self) -> str:
        """The part of the cookie behind the program's name."""
        return self.cookie.rpartition("/")[2]


class RealWorld:
    """Everything that is alive, by program."""

    def __init__(
        self,
        runtime: Path,
        pump: output.Pump,
        *,
        own_environ: Mapping[str, str],
        engine_environ: Mapping[str, str],
        incidents: Path,
        gpus: gpu.Gpus | None = None,
        store: Store | None = None,
    ) -> None:
        self._runtime, self._pump, self._incidents = runtime, pump, incidents
        self._store = store or Notifier(None)
        self._states: dict[str, tuple[object, dict[str, Any]]] = {}  # by program: what is compared, and recorded
        self._saving: asyncio.TimerHandle | None = None
        self._digests: dict[str, str] = {}  # by program: of what its last incarnation was started with
        self._stops: dict[str, StopSpec] = {}  # by program: how it is to be ended by one who knows no more of it
        self.handover: dict[str, Any] | None = None  # for ourselves after an exec
        self.fork_servers = ForkServerPool(runtime / "fork-servers", self.starting)
        self._gpus = gpus or gpu.NoGpus()
        self._starting: dict[int, str] = {}  # GPU: the program that starts on it
        self._reserved: dict[str, str] = {}  # the cookie of each program's next incarnation
        self._held: dict[str, list[tuple[int, int]]] = {}  # baselines to which GPUs have not come back yet
        self.own_environ, self.engine_environ = own_environ, engine_environ
        self.incarnations: dict[str, Incarnation] = {}
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._accepting: dict[str, tuple[str, int]] = {}  # programs that accept, or will, on one of these
        self._targets: dict[str, tuple[object, http.Target]] = {}
        self._read: dict[str, tuple[output.Position, bytes]] = {}
        self._rows: tuple[float, dict[int, Row]] = (float("-inf"), {})
        (runtime / "fifo").mkdir(mode=0o700, exist_ok=True)

    # Starting ---------------------------------------------------------------------------------------------

    async def spawn(
        self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None], *, warm: bool
    ) -> Launched:
        """See ``World``."""
        launch = spec.launch
        self._take_turn(spec)
        await self._memory_is_back(spec)
        baselines = self._baselines(spec)
        if launch.port is not None and (error := await self._port_error(launch.port)):
            raise self._taken(launch.port, error)
        if spec.kind is Kind.VLLM and launch.uds is not None:
            self._make_way(launch.uds)
        sockets = [self._listen(spec.name, launch.listener)] if launch.listener else []
        cookie = self._reserved_cookie(spec.name)
        fifo = fifo_path(self._runtime, cookie)
        try:
            pipe = output.make_fifo(fifo, launch.pipe_size)
            self._pump.add(spec.name, pipe)
            self._store.store(fifo.name, pipe)
        except OSError as error:
            failure = Failure("log", f"no log can be opened: {error}", "Free some room in the log folder.")
            raise SpawnRefused(failure) from error
        at = os.stat(fifo)
        tree = Tree(cookie, fifo=(at.st_dev, at.st_ino))
        begin = self._pump.position(spec.name)
        living = Incarnation(
            incarnation,
            cookie,
            tree,
            fifo,
            pipe,
            port=launch.port,
            uds=launch.uds,
            log_from=begin,
            baselines=baselines,
        )
        self.incarnations[spec.name] = living
        self._digests[spec.name] = spec.digest
        self._read[spec.name] = (begin, b"")
        environment = self._environment(spec, cookie)
        fds = [sock.fileno() for sock in sockets]
        leader = await self._fork(spec, living, environment, fds) if warm else None
        living.warm = warm = leader is not None
        if leader is None:
            try:
                pid = spawn(launch.argv, environment, output=fifo, cwd=launch.cwd, pass_fds=fds)
            except SpawnError as error:
                advice = (
                    "Correct the command, or install it." if error.permanent else "The machine is short of something."
                )
                raise SpawnRefused(Failure("spawn_failed", str(error), advice, permanent=error.permanent)) from error
            leader = Child.open(pid)
            assert leader is not None, "nobody else reaps, so a fresh child is there at least as a zombie"
        pid = leader.pid
        living.leader = leader
        tree.leader = living.first = (pid, leader.identity.started)
        tree.seen = {tree.leader}
        tree.cgroup = cgroup.enclose(pid, cookie.replace("/", "."))
        leader.watch(lambda status: post(ev.Exited(incarnation, status)))
        self._reserved[spec.name] = _new_cookie(spec.name)
        self.save()
        return Launched(pid, warm)

    async def _fork(
        self, spec: ProgramSpec, living: Incarnation, environment: Mapping[str, str], fds: list[int]
    ) -> Child | None:
        """A start from a fork server; None where there is none, or it did not work: then nothing of it is left."""
        try:
            pid = await self.fork_servers.fork(
                spec.name,
                spec.launch,
                environment,
                cookie=living.cookie,
                output=living.fifo,
                pass_fds=fds,
                patience=min(PATIENCE, spec.health.startup_stall / 2),  # a cold start must still have its time
            )
            leader = Child.open(pid) if pid is not None else None
            if pid is None or leader is not None:
                return leader
        except ForkError:
            pass  # it is in the log, and in the status
        # it may have forked, and died or hung before it said so
        loop = asyncio.get_running_loop()
        end = loop.time() + UNKILLABLE
        while left := find(living.tree):
            for row in left:
                _signal(row, signal.SIGKILL)
            if loop.time() >= end:
                who = ", ".join(f"{row.comm} (pid {row.pid})" for row in left)
                raise SpawnRefused(
                    Failure("unkillable", f"what a warm start has left survives SIGKILL: {who}", busy=True)
                )
            await asyncio.sleep(0.01)
        return None

    def starting(self) -> list[str]:
        """The programs that start just now, as far as they were written down."""
        return [name for name, (_, record) in self._states.items() if record["phase"] == Phase.STARTING]

    def watched_anew(self, spec: ProgramSpec) -> None:
        """The same process under another spec: perhaps its next start may be warm now, or may not be any more."""
        living = self.incarnations.get(spec.name)
        if living is not None and spec.name not in self.starting():
            self.fork_servers.want(spec.name, spec.launch, self._environment(spec, living.cookie))

    def _reserved_cookie(self, name: str) -> str:
        """A cookie that is on disk already: a daemon that is killed right after the spawn leaves nothing that its
        successor cannot find, and a restart does not wait for the disk."""
        if name not in self._reserved:
            self._reserved[name] = _new_cookie(name)
            try:
                self.save()
            except OSError as error:
                del self._reserved[name]
                failure = Failure(
                    "state", f"the state cannot be written: {error}", f"Free some room in {self._runtime}."
                )
                raise SpawnRefused(failure) from error
        return self._reserved[name]

    def _take_turn(self, spec: ProgramSpec) -> None:
        """One start per GPU at a time: two that measure its free memory at once both get it wrong."""
        for index in spec.gpus:
            other = self._starting.get(index, spec.name)
            if other != spec.name:
                summary = f"waits for GPU {index}: {other} starts on it"
                raise SpawnRefused(Failure("gpu_busy_starting", summary, permanent=False, busy=True))
        self._starting |= dict.fromkeys(spec.gpus, spec.name)

    async def _memory_is_back(self, spec: ProgramSpec) -> None:
        held = await gpu.wait_for_memory(self._gpus, self._held.get(spec.name, ()), patience=0)
        if held:
            advice = "It waits until the memory is free, without counting it as a failure. End those processes if they "
            advice += "are not wanted; if NVML names none, reset the GPU (nvidia-smi --gpu-reset) or reboot."
            summary = "; ".join(str(one) for one in held)
            raise SpawnRefused(Failure("gpu_memory_held", summary, advice, permanent=False, busy=True))
        self._held.pop(spec.name, None)

    def _end_turn(self, name: str) -> None:
        self._starting = {index: who for index, who in self._starting.items() if who != name}

    def _baselines(self, spec: ProgramSpec) -> list[tuple[int, int]]:
        """What is used on its GPUs by others, to know when they are as before."""
        seen = ((index, self._gpus.memory(index)) for index in spec.gpus)
        return [(index, memory.used) for index, memory in seen if memory is not None]

    async def _port_error(self, port: int) -> OSError | None:
        """Why the port cannot be bound; None when it can. A killed process of many threads can be a zombie while its
        last thread still holds the socket: one that nobody is found to hold gets a moment to be let go of."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LETTING_GO
        while (error := net.can_bind("127.0.0.1", port)) is not None:
            holder = net.holder(port)
            if (holder is not None and holder.pid is not None) or loop.time() >= end:
                return error
            await asyncio.sleep(0.05)  # looking for a holder reads every process
        return None

    def _make_way(self, uds: str) -> None:
        """vLLM binds its socket where there must be none; one that nobody answers on is a dead one's."""
        try:
            used = net.answers(uds)
            if not used:
                Path(uds).unlink(missing_ok=True)
        except OSError as error:
            advice = "Choose another place for `uds`: a path of at most 107 bytes in a folder of this user."
            raise SpawnRefused(Failure("uds", f"{uds}: {error.strerror or error}", advice, permanent=True)) from error
        if used:
            advice = "End it, or choose another place for `uds`."
            raise SpawnRefused(Failure("port_taken", f"{uds} is somebody's: it answers", advice, busy=True))

    def _taken(self, port: int, error: OSError) -> SpawnRefused:
        holder = net.holder(port)
        who = f": {holder}" if holder else f" ({error.strerror})"
        advice = f"End {holder}, or give this model another port." if holder else "Choose another port."
        return SpawnRefused(Failure("port_taken", f"port {port} is taken{who}", advice, permanent=False, busy=True))

    def _listen(self, name: str, address: tuple[str, int]) -> socket.socket:
        """The listening socket, bound anew only if it was closed: it outlives incarnations, so clients queue in it; and
        replicas share it. Bound before an old one of the same port is closed, which others may still serve on."""
        if address not in self._listeners:
            ours = [sock for (_, port), sock in self._listeners.items() if port == address[1]]
            try:
                self._listeners[address] = sock = net.bind(*address, beside=ours)
            except OSError as error:
                self.close_listener(name)  # it is not to listen there any more
                raise self._taken(address[1], error) from error
            self._store.store(_stored_name(address), sock.fileno())
        if self._accepting.get(name, address) != address:
            self.close_listener(name)
        self._accepting[name] = address
        return self._listeners[address]

    def let_go_of_listener(self, spec: ProgramSpec) -> None:
        """Before it leaves, to listen elsewhere when it is back: who comes to the old address from now on must not
        queue where nobody will accept."""
        if spec.launch.listener is not None and self._accepting.get(spec.name) not in (None, spec.launch.listener):
            self.close_listener(spec.name)

    async def recover_listeners(self, former: Former, kept: dict[str, int]) -> None:
        """Get back the sockets on which a former daemon's programs listen: those that were held meanwhile (``kept``, by
        name, and by ourselves before an exec; what is used is taken out), else from a program that has one. The rest is
        bound anew when it is needed."""
        if former.handover:
            kept |= {_stored_name(address): fd for address, fd in former.handover.listeners.items()}
        for name, entry in former.programs.items():
            if (address := entry.listener) is None:
                continue
            if address not in self._listeners:
                sock = None
                fd = kept.pop(_stored_name(address), None)
                if fd is not None:
                    sock = net.listener(fd, address)
                if sock is None and entry.uds:
                    sock = await net.ask_for_listener(f"{entry.uds}.listener", address)
                if sock is None and entry.leader is not None and entry.tree().leader is not None:
                    sock = net.copy_listener(entry.leader[0], address)
                if sock is None:
                    continue
                self._listeners[address] = sock
                self._store.store(_stored_name(address), sock.fileno())
            self._accepting[name] = address

    def find_gpus(self) -> None:
        """A configuration has come that names some."""
        if isinstance(self._gpus, gpu.NoGpus):
            self._gpus = gpu.detect()

    def close_listener(self, name: str) -> None:
        """See ``World``. The last of its programs closes a socket."""
        address = self._accepting.pop(name, None)
        if address is not None and address not in self._accepting.values():
            self._listeners.pop(address).close()
            self._store.forget(_stored_name(address))

    def _environment(self, spec: ProgramSpec, cookie: str) -> dict[str, str]:
        engine = spec.kind is not Kind.COMMAND
        base = self.engine_environ if engine else self.own_environ
        env = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
        if engine:
            env.pop("PYTHONPATH", None)
        for name in spec.launch.unset:
            env.pop(name, None)
        return {**env, **dict(spec.launch.env), COOKIE: cookie}

    # Ending -----------------------------------------------------------------------------------------------

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """See ``World``."""
        living = self.incarnations.get(name)
        if living is None:
            return
        if tree:
            for row in find(living.tree):
                _signal(row, signum)
            if signum == signal.SIGKILL and living.tree.cgroup is not None:
                cgroup.kill(living.tree.cgroup)
        elif living.leader is not None:
            living.leader.signal(signum)
            if signum != signal.SIGKILL:
                living.leader.signal(signal.SIGCONT)  # a stopped process would not see it

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        """See ``World``."""
        living = self.incarnations.get(spec.name)
        swept = await self.end(spec.name, grace, kill_grace)
        self._end_turn(spec.name)
        if (leaving := state.leaving) is not None and state.warm and leaving.failed and not leaving.was_ready:
            self.fork_servers.distrust(spec.name, leaving.summary)
        if swept.left or living is None:
            return swept
        if living.uds is not None:  # its own, and dead with it
            for name in (living.uds, f"{living.uds}.listener"):
                Path(name).unlink(missing_ok=True)
        failure = self._post_mortem(spec, state, living)
        if await gpu.wait_for_memory(self._gpus, living.baselines):
            self._held[spec.name] = living.baselines  # the next start looks again, and waits
        return replace(swept, failure=failure)

    def _post_mortem(self, spec: ProgramSpec, state: State, living: Incarnation) -> Failure | None:
        """What its last words say about why it left, kept as an incident."""
        leaving = state.leaving
        if leaving is None or not leaving.failed:
            return None
        log = output.excerpt(self._pump.folder(spec.name), living.log_from, self._pump.position(spec.name))
        exited = state.exited if leaving.cause is Cause.EXITED else None
        kernel_says = []
        if living.first is not None and spec.kind is not Kind.COMMAND:
            kernel_says = kmsg.telling_lines(living.first[1] / os.sysconf("SC_CLK_TCK"))
        mine = {pid for pid, *_ in (*living.tree.seen, *living.expected, *filter(None, [living.first]))}
        killed = [line for line in kernel_says if kmsg.oom_victims([line]) & mine]
        untold = exited == ExitStatus()  # of a child that is not ours: nobody says how it ended
        found = diagnose(
            b"\n".join([log, *(line.encode() for line in kernel_says if "Xid" in line)]),
            COMPONENTS[spec.kind],
            exit_code=1 if untold else exited.code if exited else None,
            exit_signal=exited.signal if exited else None,
            was_ready=leaving.was_ready,
            oom_killed=bool(killed),
        )
        if untold and found.kind == "exited":
            found = replace(found, kind="none")  # that status is made up
        failure = leaving.failure or _named(leaving, found)
        facts = {
            "kind": failure.kind,
            "permanent": failure.permanent,
            "summary": failure.summary,
            "advice": failure.advice,
            "evidence": killed or list(found.evidence),
            "cause": leaving.cause.value,
            "left": leaving.summary,
            "was_ready": leaving.was_ready,
            "exit": str(exited) if exited else None,
            "incarnation": living.uuid,
            "verdict": {"rule": state.health.verdict.rule, "reason": state.health.verdict.reason},
            "probes": {name: [one.answer.value, one.detail] for name, one in state.health.probes.items()},
            "tree": living.outlived,
            "gpus": [self._gpu_facts(index, living) for index in spec.gpus],
            "kernel": kernel_says,
        }
        try:
            more = {"stacks.txt": living.stacks.encode()} if living.stacks else {}
            return replace(failure, incident=incident.write(self._incidents, spec.name, facts, log, more))
        except OSError:
            return failure  # no room for it: what is known is in the status and in the log all the same

    def _gpu_facts(self, index: int, living: Incarnation) -> dict[str, Any]:
        """A GPU of its, as it is once its processes are dead; null where NVML cannot be asked."""
        memory = self._gpus.memory(index)
        return {
            "index": index,
            "used_before_start": dict(living.baselines).get(index),
            "used": memory.used if memory else None,
            "total": memory.total if memory else None,
            "processes": {str(pid): used for pid, used in memory.holders} if memory else None,
        }

    async def end(self, name: str, grace: float, kill_grace: float) -> Swept:
        """End every process of the present incarnation. Looks again after every signal: what is killed may have forked
        in between."""
        living = self.incarnations.get(name)
        if living is None:
            return Swept()
        for member in living.members:
            member.reap()
        living.members.clear()
        loop = asyncio.get_running_loop()
        left = find(living.tree)
        living.outlived = [f"{row.comm} (pid {row.pid}, state {row.state})" for row in left]
        found, began, pause = len(left), loop.time(), 0.001
        asked: set[tuple[int, int]] = set()
        while left:
            waited = loop.time() - began
            if waited >= grace + kill_grace:
                return Swept(found, tuple(f"{row.comm} (pid {row.pid}, state {row.state})" for row in left))
            if waited >= grace and living.tree.cgroup is not None:
                cgroup.kill(living.tree.cgroup)
            for row in left:
                if waited >= grace:
                    _signal(row, signal.SIGKILL)
                elif row.key not in asked:
                    asked.add(row.key)
                    _signal(row, signal.SIGTERM)
                    _signal(row, signal.SIGCONT)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
            left = find(living.tree)
        self._bury(name, living)
        return Swept(found)

    async def orphans_gone(self, name: str) -> None:
        """See ``World``."""
        living = self.incarnations.get(name)
        while living is not None and find(living.tree):
            await asyncio.sleep(1.0)
        if living is not None and self.incarnations.get(name) is living:
            self._bury(name, living)

    def _bury(self, name: str, living: Incarnation) -> None:
        """Nothing of it is alive: take its last words, and let go of everything that was kept for it."""
        if self.incarnations.get(name) is not living:
            return  # another sweep of the same was quicker
        if living.pipe is not None:
            self._pump.remove(living.pipe)
            self._store.forget(living.fifo.name)
        living.fifo.unlink(missing_ok=True)
        if living.leader is not None:
            living.leader.reap()
        if living.tree.cgroup is not None:
            cgroup.remove(living.tree.cgroup)
        shared_memory.remove_unmapped(living.shared)
        if living.shared:  # an engine
            asyncio.get_running_loop().call_later(
                shared_memory.SEMAPHORE_ABANDONED_AFTER,
                shared_memory.remove_unmapped,
                shared_memory.semaphores_since(living.began),
            )
        self.incarnations.pop(name, None)
        self.reap()  # the state file keeps it until the next start: what is dead is found dead

    def reap(self) -> None:
        """Reap orphans that came to us. Call on SIGCHLD."""
        # those too that a former daemon left, and nobody watches yet: how they ended is asked for when they are adopted
        watched = {living.tree.leader[0] for living in self.incarnations.values() if living.tree.leader is not None}
        reap_strangers(watched | self.fork_servers.pids())

    # Looking ----------------------------------------------------------------------------------------------

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Callable[[Event], None]) -> None:
        """See ``World``."""
        self._end_turn(spec.name)
        living = self.incarnations.get(spec.name)
        if living is None or living.number != incarnation:
            return
        if living.warm:
            self.fork_servers.succeeded(spec.name)
        self.fork_servers.want(spec.name, spec.launch, self._environment(spec, living.cookie))
        rows = living.tree.look(read_rows())
        here = {row.key for row in rows}
        for pid, started, comm in living.expected:
            if (pid, started) not in here:  # it died while no daemon lived
                post(ev.MemberLost(incarnation, pid, comm))
        if spec.vital:  # an engine: programs do their own housekeeping
            living.shared = set().union(*(shared_memory.mapped(row.pid) for row in rows))
        for row in rows:
            if row.key == living.tree.leader or not row.comm.startswith(spec.vital or ("\0",)):
                continue
            member = Child.open(row.pid)
            if member is None:
                post(ev.MemberLost(incarnation, row.pid, row.comm))
                continue
            living.members.append(member)
            if (known := (row.pid, row.started, row.comm)) not in living.expected:  # else one that was adopted
                living.expected += (known,)
            member.watch(_poster(post, ev.MemberLost(incarnation, row.pid, row.comm)))
        self._save_soon()

    def worked(self, spec: ProgramSpec) -> int:
        """See ``World``."""
        living = self.incarnations.get(spec.name)
        return 0 if living is None else sum(row.cpu + transferred(row.pid) // MIB for row in self._look(living))

    def _look(self, living: Incarnation) -> list[Row]:
        """Its tree, with who is new in it. The process table is read at most twice a second, however many programs
        are looked at."""
        now = asyncio.get_running_loop().time()
        if now - self._rows[0] >= 0.4:
            self._rows = (now, read_rows())
        living.looked = now
        return living.tree.look(self._rows[1])

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        """See ``World``. Of who is known; the whole table is read now and then, for who is new."""
        living = self.incarnations.get(spec.name)
        if living is None:
            return ()
        if asyncio.get_running_loop().time() - living.looked >= LOOK_AROUND:
            mine = self._look(living)
        else:
            mine = living.tree.known()
        vital = [row for row in mine if row.key == living.tree.leader or row.comm.startswith(spec.vital or ("\0",))]
        stopped = tuple(f"{row.comm} (pid {row.pid}) is stopped" for row in vital if row.state in "Tt")
        # everybody is in D for a moment now and then; who is there twice in a row waits in vain
        waiting = {row.key for row in vital if row.state == "D"}
        stopped += tuple(
            f"{row.comm} (pid {row.pid}) hangs in the kernel"
            for row in vital
            if row.key in waiting and row.key in living.waiting
        )
        living.waiting = waiting
        return stopped

    async def dump_stacks(self, spec: ProgramSpec) -> None:
        """See ``World``."""
        if (living := self.incarnations.get(spec.name)) is not None:
            vital = [row for row in living.tree.look(read_rows()) if row.comm.startswith(spec.vital or ("\0",))]
            pids = [living.leader.pid] if living.leader is not None else []
            living.stacks = await pyspy.dump(dict.fromkeys([*pids, *(row.pid for row in vital)]))

    def output(self, name: str) -> tuple[list[bytes], bool]:
        """See ``World``."""
        at, rest = self._read.get(name, (output.Position(0, 0), b""))
        data, after = output.read_from(self._pump.folder(name), at)
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        self._read[name] = (after, rest[-4096:])
        return lines, bool(data)

    def downloaded(self, spec: ProgramSpec) -> int:
        """See ``World``."""
        return hub_cache.growth(spec.launch.downloads)

    async def ask(self, name: str, asking: Asking, question: Question | None, timeout: float) -> Probe:
        """See ``World``."""
        if question is None:
            assert not isinstance(asking.address, str)
            return await http.connect(*asking.address, timeout)
        reply = await (await self._target(name, asking)).ask(question.path, timeout)
        if isinstance(reply, Probe):
            return reply
        if question.signal == "catalogue" and (stranger := self._stranger(name)) is not None:
            return replace(stranger, took=reply.took)
        return replace(question.judge(reply.status, reply.body), took=reply.took)

    def _stranger(self, name: str) -> Probe | None:
        """Whether somebody else answers on the program's port, alone or beside it: vLLM listens with SO_REUSEPORT, so
        that a second one of the same user takes half of the requests and no one gets an error."""
        living = self.incarnations.get(name)
        if living is None or living.port is None:
            return None
        listening = net.listening(living.port)
        mine = net.held(listening, (row.pid for row in self._look(living)))
        leader = living.tree.leader
        if listening <= mine or leader is None or not os.access(f"/proc/{leader[0]}/fd", os.R_OK):
            return None  # or it cannot be told
        holder = net.holder(living.port, listening - mine)
        who = str(holder) if holder else "another process"
        if mine:
            return Probe(Answer.WRONG, f"port {living.port} is shared: {who} listens on it too and takes requests")
        return Probe(Answer.INVALID, f"port {living.port} is answered by {who}, not by {name}")

    async def read(self, name: str, asking: Asking, reading: Reading, timeout: float) -> tuple[Probe, Counters | None]:
        """See ``World``."""
        reply = await (await self._target(name, asking)).ask(reading.path, timeout)
        if isinstance(reply, Probe):
            return reply, None
        counters = reading.read(reply.body) if reply.status == 200 else None
        if counters is None:
            return Probe(Answer.INVALID, f"{reading.path} ({reply.status}) shows no counters", reply.took), None
        return Probe(Answer.OK, f"{counters.running} running, {counters.waiting} waiting", reply.took), counters

    async def send(self, name: str, asking: Asking, canary: Canary, timeout: float) -> Probe:
        """See ``World``."""
        nonce = uuid.uuid4().hex[:12]
        target = await self._target(name, asking)
        body = canary.body(nonce)
        reply = await target.ask(canary.path, timeout, body, {"X-Request-Id": f"llm-supervisor-canary-{nonce}"})
        if isinstance(reply, Probe):
            return reply
        return replace(canary.judge(reply.status, reply.body), took=reply.took)

    async def _target(self, name: str, asking: Asking) -> http.Target:
        known = self._targets.get(name)
        where = (asking.address, asking.headers)  # not what is asked: two plans of the same ask it by other functions
        if known is None or known[0] != where:
            address = net.reachable(asking.address) if isinstance(asking.address, str) else asking.address
            before, known = known, (where, http.Target(address, dict(asking.headers)))
            self._targets[name] = known
            if before is not None:
                await before[1].close()
        return known[1]

    async def close(self) -> None:
        """Close connections and sockets. Processes are the runners'."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        await self.fork_servers.close()
        for _, target in self._targets.values():
            await target.close()
        if not self.incarnations:  # else the next daemon gets its sockets back
            for name in list(self._accepting):
                self.close_listener(name)

    # The state file ---------------------------------------------------------------------------------------

    def remember(self, name: str, state: State) -> None:
        """How a program is, for the next daemon: written down within a moment."""
        # every sign of life of a start moves its deadline
        deadline = None if state.phase is Phase.STARTING else state.deadline
        seen = replace(state, health=NEW, stirred_at=None, loaded_at=None, loading=None, reason="", deadline=deadline)
        if self._states.get(name, (None,))[0] != seen:
            self._states[name] = (seen, to_record(state))
            self._save_soon()

    def note_stop(self, name: str, stop: StopSpec) -> None:
        """How a program is to be ended, for a daemon that finds it and whose configuration has it no longer."""
        self._stops[name] = stop
        self._save_soon()

    def abandon(self) -> None:
        """At an orderly end: what could not be ended is for the next daemon to end, and nothing else is known of it."""
        self._states.clear()
        if self.incarnations:
            self._save_now()

    def forget(self, name: str) -> None:
        """A program that is no more."""
        self.fork_servers.forget(name)
        known: dict[str, Any]
        for known in (self._states, self._reserved, self._digests, self._stops):
            known.pop(name, None)
        self._read.pop(name, None)
        self._held.pop(name, None)
        self._pump.forget(name)
        self._save_soon()

    def _save_soon(self) -> None:
        """Many changes at once are written once."""
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_WITHIN, self._save_now)

    def flush(self) -> None:
        """Write down what is not written yet."""
        if self._saving is not None:
            self._saving.cancel()
            self._save_now()

    def _save_now(self) -> None:
        self._saving = None
        try:
            self.save()
        except OSError as error:
            log.get().warning("the state cannot be written: a new daemon would not know of it", error=str(error))

    def save(self) -> None:
        """What a later daemon needs to go on with what we leave, should we be killed. Raises OSError."""
        me = identify(os.getpid())
        names = self.incarnations.keys() | self._reserved.keys() | self._states.keys()
        state: dict[str, Any] = {
            "version": STATE_VERSION,
            "boot": boot_id(),
            "daemon": {"pid": os.getpid(), "started": me.started if me else 0},
            "limits": self._pump.limits,
            "handover": self.handover,
            "programs": {name: self._entry(name) for name in sorted(names)},
        }
        write_atomically(self._runtime / STATE, json.dumps(state).encode())

    def _entry(self, name: str) -> dict[str, Any]:
        living = self.incarnations.get(name)
        pid, started = living.first if living and living.first else (None, None)
        return {
            "cookie": living.cookie if living else "",
            "next": self._reserved.get(name, ""),
            "pid": pid,
            "started": started,
            "fifo": str(living.fifo) if living else "",
            "cgroup": str(living.tree.cgroup) if living and living.tree.cgroup else "",
            "number": living.number if living else 0,
            "digest": self._digests.get(name, ""),
            "warm": living.warm if living else False,
            "port": living.port if living else None,
            "uds": (living.uds if living else None) or "",
            "listener": self._accepting.get(name),
            "began": living.began if living else 0.0,
            "log_from": [living.log_from.segment, living.log_from.offset] if living else [0, 0],
            "baselines": living.baselines if living else [],
            "members": living.expected if living else [],
            "stop": asdict(self._stops[name]) if name in self._stops else None,
            "state": self._states[name][1] if name in self._states else None,
        }

    def inherit(self, former: Former) -> None:
        """Know of everything that a former daemon recorded, to go on with it (``adopt``) or to end it."""
        for name, entry in former.programs.items():
            if entry.next:
                self._reserved[name] = entry.next
            if entry.digest:
                self._digests[name] = entry.digest
            if entry.state is not None:
                self._states[name] = (None, to_record(entry.state))  # until its runner says more
            if not entry.cookie and not entry.next:
                continue
            tree = entry.tree()
            fifo = fifo_of(self._runtime, entry)
            if fifo is not None and (pipe := former.pipes.get(name)) is not None:
                at = os.fstat(pipe)
                tree.fifo = (at.st_dev, at.st_ino)
            self.incarnations[name] = living = Incarnation(
                entry.number,
                entry.cookie,
                tree,
                fifo or fifo_path(self._runtime, entry.cookie or entry.next),
                former.pipes.get(name),
                first=entry.leader,
                expected=entry.members,
                warm=entry.warm,
                port=entry.port,
                uds=entry.uds or None,
                log_from=output.Position(*entry.log_from),
                baselines=list(entry.baselines),
                began=entry.began,
            )
            self._read[name] = (living.log_from, b"")

    def lives(self, name: str) -> bool:
        """Whether any process of it does."""
        return name in self.incarnations and bool(find(self.incarnations[name].tree))

    def running(self) -> dict[str, str]:
        """What the living incarnations were started with, by program: digests."""
        return {name: self._digests[name] for name in self.incarnations if name in self._digests}

    def hand_over(self, more: Mapping[str, Any]) -> None:
        """Leave open and write down what we need ourselves after an exec. Raises OSError."""
        listeners = [(*address, sock.fileno()) for address, sock in self._listeners.items()]
        fifos = {str(one.fifo): one.pipe for one in self.incarnations.values() if one.pipe is not None}
        self.handover = {**more, "listeners": listeners, "fifos": fifos}
        for fd in self._handed_over():
            os.set_inheritable(fd, True)
        self.save()

    def _handed_over(self) -> list[int]:
        if self.handover is None:
            return []
        listeners = [fd for _, _, fd in self.handover["listeners"]]
        return [self.handover["lock"], self.handover["control"], *listeners, *self.handover["fifos"].values()]

    def keep_on(self) -> None:
        """There was no exec after all."""
        for fd in self._handed_over():
            os.set_inheritable(fd, False)
        self.handover = None
        self._save_now()

    def adopt(self, name: str, incarnation: int, post: Callable[[Event], None]) -> Found:
        """See ``World``."""
        living = self.incarnations.get(name)
        if living is None:
            return Found(None, remains=False, began=False)
        living.number = incarnation
        began = living.first is not None
        if living.tree.leader is not None:
            pid, started = living.tree.leader
            living.leader = Child.open(pid, Identity(pid, started, boot_id()))
        if living.leader is not None:
            living.leader.watch(lambda status: post(ev.Exited(incarnation, status)))
            return Found(living.leader.pid, remains=True, began=True)
        remains = bool(find(living.tree))
        if not remains:
            living.tree.leader = None
            if not began:  # nothing was ever recorded of it but the name of its next incarnation
                self._bury(name, living)
        return Found(None, remains=remains, began=began)


def _named(leaving: Departure, found: Diagnosis) -> Failure:
    """What to call a failure: what the log says where it says something, else how the program left."""
    if found.kind == "none" or (found.kind == "unknown" and leaving.cause is not Cause.EXITED):
        return Failure(leaving.cause.value, leaving.summary)
    summary = f"{leaving.summary}: {found.summary}" if found.kind == "unknown" else found.summary
    return Failure(found.kind, summary, found.advice, found.permanent, busy=found.busy)


def _stored_name(address: tuple[str, int]) -> str:
    """What a listening socket is called where the service manager keeps it; a colon separates names there."""
    return f"listener {address[0].replace(':', '_')} {address[1]}"


def _new_cookie(name: str) -> str:
    return f"{name}/{uuid.uuid4().hex}"


def _poster(post: Callable[[Event], None], event: Event) -> Callable[[ExitStatus], None]:
    return lambda _: post(event)


def _signal(row: Row, signum: int) -> None:
    try:
        signal_process(row.pid, row.started, signum)
    except PermissionError:
        pass  # it changed its user; the sweep will name it as left over
