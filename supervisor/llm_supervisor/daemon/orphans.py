"""Ends the processes that a daemon has left running, when no daemon lives: ``llm-supervisor stop --orphans``."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llm_supervisor import paths
from llm_supervisor.config.last_good import LAST_GOOD
from llm_supervisor.daemon.bootstrap import take_lock
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.paths import SOCKET
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal

# Seconds between SIGTERM and SIGKILL, and after SIGKILL until a process counts as stuck
GRACE, KILL_GRACE = 5.0, 30.0


async def sweep_orphans(environ: Mapping[str, str]) -> dict[str, int]:
    """End the programs of a daemon that is gone. By program: the number of processes that were found.

    Raises Refusal when a daemon lives, or when something cannot be ended."""
    found: dict[str, int] = {}
    stuck: list[str] = []
    for runtime in paths.runtime_dirs(environ):
        if not (runtime / fm.STATE).exists():
            continue
        lock = take_lock(runtime)
        pump = Pump(paths.log_dir(environ))
        pump.start()
        try:
            former = fm.read(runtime) or fm.Former({})
            fm.reopen(former, runtime, pump, {})
            world = LocalWorld(runtime, pump, own_environ={}, engine_environ={}, incidents=paths.incident_dir(environ))
            world.inherit(former)
            for name in sorted(world.incarnations):
                ended = await world.end(name, GRACE, KILL_GRACE)
                found[name] = ended.found
                stuck += ended.left
            await world.close()
            if not stuck:
                for path in (fm.STATE, SOCKET, LAST_GOOD):
                    (runtime / path).unlink(missing_ok=True)
        finally:
            pump.stop()
            os.close(lock)
    if stuck:
        raise Refusal(f"these survive SIGKILL: {', '.join(stuck)}")
    return found
