"""Tells the gateway how the engines are, so that its replicas know how long a request may wait for one that is down.

It is a file that the replicas read (``engines/inside/litellm_hold.py``). A file that has not been written for a while
makes nobody wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict

from llm_supervisor.core.hold import Hold, addresses, holds
from llm_supervisor.core.spec import Kind
from llm_supervisor.core.state import State
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.engines.litellm import config as proxy_config
from llm_supervisor.host import log
from llm_supervisor.host.files import write_atomically
from llm_supervisor.supervision.local.local_world import LocalWorld

# How often the file is written when nothing happens (seconds): it says that the daemon lives, and the file is true
PERIOD = 5.0


class GatewayFeed:
    """Writes the file at every change of a phase, and every ``PERIOD`` seconds."""

    def __init__(self, active: ActiveConfig, world: LocalWorld, runners: Runners) -> None:
        self._active, self._world, self._runners = active, world, runners
        self._begun = False
        # by engine: where the gateway's replicas may look for it, and since when it is not there
        self._addresses: dict[str, dict[str, float | None]] = {}
        self._log = log.get()

    async def run(self) -> None:
        """Write the file now and then, for ever. To be started when every runner has had its first turn: until then
        what the former daemon has written is true, as a runner knows nothing before."""
        self._begun = True
        while True:
            self.write()
            await asyncio.sleep(PERIOD)

    def phase_changed(self, before: State, state: State) -> None:
        """Write the file if this change of a program's state is one of its phase."""
        if before.phase is not state.phase:
            self.write()

    def write(self) -> None:
        """Write how the engines are now; without engines, nothing."""
        if not self._begun:
            return
        now = time.monotonic()
        engines = {address: asdict(one) for address, one in self._holds(now).items()}
        if not engines:
            return
        try:
            write_atomically(self._active.plan.engines_file, json.dumps({"at": now, "engines": engines}).encode())
        except OSError as error:
            self._log.warning("the gateway is not told", error=str(error))  # it makes nobody wait by an old file

    def _holds(self, now: float) -> dict[str, Hold]:
        """How each engine is, by address. An engine that was given another address has its former ones too, as long as
        a replica runs that may know no other."""
        configured = {one.spec.digest for one in self._active.plan.programs.values() if one.spec.kind is Kind.LITELLM}
        running = self._world.running()
        current = all(running[name] in configured for name in self._runners.replicas() if name in running)
        known = []
        for name, runner in self._runners.items():
            if runner.spec.kind is not Kind.VLLM:
                continue
            meant = proxy_config.engine_base(name, runner.spec.launch.port)
            living = self._world.incarnations.get(name)
            listens = living is not None and (living.port is not None or living.uds is not None)
            is_at = proxy_config.engine_base(name, living.port) if living is not None and listens else meant
            before = {} if current else self._addresses.get(name, {})
            self._addresses[name] = addresses(is_at, meant, before, now)
            known.append((runner.state, self._addresses[name]))
        return holds(known, self._active.plan.hold, now)
