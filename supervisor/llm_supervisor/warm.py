"""Fork servers: which there are, when one is started, and when it is no longer trusted.

A fork server is never a new way to fail. It is started only after the program was ready once, so that no start is
slower for it; whoever doubts it (it died, it does not answer, a file has changed, a start from it failed, memory is
short, it has forked often) ends it, and the next start is cold while another one is made in the background.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_supervisor.core.spec import Launch
from llm_supervisor.host import log, memory
from llm_supervisor.host.process import COOKIE, ForkError, ForkServer, SpawnError

MAX_FORKS = 100  # then another one takes its place
START_ROOM = 3 * 1024**3  # bytes that must be available to start one
LEAST_ROOM = 1024**3  # bytes below which all are ended
TEND = 15.0  # seconds between two looks
MEMORY_LOOK = 5.0  # seconds
DEATH = 5.0  # seconds that a killed one may take
DISTRUST = 3  # so many in a row that a start failed with, and there is no other


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
        nursery = self._all.setdefault(key, _Nursery(launch.warm, dict(key[1]), name))
        self._start(nursery)
        self._end_unneeded()

    def forget(self, name: str) -> None:
        """That program needs none any more."""
        if self._wanted.pop(name, None) is not None:
            self._end_unneeded()

    def _end_unneeded(self) -> None:
        for old in self._all.keys() - set(self._wanted.values()):
            nursery = self._all.pop(old)
            if nursery.task is not None:
                nursery.task.cancel()
            self._end(nursery, "nobody needs it")

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
    ) -> int | None:
        """The pid of a warm start; None where there is none to be had. Raises ForkError where something may have been
        started all the same."""
        nursery = self._all.get(_key(launch, env)) if launch.warm else None
        if nursery is None or nursery.server is None or not nursery.ready:
            return None
        try:
            pid = await nursery.server.fork(
                launch.argv,
                {**env, **dict(launch.warm_env)},
                cookie=cookie,
                output=output,
                cwd=launch.cwd,
                pass_fds=pass_fds,
            )
        except ForkError as error:
            self._end(nursery, str(error))
            raise
        nursery.forks += 1
        return pid

    def distrust(self, name: str, why: str) -> None:
        """A warm start of that program failed."""
        if (nursery := self._of(name)) is not None:
            nursery.failures += 1
            self._end(nursery, f"a start from it failed: {why}")

    def _of(self, name: str) -> _Nursery | None:
        key = self._wanted.get(name)
        return None if key is None else self._all.get(key)

    def _start(self, nursery: _Nursery) -> None:
        """In the background, if it may and is not there."""
        if nursery.task is not None or (nursery.server is not None and nursery.server.dead is None):
            return
        if nursery.failures >= DISTRUST:
            nursery.state, nursery.reason = "off", f"{nursery.failures} starts from it failed: {nursery.reason}"
            return
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
            nursery.failures += 1
            self._end(nursery, str(error))
        else:
            nursery.ready, nursery.state, nursery.reason = True, "ready", ""
            nursery.took = time.monotonic() - began
            self._weigh_soon(nursery)
        finally:
            nursery.task = None

    def _end(self, nursery: _Nursery, why: str) -> None:
        nursery.ready, nursery.state, nursery.reason = False, "off", why
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

    def status(self, name: str) -> dict[str, object] | None:
        """What people may know; None for a program that is always started cold."""
        nursery = self._of(name)
        if nursery is None:
            return None
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

    async def close(self) -> None:
        """End all of them, and wait until they are gone."""
        for nursery in self._all.values():
            if nursery.task is not None:
                nursery.task.cancel()
            self._end(nursery, "the daemon ends")
        end = time.monotonic() + DEATH
        while any(one.dead is None for one in self._dying) and time.monotonic() < end:
            await asyncio.sleep(0.01)


def _key(launch: Launch, env: Mapping[str, str]) -> Key:
    """What must be the same at import time; the rest is set after the fork."""
    late = launch.late | {COOKIE}
    return launch.warm, tuple(sorted((name, value) for name, value in env.items() if name not in late))
