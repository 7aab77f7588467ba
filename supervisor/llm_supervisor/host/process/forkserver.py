"""A process of ours that has imported an engine and forks it on demand; its other end is
``engines.inside.fork_server``.

What it forks is re-parented to us (we are the subreaper), so to everybody else it is a child like one that was
spawned: it has a pid, a session, a cookie in its environment, and its output in our FIFO.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_supervisor.core.failure import ExitStatus
from llm_supervisor.host.process.child import Child, SpawnError, spawn
from llm_supervisor.host.process.table import COOKIE, NO_COOKIE

# What stands in the fork server's environment where its children's cookies will be written
COOKIE_ROOM = 192
PATIENCE = 15.0  # seconds for an answer
_ANSWER_BYTES = 64 * 1024


class ForkError(Exception):
    """It did not fork; the text says why. ``lasting``: nor will it another time."""

    def __init__(self, text: str, *, lasting: bool = True) -> None:
        super().__init__(text)
        self.lasting = lasting


class ForkServer:
    """One fork server, from its start to its end. Not for use by two at once."""

    def __init__(self, child: Child, sock: socket.socket) -> None:
        self._child, self._sock = child, sock
        self.forks = 0
        self.dead: ExitStatus | None = None
        child.watch(self._died)

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str], log: Path) -> ForkServer:
        """Start importing. ``log`` is where what it says goes. Raises SpawnError or OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            # setproctitle must not write over the environment's place, where the cookies will be
            env = {**env, COOKIE: NO_COOKIE.ljust(COOKIE_ROOM, "."), "SPT_NOENV": "1"}
            pid = spawn(argv, env, output=log, pass_fds=[theirs.fileno()])
            child = Child.open(pid)
            if child is None:
                raise SpawnError("the fork server died at once", permanent=False)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(child, ours)

    @property
    def pid(self) -> int:
        """Its pid; it may be dead."""
        return self._child.pid

    def _died(self, status: ExitStatus) -> None:
        self.dead = status
        self._child.reap()

    async def ready(self) -> None:
        """Wait until everything is imported, however long that takes. Raises ForkError."""
        answer = await self._answer(None)
        if "error" in answer:
            raise ForkError(str(answer["error"]))

    async def fork(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        cookie: str,
        output: Path,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
    ) -> int:
        """Fork a process that becomes ``argv``, as ``child.spawn`` starts one; its pid. Raises ForkError."""
        request = json.dumps({"argv": list(argv), "env": dict(env), "cookie": cookie, "cwd": cwd}).encode()
        try:
            pipe = os.open(output, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ForkError(f"{output}: {error.strerror}") from error
        try:
            socket.send_fds(self._sock, [request], [pipe, *pass_fds])
        except OSError as error:
            raise ForkError(f"the fork server takes no request: {error}") from error
        finally:
            os.close(pipe)
        answer = await self._answer(PATIENCE)
        if "pid" not in answer:
            raise ForkError(str(answer.get("error", answer)))
        self.forks += 1
        return int(str(answer["pid"]))

    async def _answer(self, patience: float | None) -> dict[str, object]:
        try:
            async with asyncio.timeout(patience):
                data = await asyncio.get_running_loop().sock_recv(self._sock, _ANSWER_BYTES)
        except TimeoutError:
            raise ForkError(f"the fork server gave no answer within {patience:g} s") from None
        except OSError as error:
            raise ForkError(f"the fork server: {error}") from error
        if not data:
            raise ForkError("the fork server died")
        try:
            answer = json.loads(data)
        except ValueError:
            raise ForkError("the fork server answers something that is no answer") from None
        return answer if isinstance(answer, dict) else {}

    def close(self) -> None:
        """End it, at once: it has nothing that is worth a grace. ``dead`` says when it is."""
        self._sock.close()
        self._child.signal(signal.SIGKILL)
