"""Ending an incarnation: signals, the sweep of its whole tree, and the release of everything that was held for it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path

from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.core.state import State
from llm_supervisor.host import bounded, log, scratch
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.process import Row, cgroup, find, reap_strangers, shared_memory, signal_process
from llm_supervisor.supervision.confinement import is_own_socket
from llm_supervisor.supervision.local.fork_servers import ForkServerPool
from llm_supervisor.supervision.local.gpu_turns import GpuTurns
from llm_supervisor.supervision.local.incarnation import Incarnation, shown
from llm_supervisor.supervision.local.listeners import Store
from llm_supervisor.supervision.local.post_mortem import PostMortem
from llm_supervisor.supervision.world import Swept

ORPHAN_LOOK = 1.0  # seconds between two looks for processes that survive SIGKILL
CLEANING = 10.0  # seconds that looking for what is left in /dev/shm may take
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.1  # seconds between two looks of a sweep


class Teardown:
    """Ends incarnations and takes them out of ``incarnations``, by program, once nothing of them is alive."""

    def __init__(
        self,
        incarnations: MutableMapping[str, Incarnation],
        pump: Pump,
        store: Store,
        gpu_turns: GpuTurns,
        fork_servers: ForkServerPool,
        post_mortem: PostMortem,
    ) -> None:
        self._incarnations, self._pump, self._store = incarnations, pump, store
        self._gpu_turns, self._fork_servers, self._post_mortem = gpu_turns, fork_servers, post_mortem
        self._cleaning: set[asyncio.Task[None]] = set()

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        """Signal the leader, or every process of the tree."""
        living = self._incarnations.get(name)
        if living is None:
            return
        if tree:
            for row in find(living.tree):
                signal_row(row, signum)
            if signum == signal.SIGKILL and living.tree.cgroup is not None:
                cgroup.kill(living.tree.cgroup)
        elif living.leader is not None:
            living.leader.signal(signum)
            if signum != signal.SIGKILL:
                living.leader.signal(signal.SIGCONT)  # a stopped process does not see any other signal

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        """End the tree, find out why the program left, and wait for its GPU memory."""
        living = self._incarnations.get(spec.name)
        if living is not None:
            await self._note_shared(living)
        swept = await self.end(spec.name, grace, kill_grace)
        self._gpu_turns.end(spec.name)
        if (leaving := state.leaving) is not None and state.startup.warm and leaving.failed and not leaving.was_ready:
            self._fork_servers.distrust(spec.name, leaving.summary)
        if living is None:
            self._gpu_turns.forget_use(spec.name)
        if swept.left or living is None:
            return swept
        if living.uds is not None:  # nobody else listens there, so these are left over
            for name in (living.uds, f"{living.uds}.listener"):
                if is_own_socket(name):
                    Path(name).unlink(missing_ok=True)
        failure = None
        try:
            failure = await self._post_mortem.examine(spec, state, living)
        except Exception:  # how it left is known all the same
            log.get().exception("it cannot be found out why a program left", program=spec.name)
        await self._gpu_turns.await_memory(spec.name, living.pids)
        return replace(swept, failure=failure)

    async def _note_shared(self, living: Incarnation) -> None:
        """What it has made in /dev/shm: it may never have been ready, so that nobody has looked."""
        try:
            await living.note_shared(find(living.tree), within=shared_memory.WITHIN)
        except Exception:  # the sweep must not wait for it
            log.get().exception("what a program has in shared memory cannot be found out", incarnation=living.uuid)

    async def end(self, name: str, grace: float, kill_grace: float) -> Swept:
        """End every process of the present incarnation: SIGTERM, after ``grace`` seconds SIGKILL, and what is alive
        ``kill_grace`` seconds later is reported. Looks again after every signal: a process that is killed may have
        forked in between."""
        living = self._incarnations.get(name)
        if living is None:
            return Swept()
        for member in living.members:
            member.reap()
        living.members.clear()
        loop = asyncio.get_running_loop()
        left = find(living.tree)
        living.outlived = [shown(row) for row in left]
        living.pids |= {pid for pid, _ in (*living.tree.seen, *living.tree.gone)} | {pid for pid, *_ in living.expected}
        found, began, pause = len(left), loop.time(), FIRST_PAUSE
        asked: set[tuple[int, int]] = set()
        permitted: dict[tuple[int, int], bool] = {}
        while left:
            waited = loop.time() - began
            if waited >= grace + kill_grace:
                denied = not all(permitted.get(row.key, True) for row in left)
                return Swept(found, tuple(shown(row) for row in left), denied=denied)
            if waited >= grace and living.tree.cgroup is not None:
                cgroup.kill(living.tree.cgroup)
            living.pids |= {row.pid for row in left}
            for row in left:
                if waited >= grace:
                    permitted[row.key] = signal_row(row, signal.SIGKILL)
                elif row.key not in asked:
                    asked.add(row.key)
                    signal_row(row, signal.SIGTERM)
                    signal_row(row, signal.SIGCONT)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
            left = find(living.tree)
        self.release(name, living)
        return Swept(found)

    async def orphans_gone(self, name: str) -> None:
        """Return when nothing of the tree is left, perhaps never."""
        living = self._incarnations.get(name)
        while living is not None and find(living.tree):
            await asyncio.sleep(ORPHAN_LOOK)
        if living is not None:
            self.release(name, living)

    def release(self, name: str, living: Incarnation) -> None:
        """Nothing of the incarnation is alive: take its last output, and let go of everything that was held for it."""
        if self._incarnations.get(name) is not living:
            return  # another sweep of the same incarnation was quicker
        # what cannot be let go of is left: the program must not wait for it
        letting_go: list[Callable[[], object]] = [lambda: living.fifo.unlink(missing_ok=True)]
        if (pipe := living.pipe) is not None:
            letting_go += [lambda: self._pump.remove(pipe), lambda: self._store.forget(living.fifo.name)]
        if (leader := living.leader) is not None:
            letting_go.append(leader.reap)
        if (group := living.tree.cgroup) is not None:
            letting_go.append(lambda: cgroup.remove(group))
        if living.shared or living.scratch is not None:
            letting_go.append(lambda: self._clean(living))
        for let_go in letting_go:
            try:
                let_go()
            except Exception:
                log.get().exception("something of a dead program is left", program=name, incarnation=living.uuid)
        self._incarnations.pop(name, None)
        self.reap()  # the state file names the incarnation until the next save: a later daemon finds it dead

    def _clean(self, living: Incarnation) -> None:
        """Remove its temporary files and what it left in /dev/shm, beside whatever comes next, as every process of the
        machine is asked what it has mapped."""

        def clean() -> None:
            if living.scratch is not None:
                scratch.remove(living.scratch, living.cookie)
            shared_memory.remove_unmapped(living.shared)

        async def remove() -> None:
            try:
                await bounded.ask(
                    f"what {living.cookie} has left",
                    clean,
                    within=CLEANING,
                )
            except Exception:
                log.get().exception("something of a dead program is left", program=living.cookie)

        task = asyncio.get_running_loop().create_task(remove())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def cleaned(self) -> None:
        """Return when what incarnations have left is removed, or cannot be."""
        await asyncio.gather(*self._cleaning)

    def reap(self) -> None:
        """Reap orphans that came to us as the subreaper. Call it on SIGCHLD."""
        # leaders that a former daemon left, and nobody watches yet, too: how they ended is asked when they are adopted
        watched = {one.tree.leader[0] for one in self._incarnations.values() if one.tree.leader is not None}
        reap_strangers(watched | self._fork_servers.pids())


def signal_row(row: Row, signum: int) -> bool:
    """Signal that very process, if it is still there. False where we may not: it has become another user's."""
    try:
        signal_process(row.pid, row.started, signum)
    except PermissionError:
        return False  # the sweep will name it as left over
    return True
