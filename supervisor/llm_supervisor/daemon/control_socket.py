"""Serves the control socket as long as the daemon lives, over upgrades that do not come about too."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from llm_supervisor.control.server import ControlServer, Fleet
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.upgrade import Upgrade
from llm_supervisor.host import log
from llm_supervisor.host.net import listener
from llm_supervisor.paths import SOCKET
from llm_supervisor.supervision.troubles import Troubles

AGAIN = 1.0  # seconds until the socket is served again


class ControlSocket:
    """The listening socket in the runtime folder. ``inherited`` is its descriptor where a former daemon became this
    one."""

    def __init__(
        self,
        fleet: Fleet,
        runtime: Path,
        inherited: int | None,
        lifecycle: Lifecycle,
        upgrade: Upgrade,
        rolling: Rolling,
        troubles: Troubles,
    ) -> None:
        self._fleet, self._path, self._troubles = fleet, runtime / SOCKET, troubles
        self._lifecycle, self._upgrade, self._rolling = lifecycle, upgrade, rolling
        self._door = None if inherited is None else socket.socket(fileno=inherited)
        self._servers: list[tuple[ControlServer, asyncio.Task[None]]] = []
        self._seen = _identity(self._path)

    async def run(self) -> None:
        """Answer until ``stop``; between two servers, become another version where that was asked for. Raises OSError
        when the socket cannot be bound."""
        if self._door is None:
            self._bind(self._path)
        assert self._door is not None
        try:
            while True:
                try:
                    await self._answer()
                except Exception as error:
                    # whoever asks has to wait; no program has to end for it
                    if self._troubles.note("control", f"commands are not answered: {error}"):
                        log.get().exception("the control socket fails and is served again")
                    await asyncio.sleep(AGAIN)
                    continue
                self._troubles.clear("control")
                if self._lifecycle.down or not self._lifecycle.handing_over:
                    return
                await self._upgrade.become(self._door)
                self._lifecycle.go_on()
                if self._lifecycle.down:
                    return  # while programs are still stopped, whoever asks is answered
                self._rolling.resume()
        finally:
            self._door.close()

    @property
    def is_there(self) -> bool:
        """Whether a command finds the socket where it should be."""
        return self._seen is not None and _identity(self._path) == self._seen

    def move(self, runtime: Path) -> None:
        """Listen in that runtime folder from now on, which may be the same one. Whoever is connected at the old socket
        is answered there. Raises OSError."""
        self._bind(runtime / SOCKET)
        if self._servers:
            self._serve()

    def stop(self) -> None:
        """Answer what is in hand, then end ``run``, or become another version."""
        for server, _ in self._servers:
            server.stop()

    async def _answer(self) -> None:
        """Serve until every server was told to stop: one for each place where the socket has been since."""
        self._serve()
        try:
            while self._servers:
                await self._servers[0][1]
                del self._servers[0]
        finally:
            for _, task in self._servers:
                task.cancel()
            self._servers.clear()

    def _bind(self, path: Path) -> None:
        door = listener.bind_unix(str(path))
        if self._door is not None:
            self._door.close()
        self._door, self._path, self._seen = door, path, _identity(path)

    def _serve(self) -> None:
        assert self._door is not None
        server = ControlServer(self._fleet, self._door.dup())
        self._servers.append((server, asyncio.create_task(server.run())))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at that path; None when nothing is."""
    try:
        seen = os.lstat(path)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino
