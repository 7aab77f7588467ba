"""Replaces the gateway's replicas so that clients are served all the time; ``core.rolling`` decides how.

One replica is replaced at a time, whoever asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from llm_supervisor.config.specs import Planned
from llm_supervisor.core import fleet
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.rolling import ANSWERS, Facts, Turn, behind, left_behind, may_leave, turn
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.host import log, memory


class Rolling:
    """The restarts of replicas. ``replacing`` is held while one is replaced, and by whoever wants none to be replaced.
    ``spare`` returns the plan of one more replica; None where there is no gateway."""

    def __init__(
        self, runners: Runners, lifecycle: Lifecycle, replacing: asyncio.Lock, spare: Callable[[], Planned | None]
    ) -> None:
        self._runners, self._lifecycle = runners, lifecycle
        self._replacing, self._spare = replacing, spare
        self._put_off: list[str] = []
        self._log = log.get()

    @property
    def put_off(self) -> list[str]:
        """The replicas that the next version of the daemon is to replace."""
        return list(self._put_off)

    def resume(self) -> None:
        """Replace what was put off after all, in the background: the daemon did not become another version."""
        while self._put_off:
            self.replace_later(self._put_off.pop())

    async def roll(
        self,
        names: Sequence[str],
        *,
        changed: bool,
        down: Collection[str] = (),
        tell: Callable[[str, RequestOutcome], None] = lambda name, result: None,
    ) -> dict[str, RequestOutcome]:
        """Restart these replicas, one after the other. When one does not get ready, those whose turn has not come are
        left as they are. ``changed``: only those whose process is not new yet; ``down``: those that had been told to
        stay down when the restart was asked for; ``tell`` is called with every result as soon as it is known. By name:
        what became of it."""
        found: dict[str, RequestOutcome] = {}
        for name in names:
            if failed := next((one for one in found if not found[one].done), None):
                found[name] = left_behind(failed)
            elif self._lifecycle.handing_over:
                found[name] = self._leave_to_the_next(name, changed=changed)
            else:
                found[name] = await self.replace(name, changed=changed, was_down=name in down)
            tell(name, found[name])
        return found

    async def replace(self, name: str, *, changed: bool = False, was_down: bool = False) -> RequestOutcome:
        """Restart one replica; see ``roll`` and ``core.rolling.turn``."""
        async with self._replacing:
            spare = self._spare()
            others = [one for one in self._runners.replicas() if one != name]
            facts = Facts(
                self._runners[name].state if name in self._runners else None,
                is_new=name in self._runners and self._runners.is_new(name),
                others_serve=self._runners.serving(others),
                may_spare=spare is not None and spare.spec.name not in self._runners,
                ending=self._lifecycle.ending,
                handing_over=self._lifecycle.handing_over,
            )
            match turn(facts, changed=changed, was_down=was_down):
                case Turn.RESTART:
                    return await self._runners.ask(name, "restart")
                case Turn.BEHIND_SPARE:
                    assert spare is not None
                    return await self._replace_behind(spare, name)
                case Turn.PUT_OFF:
                    return self._leave_to_the_next(name, changed=changed)
                case other:
                    return ANSWERS[other]

    def replace_later(self, name: str) -> None:
        """Restart one replica, in the background."""
        self._lifecycle.soon(self.replace(name, was_down=self._runners.stays_down(name)))

    def _leave_to_the_next(self, name: str, *, changed: bool) -> RequestOutcome:
        """Put a restart off. What has changed the next daemon sees by itself."""
        if not changed and name not in self._put_off:
            self._put_off.append(name)
        return ANSWERS[Turn.PUT_OFF]

    async def _replace_behind(self, spare: Planned, name: str) -> RequestOutcome:
        """Start a spare replica, restart the only one when the spare one is ready, and let that one go."""
        self._runners.start(spare.spec.name, spare)
        started = await self._runners.ask(spare.spec.name, "start")
        result = None
        if name in self._runners:
            result = behind(started, self._runners[name].state)
        if result is None:
            result = await self._runners.ask(name, "restart")
        await self._retire(spare.spec.name, [name])
        return result

    # Spare replicas ---------------------------------------------------------------------------------------

    async def _retire(self, spare: str, others: Sequence[str]) -> None:
        """Let a spare replica go, unless it alone serves, or has been configured meanwhile."""
        configured = [self._runners[one].state for one in self._runners.replicas() if not self._runners.is_spare(one)]
        serving = [self._runners[one].state for one in others if one in self._runners]
        if spare not in self._runners.spares() or self._lifecycle.ending or not may_leave(serving, configured):
            return
        await self._runners.dismiss(spare)
        if spare in self._runners.spares():
            self._runners.drop(spare)

    async def _retire_left_over(self, spare: str) -> None:
        async with self._replacing:
            await self._retire(spare, [one for one in self._runners.replicas() if one != spare])

    def maintain(self) -> None:
        """Restart a replica that has grown beyond its limit, and let go of spare ones that were left over; to be called
        now and then. Returns at once."""
        self._replace_grown()
        for name in self._runners.spares():
            if not self._replacing.locked():
                self._lifecycle.soon(self._retire_left_over(name))

    def _replace_grown(self) -> None:
        limited = {name: one for name, one in self._runners.items() if one.spec.max_rss is not None}
        states = {name: one.state for name, one in limited.items()}
        sizes = {name: memory.resident(state.pid) for name, state in states.items() if state.pid is not None}
        name = fleet.grown({name: one.spec for name, one in limited.items()}, states, sizes)
        if name is not None:
            self._log.warning("grown too much: replaced", program=name, rss=sizes[name])
            self.replace_later(name)
