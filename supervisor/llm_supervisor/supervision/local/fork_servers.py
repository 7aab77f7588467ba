"""Fork servers: which there are, when one is started, and when it is no longer trusted.

A fork server is never a new way to fail. It is started only after the program was ready once, so that no start is
slower for it; whoever doubts it (it died, it does not answer, a file has changed, a start from it failed, memory is
short, it has forked often) ends it, and the next start is cold while another one is made in the background.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_supervisor.control.protocol import ForkServerBody
from llm_supervisor.core.spec import Launch
from llm_supervisor.host import log, memory
from llm_supervisor.host.process import COOKIE, ForkError, ForkServer, SpawnError

MAX_FORKS = 100  # then another one takes its place
START_ROOM = 3 * 1024**3  # bytes that must be available to start one
LEAST_ROOM = 1024**3  # bytes below which all are ended
TEND = 15.0  # seconds between two looks
MEMORY_LOOK = 5.0  # seconds
DEATH = 5.0  # seconds that a killed one may take
DISTRUST = 3  # so many in a row that a start failed with, and there is no other until its packages change
IMPORT_PAUSE, IMPORT_PAUSE_CAP = 15.0, 1800.0  # seconds after an import that failed, doubled with each
HOLD_OFF = 300.0  # seconds that one waits, at most, for programs that start: two cores import slowly enough for them


@dataclass
class _Nursery:
    """What is known of one kind of fork server."""

    argv: tuple[str, ...]
    env: dict[str, str]
    name: str
    server: ForkServer | None = None
    ready: bool = False
    state: str = "off"
    reason: str = ""
    failures: int = 0  # starts from it that failed, in a row
    distrusted: tuple[object, ...] = ()  # its environment when too many of them had
    imports: int = 0  # imports that failed, in a row
    not_before: float = float("-inf")  # when it may import again
    held_off: float | None = None  # since when it waits for others
    task: asyncio.Task[None] | None = None
    took: float | None = None
    forks: int = 0  # of all of them
    memory: int | None = None  # bytes, when they were looked at last
    weighed_at: float = float("-inf")
    weighing: asyncio.Task[None] | None = None


Key = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclass
class Nurseries:
    """All fork servers of a daemon. One serves all programs whose import-time environment is the same. ``logs`` is the
    folder for what they say while they import."""

    logs: Path
    starting: Callable[[], Collection[str]] = tuple  # the programs that start just now
    _all: dict[Key, _Nursery] = field(default_factory=dict)
    _wanted: dict[str, Key] = field(default_factory=dict)  # by program
    _dying: list[ForkServer] = field(default_factory=list)

    def want(self, name: str, launch: Launch, env: Mapping[str, str]) -> None:
        """The program is ready: from now on its next start may be warm."""
        if not launch.warm:
            self.forget(name)
            return
        key = _key(launch, env)
        self._wanted[name] = key
        self._all.setdefault(key, _Nursery(launch.warm, dict(key[1]), name))
        self._end_unneeded()
        for nursery in self._all.values():  # some may have waited for this program
            self._start(nursery, ready=name)

    def forget(self, name: str) -> None:
        """That program needs none any more."""
        if self._wanted.pop(name, None) is not None:
            self._end_unneeded()

    def _end_unneeded(self) -> None:
        for old in self._all.keys() - set(self._wanted.values()):
            self._end(self._all.pop(old), "nobody needs it")

    def succeeded(self, name: str) -> None:
        """A warm start of that program was ready."""
        if (nursery := self._of(name)) is not None:
            nursery.failures = 0

    async def fork(
        self,
        name: str,
        launch: Launch,
        env: Mapping[str, str],
        *,
        cookie: str,
        output: Path,
        pass_fds: Sequence[int],
        patience: float | None = None,
    ) -> int | None:
        """The pid of a warm start; None where there is none to be had. Raises ForkError where something may have been
        started all the same."""
        nursery = self._all.get(_key(launch, env)) if launch.warm else None
        if nursery is None or (server := nursery.server) is None or not nursery.ready:
            return None
        try:
            pid = await server.fork(
                launch.argv,
                {**env, **dict(launch.warm_env)},
                cookie=cookie,
                output=output,
                cwd=launch.cwd,
                pass_fds=pass_fds,
                patience=patience,
            )
        except ForkError as error:
            if nursery.server is server:  # else it is another one by now, which has done nothing wrong
                self._failed(nursery, str(error), counts=not error.stale)
            raise
        nursery.forks += 1
        return pid

    def distrust(self, name: str, why: str) -> None:
        """A warm start of that program failed."""
        if (nursery := self._of(name)) is not None:
            self._failed(nursery, f"a start from it failed: {why}", counts=True)

    def _failed(self, nursery: _Nursery, why: str, *, counts: bool) -> None:
        nursery.failures += counts
        if nursery.failures >= DISTRUST:
            nursery.distrusted = _packages(nursery.argv[0])
            why = f"{nursery.failures} starts from it failed: {why}"
        self._end(nursery, why)

    def _of(self, name: str) -> _Nursery | None:
        key = self._wanted.get(name)
        return None if key is None else self._all.get(key)

    def _start(self, nursery: _Nursery, ready: str = "") -> None:
        """In the background, if it may and is not there. ``ready`` is a program that has just become that."""
        if nursery.task is not None or (nursery.server is not None and nursery.server.dead is None):
            return
        now = time.monotonic()
        if nursery.failures >= DISTRUST:
            if _packages(nursery.argv[0]) == nursery.distrusted:
                return
            nursery.failures = 0
        if now < nursery.not_before:
            return
        if others := sorted({*self.starting()} - {ready}):
            nursery.held_off = now if nursery.held_off is None else nursery.held_off
            if now < nursery.held_off + HOLD_OFF:
                nursery.state, nursery.reason = "off", f"waits until {', '.join(others)} has started"
                return
        nursery.held_off = None
        if (room := memory.available()) < START_ROOM:
            nursery.state = "off"
            nursery.reason = f"{room // 2**20} MiB of memory are available, less than {START_ROOM // 2**20}"
            return
        nursery.state, nursery.reason = "starting", ""
        log.get().info("fork server starts", program=nursery.name)
        nursery.task = asyncio.create_task(self._import(nursery))

    async def _import(self, nursery: _Nursery) -> None:
        began = time.monotonic()
        try:
            nursery.server = ForkServer.start(nursery.argv, nursery.env, self.logs / f"{nursery.name}.log")
            await nursery.server.ready()
        except (ForkError, SpawnError, OSError) as error:
            pause = min(IMPORT_PAUSE * 2**nursery.imports, IMPORT_PAUSE_CAP)
            nursery.imports += 1
            nursery.not_before = time.monotonic() + pause
            nursery.task = None
            self._end(nursery, f"it could not import: {error}")
        else:
            nursery.ready, nursery.state, nursery.reason = True, "ready", ""
            nursery.took = time.monotonic() - began
            nursery.imports, nursery.task = 0, None
            self._weigh_soon(nursery)

    def _end(self, nursery: _Nursery, why: str) -> None:
        nursery.ready, nursery.state, nursery.reason = False, "off", why
        if nursery.task is not None:  # it imports still
            nursery.task.cancel()
            nursery.task = None
        if nursery.server is not None:
            log.get().info("fork server ended", program=nursery.name, pid=nursery.server.pid, why=why)
            nursery.server.close()
            self._dying = [one for one in (*self._dying, nursery.server) if one.dead is None]
            nursery.server = None
            nursery.memory, nursery.weighed_at = None, float("-inf")

    def tend(self) -> None:
        """Look after them: call every now and then."""
        short = memory.available() < LEAST_ROOM
        for nursery in self._all.values():
            server = nursery.server
            if server is not None and server.dead is not None:
                self._end(nursery, f"it {server.dead}")
            elif server is not None and nursery.ready and server.forks >= MAX_FORKS:
                self._end(nursery, f"it has forked {server.forks} times")
            elif server is not None and short:
                self._end(nursery, "memory is short")
            if nursery.server is None and nursery.task is None and not short:
                self._start(nursery)

    def status(self, name: str) -> ForkServerBody | None:
        """What people may know; None for a program that is always started cold."""
        nursery = self._of(name)
        if nursery is None:
            return None
        if nursery.server is not None and nursery.server.dead is not None:
            self._end(nursery, f"it {nursery.server.dead}")
        pid = nursery.server.pid if nursery.server is not None else None
        return {
            "state": nursery.state,
            "reason": nursery.reason,
            "pid": pid,
            "memory_bytes": self._memory(nursery),
            "forks": nursery.forks,
            "import_s": nursery.took,
        }

    def _memory(self, nursery: _Nursery) -> int | None:
        """Its proportional share: what it costs beside those that it has forked, as it was when it was asked for the
        last time. The kernel counts its pages for it, for 10 ms, in which nothing else should have to wait."""
        if nursery.server is None:
            return None
        if time.monotonic() - nursery.weighed_at > MEMORY_LOOK:
            self._weigh_soon(nursery)
        return nursery.memory

    def _weigh_soon(self, nursery: _Nursery) -> None:
        async def weigh(pid: int) -> None:
            weight = await asyncio.to_thread(memory.share, pid)
            nursery.weighing = None
            if nursery.server is not None and nursery.server.pid == pid:
                nursery.memory, nursery.weighed_at = weight, time.monotonic()

        if nursery.server is not None and nursery.weighing is None:
            nursery.weighing = asyncio.create_task(weigh(nursery.server.pid))

    def pids(self) -> set[int]:
        """Of all that are not dead, or nobody has been told so yet."""
        servers = (*self._dying, *(one.server for one in self._all.values()))
        return {server.pid for server in servers if server is not None and server.dead is None}

    async def close(self) -> None:
        """End all of them, and wait until they are gone."""
        for nursery in self._all.values():
            self._end(nursery, "the daemon ends")
        end = time.monotonic() + DEATH
        while any(one.dead is None for one in self._dying) and time.monotonic() < end:
            await asyncio.sleep(0.01)


def _key(launch: Launch, env: Mapping[str, str]) -> Key:
    """What must be the same at import time; the rest is set after the fork."""
    late = launch.late | {COOKIE}
    return launch.warm, tuple(sorted((name, value) for name, value in env.items() if name not in late))


def _packages(python: str) -> tuple[object, ...]:
    """Other for another set of packages in that interpreter's environment."""
    folders = sorted(Path(python).parent.parent.glob("lib/python3*/site-packages"))
    return tuple((str(folder), tuple(sorted(os.listdir(folder)))) for folder in folders)
