"""Becomes another version of the daemon in the same process: first a rehearsal in a child, then exec.

What survives an exec: the pid, the children, the subreaper's role, blocked signals, and every descriptor that is made
inheritable. Threads do not, so the output's pump stands still meanwhile, and what children write waits in their pipes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llm_supervisor import __version__, paths
from llm_supervisor.config import ConfigError, load, plan
from llm_supervisor.config.last_good import known_pythons, last_good
from llm_supervisor.control.protocol import UpgradeBody
from llm_supervisor.daemon.bootstrap import SIGNALS, Bootstrap
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.host import bounded, log
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import find_pythons

PATIENCE = 60.0  # seconds that a rehearsal may take
FLAG = "--rehearse"
SPAWNS_WAIT = 10.0  # seconds that an upgrade waits for starts that are being made
LAST_ANSWER = 0.05  # seconds between the decision and the end of the control server: the answer is on its way
# What the service manager told the process before the exec, and what holds no more after it
_STALE = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class Unfit(Exception):
    """The new code would not work; the text is for people."""


def command() -> list[str]:
    """The command line of this daemon, to be run again. The interpreter is given by its name, which may lead to another
    one by now."""
    return [sys.executable, *sys.orig_argv[1:]]


def environment() -> dict[str, str]:
    """The environment variables for the process after the exec."""
    return {name: value for name, value in os.environ.items() if name not in _STALE}


def rehearse() -> str:
    """Let the code that is installed now import itself, read the configuration, and read the state file; return its
    version. Raises Unfit. Blocks for up to ``PATIENCE`` seconds: run it in a thread."""
    try:
        done = subprocess.run(
            [*command(), FLAG],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the new code does not start: {error}") from error
    try:
        # not the exit status: as the subreaper we may have been quicker to fetch that
        said = json.loads(done.stdout.strip().rpartition("\n")[2])
        return str(said["rehearsed"])
    except (ValueError, KeyError, TypeError):
        said = (done.stderr or done.stdout).strip() or "it says nothing"
        raise Unfit(f"the new code does not pass the rehearsal: {said[-2000:]}") from None


def perform(files: Sequence[Path], runtime: Path, environ: Mapping[str, str]) -> int:
    """The rehearsal, in the new code: exit status, with one line of JSON on success. Changes nothing."""
    try:
        config = load(files, environ)
    except ConfigError as error:
        if (last := last_good(runtime, environ)) is None:
            raise
        config = last
        print(f"{error}\n(would go on with the last good configuration of {last.file})", file=sys.stderr)
    pythons = find_pythons(config, paths.data_dir(environ), known_pythons(runtime))
    plan(config, runtime=runtime, pythons=pythons, master_key="")
    former = fm.read(runtime)
    unread = [name for name, entry in former.programs.items() if entry.state is None] if former else []
    if former is None or unread:
        print(f"what the daemon wrote down cannot be read: {', '.join(unread) or runtime / fm.STATE}", file=sys.stderr)
        return 1
    print(json.dumps({"rehearsed": __version__}))
    return 0


class Upgrade:
    """Becomes the version that is installed now, when that passes its rehearsal.

    ``reloading`` and ``replacing`` are held for the rehearsal, so that no reload and no replacement of a replica is in
    hand then. ``handover`` returns what the next version is to know, from the descriptors of the lock and of
    the control socket and the number of upgrades; ``close_door`` ends the
    control server.
    """

    def __init__(
        self,
        bootstrap: Bootstrap,
        world: LocalWorld,
        runners: Runners,
        lifecycle: Lifecycle,
        reloading: asyncio.Lock,
        replacing: asyncio.Lock,
        *,
        handover: Callable[[int, int, int], fm.Handover],
        close_door: Callable[[], None],
    ) -> None:
        self._bootstrap, self._world = bootstrap, world
        self._runners, self._lifecycle = runners, lifecycle
        self._reloading, self._replacing = reloading, replacing
        self._handover, self._close_door = handover, close_door
        self._log = log.get()
        former = bootstrap.former.handover
        self.done = former.upgrades if former is not None else 0  # upgrades since the first start

    async def upgrade(self) -> UpgradeBody:
        """Rehearse the code that is installed now; if it passes, become it soon. The answer of ``POST /v1/upgrade``."""
        async with self._reloading, self._replacing:
            if (refusal := self._refusal()) is not None:
                return refusal
            try:
                self._world.save()
                version = await bounded.ask("the rehearsal of the new code", rehearse, within=PATIENCE + 5.0)
            except (Unfit, OSError) as error:
                self._log.error("not upgraded: everything stays as it is", error=str(error))
                return {"ok": False, "error": str(error)}
            if (refusal := self._refusal()) is not None:
                return refusal  # a rehearsal takes long enough for another request
            self._log.info("upgrading", version=version)
            self._lifecycle.hand_over()
        self._lifecycle.soon(self._end_serving())
        return {"ok": True, "version": version, "upgrades": self.done}

    async def by_signal(self) -> None:
        """Upgrade as SIGUSR2 asks for it: the answer is in the log."""
        await self.upgrade()

    def _refusal(self) -> UpgradeBody | None:
        """The answer where something else was asked for first."""
        if self._lifecycle.ending:
            return {"ok": False, "error": "the daemon is about to end"}
        if self._lifecycle.handing_over:
            return {"ok": False, "error": "it becomes another version already"}
        if silent := bounded.not_answering():
            # the kernel lets nobody exec whose threads hang in it
            names = ", ".join(thing for thing, _ in silent)
            return {
                "ok": False,
                "error": f"it waits for an answer of {names}; before that it cannot be replaced",
            }
        return None

    async def _end_serving(self) -> None:
        """End the control server after the answer that is on its way. Not when the daemon ends: then somebody waits to
        be told that it has."""
        await asyncio.sleep(LAST_ANSWER)
        if not self._lifecycle.ending:
            self._close_door()

    async def become(self, door: socket.socket) -> None:
        """Exec; ``door`` is the control socket. Returns only when that did not work, or when the daemon was told to
        end; then everything is as it was."""
        await self._let_starts_finish()
        async with self._replacing:
            pass  # everybody who waited to replace a replica had his turn, and has put it off
        await self._world.fork_servers.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for _ in range(3):
            await asyncio.sleep(0)  # let the loop handle a signal that came before it was blocked
        if self._lifecycle.ending:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return
        argv = command()
        try:
            self._bootstrap.pump.halt()
            door.set_inheritable(True)
            os.set_inheritable(self._bootstrap.lock, True)
            self._world.hand_over(self._handover(self._bootstrap.lock, door.fileno(), self.done + 1))
            sys.stdout.flush()
            os.execve(argv[0], argv, environment())
        except Exception as error:
            defect = not isinstance(error, OSError)
            self._log.error("not upgraded: exec failed", error=str(error), argv=argv, exc_info=defect)
        self._world.keep_on()
        self._bootstrap.pump.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    async def _let_starts_finish(self) -> None:
        """Wait, ``SPAWNS_WAIT`` seconds at most, until no start is being made: one that is not in the state file yet
        would be swept by the next version."""
        try:
            async with asyncio.timeout(SPAWNS_WAIT):
                states = self._runners.states
                await self._runners.until(
                    lambda: self._lifecycle.ending or not any(one.startup.spawning for one in states.values())
                )
        except TimeoutError:
            pass
