"""Serves the control socket as long as the daemon lives, over upgrades that do not come about too."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from llm_supervisor.control.server import ControlServer, Fleet
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.upgrade import Upgrade
from llm_supervisor.host import log
from llm_supervisor.host.net import listener
from llm_supervisor.supervision.troubles import Troubles

AGAIN = 1.0  # seconds until the socket is served again


class ControlSocket:
    """The listening socket at ``path``. ``inherited`` is its descriptor where a former daemon became this one."""

    def __init__(
        self,
        fleet: Fleet,
        path: Path,
        inherited: int | None,
        lifecycle: Lifecycle,
        upgrade: Upgrade,
        rolling: Rolling,
        troubles: Troubles,
    ) -> None:
        self._troubles = troubles
        self._fleet, self._path, self._inherited = fleet, path, inherited
        self._lifecycle, self._upgrade, self._rolling = lifecycle, upgrade, rolling
        self._server: ControlServer | None = None

    async def run(self) -> None:
        """Answer until ``stop``; between two servers, become another version where that was asked for. Raises OSError
        when the socket cannot be bound."""
        inherited = self._inherited
        with socket.socket(fileno=inherited) if inherited is not None else listener.bind_unix(str(self._path)) as door:
            while True:
                try:
                    self._server = ControlServer(self._fleet, door.dup())
                    await self._server.run()
                except Exception as error:
                    # whoever asks has to wait; no program has to end for it
                    if self._troubles.note("control", f"commands are not answered: {error}"):
                        log.get().exception("the control socket fails and is served again")
                    await asyncio.sleep(AGAIN)
                    continue
                self._troubles.clear("control")
                if self._lifecycle.down or not self._lifecycle.handing_over:
                    return
                await self._upgrade.become(door)
                self._lifecycle.go_on()
                if self._lifecycle.down:
                    return  # while programs are still stopped, whoever asks is answered
                self._rolling.resume()

    def stop(self) -> None:
        """Answer what is in hand, then end ``run``, or become another version."""
        if self._server is not None:
            self._server.stop()
