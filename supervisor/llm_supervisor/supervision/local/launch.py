"""Starting an incarnation: what must be free is checked, its pipe and its environment are made, and it is spawned."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from llm_supervisor.core import event as ev
from llm_supervisor.core.failure import Failure
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.host import bounded, scratch
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports
from llm_supervisor.host.output.pump import Pump, make_fifo
from llm_supervisor.host.process import (
    COOKIE,
    PATIENCE,
    Child,
    ForkError,
    SpawnError,
    Tree,
    cgroup,
    find,
    shared_memory,
    spawn,
)
from llm_supervisor.supervision.local.fork_servers import ForkServerPool
from llm_supervisor.supervision.local.gpu_turns import GpuTurns
from llm_supervisor.supervision.local.incarnation import Incarnation
from llm_supervisor.supervision.local.listeners import Listeners, Store, port_taken
from llm_supervisor.supervision.local.teardown import signal_row
from llm_supervisor.supervision.local.watch import DISK_WITHIN, OutputReader
from llm_supervisor.supervision.state_file import StateFile, fifo_path
from llm_supervisor.supervision.world import Launched, Post, SpawnRefused

# What the service manager says to us and nobody else, and what belongs to our own interpreter
_NOT_INHERITED = frozenset(
    """NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_USEC WATCHDOG_PID JOURNAL_STREAM INVOCATION_ID
    SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
    RUNTIME_DIRECTORY LOGS_DIRECTORY STATE_DIRECTORY VIRTUAL_ENV PYTHONHOME __PYVENV_LAUNCHER__""".split()
)
UNKILLABLE = 10.0  # seconds after which what survives SIGKILL is reported
LETTING_GO = 2.0  # seconds that the kernel may take to close the socket of a dead process


class Environments:
    """The variables from which those of a program are made: ``own`` for commands, ``engines`` for vLLM and LiteLLM."""

    def __init__(self, own: Mapping[str, str], engines: Mapping[Kind, Mapping[str, str]]) -> None:
        self.own, self.engines = own, engines

    def of(self, spec: ProgramSpec, cookie: str) -> dict[str, str]:
        """All variables of an incarnation."""
        is_engine = spec.kind is not Kind.COMMAND
        base = self.engines[spec.kind] if is_engine else self.own
        env = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
        if is_engine:
            env.pop("PYTHONPATH", None)
        for name in spec.launch.unset:
            env.pop(name, None)
        return {**env, **dict(spec.launch.env), COOKIE: cookie}


class Launcher:
    """Starts incarnations and puts them into ``incarnations``, by program."""

    def __init__(
        self,
        runtime: Path,
        incarnations: MutableMapping[str, Incarnation],
        pump: Pump,
        store: Store,
        *,
        environments: Environments,
        state_file: StateFile,
        gpu_turns: GpuTurns,
        listeners: Listeners,
        fork_servers: ForkServerPool,
        reader: OutputReader,
    ) -> None:
        self._runtime, self._incarnations, self._pump, self._store = runtime, incarnations, pump, store
        self._environments, self._state_file, self._gpu_turns = environments, state_file, gpu_turns
        self._listeners, self._fork_servers, self._reader = listeners, fork_servers, reader

    def move(self, runtime: Path) -> None:
        """Make pipes in that runtime folder from now on."""
        self._runtime = runtime

    async def spawn(self, spec: ProgramSpec, incarnation: int, post: Post, *, warm: bool) -> Launched:
        """Start the program, warm if asked for and possible; its exit is posted. Raises SpawnRefused."""
        launch = spec.launch
        self._gpu_turns.begin(spec)
        await self._gpu_turns.check_memory(spec)
        baselines = await self._gpu_turns.baselines(spec)
        if launch.port is not None and (error := await _port_error(launch.port)):
            raise port_taken(launch.port, error)
        if spec.kind is Kind.VLLM and launch.uds is not None:
            _make_way(launch.uds)
        sockets = [self._listeners.listen(spec.name, launch.listener)] if launch.listener else []
        living = self._prepare(spec, incarnation, self._reserve_cookie(spec.name))
        living.baselines = baselines
        environment = self._environments.of(spec, living.cookie)
        late = await _scratch(living, environment) if spec.kind is Kind.VLLM else {}
        fds = [sock.fileno() for sock in sockets]
        leader = await self._fork(spec, living, environment, late, fds) if warm else None
        living.warm = leader is not None
        if leader is None:
            await _require_disk(spec, environment)
            leader = _start_cold(spec, living.fifo, {**environment, **late}, fds)
        living.leader = leader
        tree = living.tree
        tree.leader = living.first = (leader.pid, leader.identity.started)
        tree.seen = {tree.leader}
        tree.cgroup = cgroup.enclose(leader.pid, cgroup.name_of(living.cookie))
        leader.watch(lambda status: post(ev.Exited(incarnation, status)))
        self._state_file.cookie_used(spec.name)
        return Launched(leader.pid, living.warm)

    def _reserve_cookie(self, name: str) -> str:
        try:
            return self._state_file.reserve_cookie(name)
        except FileNotFoundError as error:
            raise self._no_runtime_folder(error) from error
        except OSError as error:
            # a daemon that died now would leave a process that no later one could find
            summary = f"the state cannot be written: {error}"
            advice = f"It starts as soon as {self._runtime} can be written again."
            raise SpawnRefused(Failure("state", summary, advice, permanent=False, busy=True)) from error

    def _prepare(self, spec: ProgramSpec, number: int, cookie: str) -> Incarnation:
        """The incarnation without a process: its output is taken from the start. Raises OSError or SpawnRefused, and
        leaves nothing."""
        fifo = fifo_path(self._runtime, cookie)
        try:
            pipe = make_fifo(fifo, spec.launch.pipe_size)
        except FileNotFoundError as error:
            raise self._no_runtime_folder(error) from error
        try:
            self._pump.add(spec.name, pipe)
        except BaseException:
            os.close(pipe)
            fifo.unlink(missing_ok=True)
            raise
        try:
            self._store.store(fifo.name, pipe)
            at = os.fstat(pipe)
            living = Incarnation(
                number,
                cookie,
                Tree(cookie, fifo=(at.st_dev, at.st_ino)),
                fifo,
                pipe,
                port=spec.launch.port,
                uds=spec.launch.uds,
                log_from=self._pump.position(spec.name),
                shm_before=shared_memory.names() if spec.vital else None,
            )
        except BaseException:
            self._pump.remove(pipe)
            fifo.unlink(missing_ok=True)
            raise
        self._incarnations[spec.name] = living
        self._state_file.note_digest(spec.name, spec.digest)
        self._reader.begin(spec.name, living.log_from)
        return living

    def _no_runtime_folder(self, error: FileNotFoundError) -> SpawnRefused:
        """The runtime folder is gone. The daemon makes another one within seconds (``daemon.runtime_folder``), so this
        is no failure of the program."""
        summary = f"the runtime folder is gone: {self._runtime}: {error.strerror}"
        advice = "The daemon makes it again, or uses another folder, within seconds: see its log."
        return SpawnRefused(Failure("runtime", summary, advice, busy=True))

    async def _fork(
        self,
        spec: ProgramSpec,
        living: Incarnation,
        environment: Mapping[str, str],
        late: Mapping[str, str],
        fds: list[int],
    ) -> Child | None:
        """Start from a fork server. None where there is none, or it did not work; then no process of it is left.

        Raises SpawnRefused where a process of it survives SIGKILL."""
        try:
            pid = await self._fork_servers.fork(
                spec.name,
                spec.launch,
                environment,
                late=late,
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
                signal_row(row, signal.SIGKILL)
            if loop.time() >= end:
                who = ", ".join(f"{row.comm} (pid {row.pid})" for row in left)
                summary = f"what a warm start has left survives SIGKILL: {who}"
                raise SpawnRefused(Failure("unkillable", summary, busy=True))
            await asyncio.sleep(0.01)
        return None


async def _scratch(living: Incarnation, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Make the folder of its temporary files; the variables that lead there. None where it cannot be made."""
    try:
        living.scratch = await bounded.ask(
            f"the folder {scratch.usual(environment)}",
            lambda: scratch.make(environment, living.cookie),
            within=DISK_WITHIN,
        )
    except OSError:
        return {}  # then they are where they would be anyway
    return scratch.variables(living.scratch, environment)


async def _require_disk(spec: ProgramSpec, environment: Mapping[str, str]) -> None:
    """Read what a cold start reads: on a disk that does not answer, the exec would hang, and we with it. Raises
    SpawnRefused."""
    argv, cwd = spec.launch.argv, spec.launch.cwd

    def read() -> None:
        with contextlib.suppress(OSError):  # the start itself says what is wrong
            if cwd is not None:
                os.stat(cwd)
            program = argv[0] if "/" in argv[0] else shutil.which(argv[0], path=environment.get("PATH", os.defpath))
            if program is not None:
                with open(program, "rb") as file:
                    file.read(1)

    try:
        await bounded.ask(f"the disk of {cwd or argv[0]}", read, within=DISK_WITHIN)
    except bounded.NoAnswer as silent:
        advice = (
            "It waits until the disk answers, without counting it as a failure. Is it mounted, and its server there?"
        )
        raise SpawnRefused(Failure("disk_silent", str(silent), advice, permanent=False, busy=True)) from silent


def _start_cold(spec: ProgramSpec, fifo: Path, environment: Mapping[str, str], fds: list[int]) -> Child:
    """Fork and exec. Raises SpawnRefused."""
    launch = spec.launch
    try:
        pid = spawn(launch.argv, environment, output=fifo, cwd=launch.cwd, pass_fds=fds)
    except SpawnError as error:
        advice = "Correct the command, or install it." if error.permanent else "It is tried again until it works."
        failure = Failure("spawn_failed", str(error), advice, permanent=error.permanent, busy=not error.permanent)
        raise SpawnRefused(failure) from error
    leader = Child.open(pid)
    assert leader is not None, "nobody else reaps, so a fresh child is there at least as a zombie"
    return leader


async def _port_error(port: int) -> OSError | None:
    """Why the port cannot be bound; None when it can.

    A killed process of many threads can be a zombie while its last thread still holds the socket: where nobody is found
    to hold the port, the kernel gets a moment to close it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LETTING_GO
    while (error := net_listener.can_bind("127.0.0.1", port)) is not None:
        holder = net_ports.holder(port)
        if (holder is not None and holder.pid is not None) or loop.time() >= end:
            return error
        await asyncio.sleep(0.05)  # looking for a holder reads every process
    return None


def _make_way(uds: str) -> None:
    """Remove a dead process's socket: vLLM cannot bind where one is. Raises SpawnRefused where one is in use."""
    try:
        used = net_listener.answers(uds)
        if not used:
            Path(uds).unlink(missing_ok=True)
    except OSError as error:
        advice = "Choose another place for `uds`: a path of at most 107 bytes in a folder of this user."
        raise SpawnRefused(Failure("uds", f"{uds}: {error.strerror or error}", advice, permanent=True)) from error
    if used:
        advice = "End it, or choose another place for `uds`."
        raise SpawnRefused(Failure("port_taken", f"{uds} is in use: another process answers there", advice, busy=True))
