"""A fork server: a process of ours that has imported an engine and forks it on demand. Its other end is
``engines.inside.fork_server``.

What it forks is re-parented to us (we are the subreaper), so for the rest of the daemon it is a child like one that was
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
from llm_supervisor.host.process.proc import COOKIE, NO_COOKIE

# What stands in the fork server's environment where its children's cookies will be written
COOKIE_ROOM = 192
PATIENCE = 15.0  # seconds for an answer
IMPORT_PATIENCE = 900.0  # seconds for the imports; from a cold network disk they take minutes
_ANSWER_BYTES = 64 * 1024


class ForkError(Exception):
    """It did not fork; the text says why. ``stale``: for nothing that is wrong with forking, and another fork server
    may do it: this one has died, or what it imported has changed since."""

    def __init__(self, text: str, *, stale: bool = False) -> None:
        super().__init__(text)
        self.stale = stale


class ForkServer:
    """One fork server, from its start to its end. Two that ask at once are served one after the other."""

    def __init__(self, child: Child, sock: socket.socket) -> None:
        self._child, self._sock = child, sock
        self._turn = asyncio.Lock()
        self._readable: asyncio.Future[None] | None = None  # somebody waits for an answer
        self._closed = False
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
        """The pid of the fork server, which may be dead."""
        return self._child.pid

    def _died(self, status: ExitStatus) -> None:
        self.dead = status
        self._child.reap()

    async def ready(self) -> None:
        """Wait until everything is imported. Raises ForkError."""
        answer = await self._answer(IMPORT_PATIENCE)
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
        patience: float | None = None,
    ) -> int:
        """Fork a process that becomes ``argv``, as ``child.spawn`` starts one; its pid.
        ``patience`` (default: ``PATIENCE``) is in seconds. Raises ForkError."""
        request = json.dumps({"argv": list(argv), "env": dict(env), "cookie": cookie, "cwd": cwd}).encode()
        async with self._turn:
            try:
                pipe = os.open(output, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise ForkError(f"{output}: {error.strerror}", stale=True) from error
            try:
                socket.send_fds(self._sock, [request], [pipe, *pass_fds])
            except OSError as error:
                raise ForkError(f"the fork server takes no request: {error}", stale=True) from error
            finally:
                os.close(pipe)
            patience = PATIENCE if patience is None else patience
            while (answer := await self._answer(patience)).get("cookie", cookie) != cookie:
                pass  # the answer to a request whose client has given up
        if "pid" not in answer:
            raise ForkError(str(answer.get("error", answer)), stale=bool(answer.get("stale")))
        self.forks += 1
        return int(str(answer["pid"]))

    async def _answer(self, patience: float) -> dict[str, object]:
        # not sock_recv: it forgets its descriptor only some turns after it was cancelled, when that number may be
        # another's already, whose events would then never come
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ForkError("the fork server was ended", stale=True)
        self._readable = readable = loop.create_future()
        loop.add_reader(self._sock, self._wake)
        try:
            async with asyncio.timeout(patience):
                await readable
            if self._closed:
                raise ForkError("the fork server was ended", stale=True)
            data = self._sock.recv(_ANSWER_BYTES)
        except TimeoutError:
            raise ForkError(f"the fork server gave no answer within {patience:g} s") from None
        except OSError as error:
            raise ForkError(f"the fork server: {error}", stale=True) from error
        finally:
            self._readable = None
            if not self._closed:
                loop.remove_reader(self._sock)
        if not data:
            raise ForkError("the fork server died", stale=True)
        try:
            answer = json.loads(data)
        except ValueError:
            raise ForkError("the fork server answers something that is no answer") from None
        return answer if isinstance(answer, dict) else {}

    def _wake(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def close(self) -> None:
        """End it, at once: it has nothing that is worth a grace. Who waits for an answer gets a ForkError. ``dead``
        says when it is."""
        if self._closed:
            return
        if self._readable is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
        self._closed = True
        self._wake()
        self._sock.close()
        self._child.signal(signal.SIGKILL)
