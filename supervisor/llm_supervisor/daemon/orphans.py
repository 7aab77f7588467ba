"""Ends the processes that a daemon has left running, when no daemon lives: ``llm-supervisor stop --orphans``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.config.last_good import LAST_GOOD
from llm_supervisor.daemon.bootstrap import take_lock
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.ownership import ROOT, NotOurs, command_as, owner_to_ask, require_own_folder, user
from llm_supervisor.paths import SOCKET
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal

# Seconds between SIGTERM and SIGKILL, and after SIGKILL until a process counts as stuck
GRACE, KILL_GRACE = 5.0, 30.0


async def sweep_orphans(environ: Mapping[str, str]) -> dict[str, int]:
    """End the programs of a daemon that is gone, but those of ``services``. By program: how many processes were found.

    Raises Refusal when a daemon lives, or when something cannot be ended; and, after the other folders, NotOurs for one
    that is somebody else's: what is written there could name any process of this host."""
    found: dict[str, int] = {}
    stuck: list[str] = []
    strange: list[str] = []
    refused: NotOurs | None = None
    elsewhere = services(environ)
    for runtime in paths.runtime_dirs(environ):
        if runtime in elsewhere:
            continue
        try:
            if not _may_have_orphans(runtime):
                continue
        except NotOurs as error:
            refused = refused or error
            continue
        lock = take_lock(runtime)
        pump = Pump(paths.log_dir(environ))
        pump.start()
        try:
            former = fm.read(runtime) or fm.Former({})
            strange += [f"{one} in {runtime / fm.STATE}" for one in former.refused]
            fm.reopen(former, runtime, pump, {})
            incidents = paths.incident_dir(environ, runtime)
            world = LocalWorld(runtime, pump, own_environ={}, engine_environs={}, incidents=incidents)
            world.inherit(former)
            for name in sorted(world.incarnations):
                ended = await world.end(name, GRACE, KILL_GRACE)
                found[name] = ended.found
                stuck += ended.left
            await world.close()
            if not stuck and not former.refused:
                for path in (fm.STATE, SOCKET, LAST_GOOD):
                    (runtime / path).unlink(missing_ok=True)
        finally:
            pump.stop()
            os.close(lock)
    if stuck:
        raise Refusal(f"these survive SIGKILL: {', '.join(stuck)}")
    if strange:
        raise Refusal(f"left alone, because the daemon does not use such names: {'; '.join(strange)}")
    if refused is not None:
        raise refused
    return found


def services(environ: Mapping[str, str]) -> dict[Path, int]:
    """For root: the runtime folders with a state file that root has given to other users, with these. Their orphans are
    ended with the rights of that user: the state file could name any process of this host."""
    found: dict[Path, int] = {}
    for runtime in paths.runtime_dirs(environ) if os.geteuid() == ROOT else ():
        try:
            owner = owner_to_ask(runtime, environ)
        except OSError:
            continue
        if owner.trusted and owner.uid != ROOT and (runtime / fm.STATE).exists():
            found[runtime] = owner.uid
    return found


def _may_have_orphans(runtime: Path) -> bool:
    """Whether a daemon of ours has left a state file there. Raises NotOurs when somebody else has."""
    try:
        seen = os.lstat(runtime / fm.STATE)
    except OSError:
        return False
    if seen.st_uid != os.geteuid():
        raise NotOurs(
            f"{runtime / fm.STATE} belongs to {user(seen.st_uid)}: nothing that it names was ended. If their processes "
            f"are meant, use {command_as(seen.st_uid, runtime, 'stop --orphans')}; otherwise remove {runtime}."
        )
    require_own_folder(runtime)
    return True
