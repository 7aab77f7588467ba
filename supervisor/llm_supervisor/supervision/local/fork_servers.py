"""The fork servers of a daemon: processes that have imported an engine, from which its next start is forked.

A fork server is made only after its program was ready once, so that no start is slower for it. When one is made,
believed and dropped is decided by ``core.fork_policy``; here it is done.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_supervisor.control.protocol import ForkServerBody
from llm_supervisor.core import fork_policy
from llm_supervisor.core.fork_policy import NO_EXPERIENCE, Choice, Life, Seen, Trust
from llm_supervisor.core.spec import Launch
from llm_supervisor.host import bounded, log, memory
from llm_supervisor.host.process import COOKIE, ForkError, ForkServer, SpawnError

MAINTAIN_EVERY = 15.0  # seconds between two calls of ``maintain``
MEMORY_LOOK = 5.0  # seconds for which a measurement of a fork server's memory is used
DEATH = 5.0  # seconds that a killed fork server may take to die

# What must be the same for two programs to share a fork server: its command, and the environment in which it imports
Key = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclass
class _Kind:
    """One kind of fork server: how it is made, its present process if there is one, and what is remembered of it."""

    argv: tuple[str, ...]
    env: dict[str, str]
    name: str  # of the program that wanted it first
    server: ForkServer | None = None
    task: asyncio.Task[None] | None = None  # which starts it and waits until it has imported
    ready: bool = False
    state: str = "off"  # off, starting, ready: for people
    reason: str = ""
    trust: Trust = NO_EXPERIENCE
    import_took: float | None = None  # seconds
    forks: int = 0  # of all processes of this kind
    memory: int | None = None  # bytes, as measured at ``measured_at``
    measured_at: float = float("-inf")
    measuring: asyncio.Task[None] | None = None

    @property
    def life(self) -> Life:
        """Where its process is."""
        if self.server is not None and self.server.dead is not None:
            return Life.DEAD
        if self.ready:
            return Life.READY
        return Life.NONE if self.task is None and self.server is None else Life.IMPORTING


class ForkServerPool:
    """All fork servers of a daemon. One serves all programs whose import-time environment is the same.

    ``logs`` is the folder for what they write while they import; ``starting`` returns the programs that start now.
    """

    def __init__(self, logs: Path, starting: Callable[[], Collection[str]] = tuple) -> None:
        self._logs, self._starting = logs, starting
        self._kinds: dict[Key, _Kind] = {}
        self._wanted: dict[str, Key] = {}  # by program
        self._dying: list[ForkServer] = []

    def move(self, logs: Path) -> None:
        """Write what the next ones say to that folder."""
        self._logs = logs

    def want(self, name: str, launch: Launch, env: Mapping[str, str]) -> None:
        """The program is ready: from now on its next start may be warm."""
        if not launch.warm:
            self.forget(name)
            return
        key = _key(launch, env)
        self._wanted[name] = key
        self._kinds.setdefault(key, _Kind(launch.warm, dict(key[1]), name))
        self._drop_unneeded()
        for kind in self._kinds.values():  # some may have waited for this program
            self._make(kind, just_ready=name)

    def forget(self, name: str) -> None:
        """The program needs no fork server any more."""
        if self._wanted.pop(name, None) is not None:
            self._drop_unneeded()

    def succeeded(self, name: str) -> None:
        """A warm start of that program became ready."""
        if (kind := self._of(name)) is not None:
            kind.trust = fork_policy.start_succeeded(kind.trust)

    def distrust(self, name: str, why: str) -> None:
        """A warm start of that program failed."""
        if (kind := self._of(name)) is not None:
            self._failed(kind, f"a start from it failed: {why}", counts=True)

    async def fork(
        self,
        name: str,
        launch: Launch,
        env: Mapping[str, str],
        *,
        cookie: str,
        output: Path,
        pass_fds: Sequence[int],
        late: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> int | None:
        """Fork the program; its pid, or None where there is no fork server that is ready. ``late`` are variables beside
        those in which the fork server has imported it. ``patience`` in seconds.

        Raises ForkError, and then something may have been started all the same."""
        kind = self._kinds.get(_key(launch, env)) if launch.warm else None
        if kind is None or (server := kind.server) is None or not kind.ready:
            return None
        try:
            pid = await server.fork(
                launch.argv,
                {**env, **dict(launch.warm_env), **(late or {})},
                cookie=cookie,
                output=output,
                cwd=launch.cwd,
                pass_fds=pass_fds,
                patience=patience,
            )
        except ForkError as error:
            if kind.server is server:  # otherwise another one has taken its place, which has done nothing wrong
                self._failed(kind, str(error), counts=not error.stale)
            raise
        kind.forks += 1
        return pid

    def maintain(self) -> None:
        """Drop the fork servers that are dead or used up, and make those that are missing. Call it every
        ``MAINTAIN_EVERY`` seconds."""
        available = memory.available()
        for kind in self._kinds.values():
            if (why := fork_policy.why_drop(self._see(kind, available))) is not None:
                self._drop(kind, why)
            if kind.life is Life.NONE and available >= fork_policy.LEAST_ROOM:
                self._make(kind)

    def status(self, name: str) -> ForkServerBody | None:
        """The program's fork server for the status; None for a program that is always started cold."""
        kind = self._of(name)
        if kind is None:
            return None
        self._drop_if_dead(kind)
        pid = kind.server.pid if kind.server is not None else None
        return {
            "state": kind.state,
            "reason": kind.reason,
            "pid": pid,
            "memory_bytes": self._memory(kind),
            "forks": kind.forks,
            "import_s": kind.import_took,
        }

    def pids(self) -> set[int]:
        """The pids of all whose death was not noticed yet."""
        servers = (*self._dying, *(kind.server for kind in self._kinds.values()))
        return {server.pid for server in servers if server is not None and server.dead is None}

    async def close(self) -> None:
        """Drop all of them, and wait until they are dead, at most ``DEATH`` seconds."""
        for kind in self._kinds.values():
            self._drop(kind, "the daemon ends")
        end = time.monotonic() + DEATH
        while any(one.dead is None for one in self._dying) and time.monotonic() < end:
            await asyncio.sleep(0.01)

    def _of(self, name: str) -> _Kind | None:
        key = self._wanted.get(name)
        return None if key is None else self._kinds.get(key)

    def _see(self, kind: _Kind, available: int, just_ready: str = "") -> Seen:
        """``just_ready`` is a program that has become ready just now, and may still be listed as starting."""
        return Seen(
            now=time.monotonic(),
            life=kind.life,
            available=available,
            forks=kind.server.forks if kind.server is not None else 0,
            death=str(kind.server.dead) if kind.server is not None else "",
            starting=frozenset(self._starting()) - {just_ready},
            packages=_packages(kind.argv[0]) if kind.trust.given_up else (),
        )

    def _make(self, kind: _Kind, just_ready: str = "") -> None:
        """Make it in the background, if the policy says so."""
        self._drop_if_dead(kind)
        decision = fork_policy.decide(kind.trust, self._see(kind, memory.available(), just_ready))
        kind.trust = decision.trust
        match decision.choice:
            case Choice.WAIT:
                kind.state, kind.reason = "off", decision.reason
            case Choice.MAKE:
                kind.state, kind.reason = "starting", ""
                log.get().info("fork server starts", program=kind.name)
                kind.task = asyncio.create_task(self._import(kind))

    async def _import(self, kind: _Kind) -> None:
        began = time.monotonic()
        try:
            kind.server = ForkServer.start(kind.argv, kind.env, self._logs / f"{kind.name}.log")
            await kind.server.ready()
        except (ForkError, SpawnError, OSError) as error:
            kind.trust = fork_policy.import_failed(kind.trust, time.monotonic())
            kind.task = None
            self._drop(kind, f"it could not import: {error}")
        else:
            kind.ready, kind.state, kind.reason = True, "ready", ""
            kind.import_took = time.monotonic() - began
            kind.trust, kind.task = fork_policy.import_succeeded(kind.trust), None
            self._measure_soon(kind)

    def _failed(self, kind: _Kind, why: str, *, counts: bool) -> None:
        kind.trust = fork_policy.start_failed(kind.trust, _packages(kind.argv[0]), counts=counts)
        self._drop(kind, fork_policy.why_failed(kind.trust, why))

    def _drop_if_dead(self, kind: _Kind) -> None:
        if kind.server is not None and kind.server.dead is not None:
            self._drop(kind, f"it {kind.server.dead}")

    def _drop_unneeded(self) -> None:
        for key in self._kinds.keys() - set(self._wanted.values()):
            self._drop(self._kinds.pop(key), "no program needs it")

    def _drop(self, kind: _Kind, why: str) -> None:
        kind.ready, kind.state, kind.reason = False, "off", why
        if kind.task is not None:  # it still imports
            kind.task.cancel()
            kind.task = None
        if kind.server is not None:
            log.get().info("fork server ended", program=kind.name, pid=kind.server.pid, why=why)
            kind.server.close()
            self._dying = [one for one in (*self._dying, kind.server) if one.dead is None]
            kind.server = None
            kind.memory, kind.measured_at = None, float("-inf")

    def _memory(self, kind: _Kind) -> int | None:
        """Its proportional share in bytes: what it costs beside the programs that were forked from it, as measured
        last. The kernel counts its pages for 10 ms, during which nothing else should have to wait."""
        if kind.server is None:
            return None
        if time.monotonic() - kind.measured_at > MEMORY_LOOK:
            self._measure_soon(kind)
        return kind.memory

    def _measure_soon(self, kind: _Kind) -> None:
        async def measure(pid: int) -> None:
            try:
                share = await bounded.ask(f"process {pid} (fork server)", memory.share, pid, within=MEMORY_LOOK)
            except OSError:
                share = None
            finally:
                kind.measuring = None
            if kind.server is not None and kind.server.pid == pid:
                kind.memory, kind.measured_at = share, time.monotonic()

        if kind.server is not None and kind.measuring is None:
            kind.measuring = asyncio.create_task(measure(kind.server.pid))


def _key(launch: Launch, env: Mapping[str, str]) -> Key:
    """What must be the same at import time; the rest is set after the fork."""
    late = launch.late | {COOKIE}
    return launch.warm, tuple(sorted((name, value) for name, value in env.items() if name not in late))


def _packages(python: str) -> tuple[object, ...]:
    """A value that differs for another set of packages in the environment of that interpreter."""
    folders = sorted(Path(python).parent.parent.glob("lib/python3*/site-packages"))
    return tuple((str(folder), tuple(sorted(os.listdir(folder)))) for folder in folders)
