"""The programs that the daemon looks after, each with its runner: add one, ask one for something, let one go.

Nothing about a program is decided here: what a request means for it is decided by ``core.program``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from llm_supervisor.config.specs import Planned
from llm_supervisor.control.server import REQUESTS
from llm_supervisor.core import event as ev
from llm_supervisor.core.event import Event
from llm_supervisor.core.request import RequestOutcome, outcome, settled
from llm_supervisor.core.rolling import serving, stays_down
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.host.process import find
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.runner import Runner
from llm_supervisor.supervision.snapshots import Snapshots
from llm_supervisor.supervision.world import Publish

GONE = "is no longer configured"


class Runners(Mapping[str, Runner]):
    """All runners by the name of their program, in the order of the configuration.

    ``publish`` is called with every change of a program's state. ``configured`` returns the planned programs of the
    present configuration; a program that is not among them is on its way out, or is a spare replica.
    """

    def __init__(
        self,
        world: LocalWorld,
        lifecycle: Lifecycle,
        snapshots: Snapshots,
        *,
        publish: Publish,
        configured: Callable[[], Mapping[str, Planned]],
    ) -> None:
        self._world, self._lifecycle, self._snapshots = world, lifecycle, snapshots
        self._publish, self._configured = publish, configured
        self._runners: dict[str, Runner] = {}
        self._dismissed: set[str] = set()  # told to leave by a configuration, and nothing else by anybody since

    def __getitem__(self, name: str) -> Runner:
        return self._runners[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runners)

    def __len__(self) -> int:
        return len(self._runners)

    # Looking ----------------------------------------------------------------------------------------------

    @property
    def specs(self) -> Mapping[str, ProgramSpec]:
        """The specifications of all programs."""
        return {name: runner.spec for name, runner in self._runners.items()}

    @property
    def states(self) -> Mapping[str, State]:
        """The present states of all programs."""
        return {name: runner.state for name, runner in self._runners.items()}

    @property
    def dismissed(self) -> frozenset[str]:
        """The programs that a configuration has told to leave, where no explicit request has come since."""
        return frozenset(self._dismissed)

    def incarnation(self, name: str) -> str | None:
        """The unique name of the present incarnation; None when nothing of the program lives."""
        living = self._world.incarnations.get(name)
        return living.uuid if living else None

    def owns(self, pid: int) -> bool:
        """Whether a process is the daemon itself, or belongs to one of its programs."""
        trees = [living.tree for living in self._world.incarnations.values()]
        return pid == os.getpid() or any(row.pid == pid for tree in trees for row in find(tree))

    def replicas(self) -> list[str]:
        """The names of the gateway's replicas, the spare ones included."""
        return [name for name, runner in self._runners.items() if runner.spec.kind is Kind.LITELLM]

    def is_spare(self, name: str) -> bool:
        """Whether it is a replica that is not configured: it serves while another one is replaced, or leaves."""
        return self._runners[name].spec.kind is Kind.LITELLM and name not in self._configured()

    def spares(self) -> list[str]:
        """The names of the spare replicas."""
        return [name for name in self._runners if self.is_spare(name)]

    def stays(self, name: str) -> bool:
        """Whether it is configured or a spare replica, and not only on its way out."""
        return name in self._configured() or self.is_spare(name)

    def is_new(self, name: str) -> bool:
        """Whether its process was started with what is configured for it at present."""
        return self._world.running().get(name) == self._runners[name].spec.digest

    def serving(self, names: Iterable[str]) -> bool:
        """Whether one of these programs serves, and was not told to leave."""
        return serving(self._runners[name].state for name in names if name in self._runners)

    def stays_down(self, name: str) -> bool:
        """Whether it was told to stop, and nothing else since."""
        return name in self._runners and stays_down(self._runners[name].state)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds`` is true of the present states, or of the daemon."""
        await self._snapshots.until(holds)

    # Coming and going -------------------------------------------------------------------------------------

    def add(self, name: str, planned: Planned) -> Runner:
        """Look after one more program. Its runner does not turn yet."""
        runner = Runner(planned.spec, self._world, self._publish, asking=planned.asking, reader=planned.reader)
        self._runners[name] = runner
        self._world.note_stop(name, planned.spec.stop)
        return runner

    def start(self, name: str, planned: Planned) -> None:
        """Look after one more program, from now on."""
        self.let_run(self.add(name, planned))

    def let_run(self, runner: Runner, *, sweep_first: bool = False, recorded: State | None = None) -> None:
        """Let a runner turn from now on, until it is told to finish. See ``Runner.run``. Should it fail, it goes on
        from the state that it had, as a new daemon would."""
        begun = False

        async def run() -> None:
            nonlocal begun
            again, begun = begun, True
            await runner.run(sweep_first=sweep_first, recorded=runner.state if again else recorded)

        self._lifecycle.start(f"the runner of {runner.name}", run)

    def renew(self, name: str, planned: Planned, *, moved: bool = False) -> None:
        """What the program should be from now on, or one more program. A process that runs stays as it is. ``moved``:
        its files and sockets are elsewhere from now on, which is no part of what is compared."""
        if name not in self._runners:
            self.start(name, planned)
            return
        runner = self._runners[name]
        self._world.note_stop(name, planned.spec.stop)
        settled = (runner.spec.digest, runner.spec.settings) == (planned.spec.digest, planned.spec.settings)
        if settled and not (moved and runner.spec.launch != planned.spec.launch):
            runner.spec = planned.spec  # perhaps a default value of ours is another one, for its next start
            return
        same = runner.spec.digest == planned.spec.digest
        runner.replace(planned.spec, planned.asking, planned.reader)
        if same and runner.state.phase is Phase.RUNNING:
            self._world.watched_anew(planned.spec)

    def arrange(self, names: Iterable[str]) -> None:
        """Put the programs into this order; what is not named comes last."""
        self._runners = {name: self._runners[name] for name in dict.fromkeys([*names, *self._runners])}

    def drop(self, name: str) -> None:
        """Forget a program that is down and of which nothing lives on; else it stays."""
        state = self._runners[name].state if name in self._runners else None
        if state is None or self._lifecycle.ending or state.orphaned:
            return
        if state.phase in (Phase.STOPPED, Phase.FATAL):
            self._runners.pop(name).finish()
            self._dismissed.discard(name)
            self._world.forget(name)

    # Asking --------------------------------------------------------------------------------------------------

    def overrule(self, names: Iterable[str]) -> None:
        """Note that these programs are no longer told to leave by a configuration: something else was said since."""
        self._dismissed -= set(names)

    async def post(self, name: str, event: Event) -> None:
        """Post an event to a program, and return when its meaning is decided and stored, so that a request that was
        answered survives a crash of the daemon. Nothing is started any more when the daemon ends, or when the program
        is on its way out."""
        runner = self._runners[name]
        starts = isinstance(event, (ev.StartRequested, ev.RestartRequested))
        if starts and (self._lifecycle.ending or not self.stays(name)):
            return
        runner.post(event)
        await runner.handled()
        self._world.flush()

    async def ask(self, name: str, action: str) -> RequestOutcome:
        """Ask a program to start, stop or restart, and wait until that has come about or cannot any more; or until the
        daemon ends or becomes another version."""
        if name not in self._runners:
            return RequestOutcome(action == "stop", GONE)
        if action != "stop":
            self.overrule([name])
        if action == "restart":
            self._world.let_go_of_listener(self._runners[name].spec)
        since = self._runners[name].state.incarnation
        await self.post(name, REQUESTS[action]())
        return await self.came_about(name, action, since, or_ending=True)

    async def came_about(self, name: str, action: str, since: int, *, or_ending: bool = False) -> RequestOutcome:
        """Wait until what ``action`` asked for has come about or cannot any more, and say which. ``since`` is the
        number of the incarnation at the time of asking. It is not waited for while the daemon becomes another version;
        and with ``or_ending`` not while it ends either, when only a stop still comes about."""

        def over() -> bool:
            left = self._lifecycle.handing_over or (or_ending and self._lifecycle.ending)
            return left or self._is_settled(name, action, since)

        await self._snapshots.until(over)
        if or_ending and not self._is_settled(name, action, since):
            return RequestOutcome(action == "stop" or self._lifecycle.handing_over, "asked")
        return self.so_far(name, action, since)

    def so_far(self, name: str, action: str, since: int) -> RequestOutcome:
        """What has come about of a request until now; see ``came_about``."""
        if name not in self._runners:
            return RequestOutcome(action == "stop", GONE)
        if not self._is_settled(name, action, since):
            return RequestOutcome(True, "asked")
        return outcome(action, self._runners[name].state)

    def _is_settled(self, name: str, action: str, since: int) -> bool:
        return name not in self._runners or settled(action, self._runners[name].state, since)

    async def dismiss(self, name: str) -> RequestOutcome:
        """Let a program leave that is no longer configured. It may be configured again before it is gone, and comes
        back then; so it is noted that no explicit request has told it to stop."""
        if name in self._runners and name not in self._configured():
            if not self.stays_down(name):
                self._dismissed.add(name)
            result = await self.ask(name, "stop")
            if name not in self._configured():
                return result
        return RequestOutcome(True, "is configured again" if name in self._configured() else GONE)
