"""Keeps the runtime folder: notices that it or something in it is gone, and makes it again, there or elsewhere.

logind removes ``/run/user/UID`` when its user logs out, unless lingering is on. The daemon and its programs go on; but
no command would reach them any more, and nothing could be started.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.bootstrap import LOCK, Bootstrap, take_lock
from llm_supervisor.daemon.control_socket import ControlSocket
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.reload import Reload
from llm_supervisor.host import log
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal
from llm_supervisor.supervision.troubles import Troubles

LOOK = 3.0  # seconds between two looks
TROUBLE = "runtime folder"


class RuntimeFolder:
    """The runtime folder of a daemon that runs: ``bootstrap.runtime`` is where it is at present."""

    def __init__(
        self,
        bootstrap: Bootstrap,
        active: ActiveConfig,
        world: LocalWorld,
        control: ControlSocket,
        reload: Reload,
        lifecycle: Lifecycle,
        troubles: Troubles,
    ) -> None:
        self._bootstrap, self._active, self._world = bootstrap, active, world
        self._control, self._reload, self._lifecycle = control, reload, lifecycle
        self._log, self._troubles = log.get(), troubles

    async def run(self) -> None:
        """Look every ``LOOK`` seconds, for ever."""
        while True:
            await asyncio.sleep(LOOK)
            if self._lifecycle.ending or self._lifecycle.handing_over:
                continue
            try:
                await self._look()
                self._troubles.clear(TROUBLE)
            except (OSError, Refusal) as error:
                words = "the runtime folder is gone and cannot be made again"
                if self._troubles.note(TROUBLE, f"{words}: {error}"):
                    self._log.error(words, runtime=str(self._bootstrap.runtime), error=str(error))

    async def _look(self) -> None:
        """Repair what is gone. Raises OSError or Refusal where nothing can be done."""
        runtime = self._bootstrap.runtime
        if not _is_at(self._bootstrap.lock, runtime / LOCK):
            await self._begin_anew()
        elif missing := [str(one) for one in self._files() if not one.exists()]:
            self._world.move(runtime)
            self._active.write_files()
            self._log.warning("what is needed in the runtime folder was gone: it was made again", missing=missing)
        elif not self._control.is_there:
            self._control.move(runtime)
            self._log.warning("the control socket was gone: it was bound again")

    def _files(self) -> tuple[Path, ...]:
        """What has to be in the runtime folder besides the lock and the control socket."""
        plan = self._active.plan
        return (*self._world.runtime_files(), *([plan.litellm_file] if plan.litellm_config is not None else []))

    async def _begin_anew(self) -> None:
        """Take the lock in the same folder, made again, or in the next one that can be used, and go on there. The
        private sockets of replicas and engines were in the old folder, so those are started again."""
        before = self._bootstrap.runtime
        runtime, lock = self._take_a_place()
        os.close(self._bootstrap.lock)
        self._bootstrap.runtime, self._bootstrap.lock = runtime, lock
        self._world.move(runtime)
        self._control.move(runtime)
        self._log.warning(
            "the runtime folder was gone: it was made again" if runtime == before else
            "the runtime folder was gone and cannot be made again: another one is used",
            was=str(before), runtime=str(runtime),
        )  # fmt: skip
        self._lifecycle.soon(self._plan_again(before))

    async def _plan_again(self, lost: Path) -> None:
        """Let the programs have their files and sockets in the present folder, as soon as it can be written."""
        while True:
            try:
                await self._reload.plan_again(lost)
                return
            except OSError as error:
                self._log.error("files cannot be written to the runtime folder: this is tried again", error=str(error))
                await asyncio.sleep(LOOK)

    def _take_a_place(self) -> tuple[Path, int]:
        """A runtime folder of ours and its lock: the present one, else the first of the usual places. A folder above it
        is not made: without it (``/run/user/UID``) the place belongs to nobody. Raises OSError or Refusal."""
        failed: OSError | Refusal | None = None
        for place in dict.fromkeys([self._bootstrap.runtime, *paths.runtime_dirs(self._bootstrap.environ)]):
            try:
                if not place.parent.is_dir():
                    raise FileNotFoundError(f"{place.parent} does not exist any more")
                paths.make_own_folder(place)
                return place, take_lock(place)
            except (OSError, Refusal) as error:
                failed = failed or error
        assert failed is not None
        raise failed


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at that path."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False
