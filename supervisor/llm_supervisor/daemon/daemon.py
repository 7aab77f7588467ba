"""The composition root: makes every part of the daemon, runs them in one task group, and ends them in order.

Exit status: 0 after an orderly end, 1 when a part of the daemon failed, 2 when it may not start (a wrong configuration,
a taken port, another daemon).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from llm_supervisor import __version__, paths
from llm_supervisor.config import Config, ConfigError, Plan, Problem, not_cached
from llm_supervisor.config.environments import of_commands
from llm_supervisor.config.last_good import LAST_GOOD
from llm_supervisor.config.specs import Planned
from llm_supervisor.control.protocol import (
    About,
    EventBody,
    ReloadBody,
    StatusBody,
    UpgradeBody,
    event_message,
    status_message,
)
from llm_supervisor.core import event as ev
from llm_supervisor.core import fleet
from llm_supervisor.core.event import Event
from llm_supervisor.core.request import RequestOutcome
from llm_supervisor.core.spec import Kind, Launch, ProgramSpec, StopSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.daemon.actions import Actions
from llm_supervisor.daemon.active_config import ActiveConfig
from llm_supervisor.daemon.bootstrap import SIGNALS, Bootstrap
from llm_supervisor.daemon.control_socket import ControlSocket
from llm_supervisor.daemon.event_log import EventLog
from llm_supervisor.daemon.gateway_feed import GatewayFeed
from llm_supervisor.daemon.left_out import LeftOut
from llm_supervisor.daemon.lifecycle import Lifecycle
from llm_supervisor.daemon.loop_watch import LoopWatch
from llm_supervisor.daemon.reload import Reload
from llm_supervisor.daemon.rolling import Rolling
from llm_supervisor.daemon.routes import Routes
from llm_supervisor.daemon.runners import Runners
from llm_supervisor.daemon.runtime_folder import RuntimeFolder
from llm_supervisor.daemon.upgrade import Upgrade
from llm_supervisor.daemon.watchdog import Watchdog
from llm_supervisor.host import gpu, log
from llm_supervisor.host.process import become_subreaper, umask_of_children
from llm_supervisor.paths import SOCKET
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.fork_servers import MAINTAIN_EVERY
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal, check_ports
from llm_supervisor.supervision.runner import Runner
from llm_supervisor.supervision.snapshots import Snapshots
from llm_supervisor.supervision.troubles import Troubles

# When the daemon fails: seconds between SIGTERM and SIGKILL, and after SIGKILL until a process counts as stuck
GRACE, KILL_GRACE = 5.0, 30.0
Show = Callable[[str, State, State], None]


class Daemon:
    """All programs of one configuration, from start to end. It is also what the control server asks
    (``control.server.Fleet``).

    Raises Refusal when an engine's interpreter is missing.
    """

    def __init__(self, bootstrap: Bootstrap, config: Config, problems: tuple[Problem, ...] = ()) -> None:
        self.show: Show | None = None  # called with every change of a program, for people who watch
        self._bootstrap = bootstrap
        self._log = log.get()
        handover = bootstrap.former.handover
        self._began = time.monotonic() if handover is None else handover.began
        self._events = EventLog(() if handover is None else handover.events)
        self._active = active = ActiveConfig(bootstrap, config, problems)
        bootstrap.pump.limit(active.plan.logs.max_bytes, active.plan.logs.backups)
        self._troubles = troubles = Troubles()
        self._world = world = LocalWorld(
            bootstrap.runtime,
            bootstrap.pump,
            own_environ=of_commands(bootstrap.environ),
            engine_environs=active.plan.environs,
            incidents=paths.incident_dir(bootstrap.environ, bootstrap.runtime),
            gpus=gpu.WhenAsked() if active.wants_gpus else None,
            store=bootstrap.notifier,
            troubles=troubles,
        )
        self._snapshots = snapshots = Snapshots()
        self._loop_watch = LoopWatch(snapshots)
        self._lifecycle = lifecycle = Lifecycle(snapshots, troubles)
        self._runners = runners = Runners(
            world, lifecycle, snapshots, publish=self._publish, configured=lambda: active.plan.programs
        )
        reloading, replacing = asyncio.Lock(), asyncio.Lock()
        self._rolling = rolling = Rolling(runners, lifecycle, replacing, lambda: active.plan.spare)
        self._actions = Actions(runners, rolling, lifecycle)
        self._reload = Reload(bootstrap, active, world, runners, rolling, lifecycle, snapshots, reloading)
        self._upgrade = Upgrade(
            bootstrap, world, runners, lifecycle, reloading, replacing,
            handover=self._handover, close_door=lambda: self._control.stop(),
        )  # fmt: skip
        door = None if handover is None else handover.control
        self._control = ControlSocket(self, bootstrap.runtime, door, lifecycle, self._upgrade, rolling, troubles)
        self._folder = RuntimeFolder(bootstrap, active, world, self._control, self._reload, lifecycle, troubles)
        self._feed = GatewayFeed(active, world, runners)
        self._routes = Routes(active, world, runners, snapshots)
        self._left_out = LeftOut(world, runners, snapshots)
        self._watchdog = Watchdog(
            bootstrap.notifier, bootstrap.pump, active, runners, lifecycle, snapshots, self._degraded
        )

    # What is asked of it ----------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """What is planned at present."""
        return self._active.plan

    @property
    def key_file(self) -> Path | None:
        """The file with the gateway's key, if the daemon made one."""
        return self._active.key_file

    @property
    def specs(self) -> Mapping[str, ProgramSpec]:
        """The specifications of all programs."""
        return self._runners.specs

    @property
    def states(self) -> Mapping[str, State]:
        """The present states of all programs."""
        return self._runners.states

    @property
    def ending(self) -> bool:
        """Whether the daemon was told to end."""
        return self._lifecycle.ending

    @property
    def handing_over(self) -> bool:
        """Whether it is about to become another version: everybody who waits is answered now."""
        return self._lifecycle.handing_over

    def incarnation(self, name: str) -> str | None:
        """The unique name of a program's present incarnation."""
        return self._runners.incarnation(name)

    def status(self) -> StatusBody:
        """The answer of ``GET /v1/status``."""
        config, now = self._active.config, asyncio.get_running_loop().time()
        about = About(
            os.getpid(),
            __version__,
            time.monotonic() - self._began,
            self._lifecycle.word,
            self.plan.endpoint,
            str(config.file),
            str(self._bootstrap.logs),
            self._upgrade.done,
            tuple(str(problem) for problem in self._active.problems),
            tuple(str(file) for file in config.files),
            self._loop_watch.lag(now),
            tuple(self._loop_watch.silent()),
            tuple(self._degraded()),
        )
        proved = frozenset(alias for one in self.plan.programs.values() if one.asking for alias in one.asking.routes)
        names = {name: uuid for name in self._runners if (uuid := self.incarnation(name))}
        servers = {name: one for name in self._runners if (one := self._world.fork_servers.status(name)) is not None}
        return status_message(about, self.specs, self.states, self.plan.groups, now, names, servers, proved)

    def _degraded(self) -> list[str]:
        """What the daemon cannot do at present though it should."""
        unwritten = self._bootstrap.pump.problems().items()
        return [*self._troubles.texts(), *(f"the output of {name} cannot be kept: {why}" for name, why in unwritten)]

    def events(self, after: int) -> list[EventBody]:
        """The events since that number, oldest first, as far as they are kept."""
        return self._events.after(after)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds`` is true of the present state."""
        await self._snapshots.until(holds)

    def addressed(self, action: str, names: Sequence[str]) -> list[str]:
        """The programs that these names mean; one that does not exist is returned as it is."""
        return self._actions.addressed(action, names)

    async def act(self, action: str, names: Sequence[str], *, wait: bool) -> AsyncIterator[tuple[str, RequestOutcome]]:
        """Start, stop or restart these programs, and say what became of each, in this order. It goes on when nobody
        listens any more."""
        for name, answer in self._actions.begin(action, names, wait=wait).items():
            yield name, await asyncio.shield(answer)

    async def reload(self, *, dry_run: bool, wait: bool) -> ReloadBody:
        """Read the configuration again and change only what it changes."""
        return await self._reload.reload(dry_run=dry_run, wait=wait)

    async def upgrade(self) -> UpgradeBody:
        """Become the version that is installed now."""
        return await self._upgrade.upgrade()

    def shut_down(self, why: str) -> None:
        """Stop everything and end. Asked for twice: kill everything."""
        if not self.ending:
            self._log.info("shutting down", why=why)
            self._lifecycle.end()
            return
        self._log.warning("asked again: killing what is left", why=why)
        for name, runner in self._runners.items():
            runner.post(ev.StopRequested())  # one whose turn to stop had not come must not come back
            self._world.signal(name, signal.SIGKILL, tree=True)

    async def is_down(self) -> None:
        """Wait until everything is stopped."""
        await self._lifecycle.until_down()

    # Life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on from what a former daemon left, serve until told to end, and end. Raises ConfigError or OSError when it
        cannot start, and whatever made a part of it fail."""
        gone = await self._recover()
        try:
            async with self._lifecycle.tasks:
                answering, parts = self._serve(gone)
                await self._lifecycle.until_ending()
                await self._end()
                await answering
                for part in parts:
                    part.cancel()
        except BaseException:
            await self._fail()
            raise
        finally:
            await self._clean_up()
        self._log.info("ended")

    async def _recover(self) -> set[str]:
        """Take over what a former daemon left, and prepare every program; no runner turns yet. The programs that are no
        longer configured, and of which something lives."""
        become_subreaper()
        former = self._bootstrap.former
        self._world.inherit(former)
        await self._world.recover_listeners(former, self._bootstrap.kept)
        self._close_unclaimed()
        try:
            check_ports(self._active.config, self._runners.owns)
        except ConfigError as error:
            if not former.goes_on():
                raise
            self._active.problems += tuple(error.problems)  # a program that needs such a port waits for it, and says so
        self._active.warn()
        for problem in self._active.problems:
            self._log.error("the configuration is wrong: going on with the last good one", problem=str(problem))
        self._handle_signals()
        try:
            self._active.write_files()
        except OSError as error:
            if not former.goes_on():
                raise
            self._log.error("files cannot be written: who needs them fails at its next start", error=str(error))
        gone = await self._add_all(former)
        self._log.info("started", version=__version__, pid=os.getpid(), config=str(self._active.config.file))
        for problem in not_cached(self._active.config) if not former.goes_on() else ():
            self._log.warning("a start will have to wait for a download", problem=str(problem))
        return gone

    def _serve(self, gone: Collection[str]) -> tuple[asyncio.Task[None], list[asyncio.Task[None]]]:
        """Let every part of the daemon run: the task of the control socket, and those of the parts that never end by
        themselves."""
        start, former = self._lifecycle.start, self._bootstrap.former
        answering = self._lifecycle.start_vital(self._control.run())
        for name, runner in self._runners.items():
            entry = former.programs.get(name)
            recorded = entry.state if entry else None
            self._runners.let_run(runner, sweep_first=entry is not None and recorded is None, recorded=recorded)
            if name in gone:
                self._lifecycle.soon(self._see_off(name))
        # after the runners, whose first turn makes programs wanted: before it, everything seems to be as it should be
        parts = [
            start("telling systemd", self._watchdog.run),
            start("measuring the event loop", self._loop_watch.run),
            start("asking through the gateway", self._routes.prove),
            start("watching what the gateway needs", self._routes.watch_needs),
            start("reading what the gateway leaves out", self._left_out.run),
            start("looking after fork servers and replicas", self._maintain),
            start("looking after the runtime folder", self._folder.run),
            start("telling the gateway", self._feed.run),
            start("catching up with the configuration", lambda: self._reload.catch_up(former)),
        ]
        self._lifecycle.word = "running"
        return answering, parts

    async def _end(self) -> None:
        """Stop all programs, one group after the other: those that use others first. What is left is named."""
        self._lifecycle.word = "stopping"
        self._bootstrap.notifier.stopping("stopping")
        for names in fleet.stop_order(list(self.specs.values())):
            for name in names:
                self._runners[name].post(ev.StopRequested())
            for name in names:
                await self._runners[name].handled()
                await self._until_down(self._runners[name])
        for name, state in self.states.items():
            if state.orphaned:
                self._log.error("left behind", program=name, reason=state.reason)
        self._world.abandon()
        self._lifecycle.is_down()
        for runner in self._runners.values():
            runner.finish()
        self._control.stop()

    async def _until_down(self, runner: Runner) -> None:
        await self._snapshots.until(lambda: runner.state.phase in (Phase.STOPPED, Phase.FATAL))

    async def _fail(self) -> None:
        """A part of the daemon has failed. Under systemd the programs are left to the next daemon, which adopts them;
        else nobody would watch them any more, so they are ended."""
        if self._bootstrap.notifier.active:
            self._log.exception("unexpected: leaving the programs to the next daemon")
            return
        self._log.exception("unexpected: stopping everything")
        for names in fleet.stop_order(list(self.specs.values())):
            await asyncio.gather(*(self._world.end(name, GRACE, KILL_GRACE) for name in names))

    async def _clean_up(self) -> None:
        """Close everything, and remove the files that no later daemon needs."""
        runtime = self._bootstrap.runtime
        (runtime / SOCKET).unlink(missing_ok=True)
        try:
            await self._world.close()
            self._bootstrap.pump.stop()
        except Exception:  # what follows must be done all the same
            self._log.exception("not everything could be closed")
        if not self._world.incarnations:  # else a later daemon must find them
            for file in (runtime / fm.STATE, runtime / LAST_GOOD, self.plan.litellm_file, self.plan.engines_file):
                file.unlink(missing_ok=True)

    # Parts of it ------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        """Install the handlers, and let signals through that have waited since the bootstrap."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.shut_down, signum.name)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._lifecycle.soon(self._reload.by_signal()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._lifecycle.soon(self._upgrade.by_signal()))
        loop.add_signal_handler(signal.SIGCHLD, self._world.reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._world.reap()  # children that ended before: as process 1 of a container we may have inherited some

    def _close_unclaimed(self) -> None:
        """Close inherited sockets that no program claims: clients that connect there must be refused."""
        for name, fd in self._bootstrap.kept.items():
            os.close(fd)
            self._bootstrap.notifier.forget(name)

    async def _add_all(self, former: fm.Former) -> set[str]:
        """Add a runner for every program: those that are configured, and those of the former daemon that are not any
        more and of which something lives. The names of the latter."""
        spare = self.plan.spare
        gone = sorted(former.programs.keys() - self.plan.programs.keys())
        if spare is not None and spare.spec.name in gone and _ran(former.programs[spare.spec.name]):
            gone.remove(spare.spec.name)  # perhaps it alone serves: it is adopted, and goes when another one is ready
        for name, planned in self.plan.programs.items():
            self._runners.add(name, planned)
        for name in gone:
            await self._take_leave(name, former.programs[name])
        if spare is not None and spare.spec.name in former.programs and spare.spec.name not in gone:
            self._runners.add(spare.spec.name, spare)
        return set(gone) & self._runners.keys()

    async def _take_leave(self, name: str, entry: fm.Entry) -> None:
        """Let a program go that was taken out of the configuration while no daemon lived. Its processes get the time to
        end that they were promised, and nobody waits for that: it has a runner as long as something of it lives."""
        if not self._world.lives(name):
            await self._world.end(name, 0.0, 0.0)  # closes its pipe and its control group
            self._world.close_listener(name)
            self._world.forget(name)
            return
        # an older daemon did not store how the program is to be ended
        stop = entry.stop or StopSpec(sweep_grace=StopSpec().grace)
        spec = ProgramSpec(name, Kind.COMMAND, Launch(()), stop=stop, autostart=False, digest=entry.digest)
        self._runners.add(name, Planned(spec)).post(ev.StopRequested())

    async def _see_off(self, name: str) -> None:
        """Forget a program that is no longer configured when nothing of it is left."""
        await self._runners.ask(name, "stop")
        await self._snapshots.until(lambda: name not in self._runners or not self.states[name].orphaned)
        if name not in self.plan.programs:
            self._runners.drop(name)

    async def _maintain(self) -> None:
        """Look after the fork servers and the replicas, every ``MAINTAIN_EVERY`` seconds, for ever."""
        while True:
            await asyncio.sleep(MAINTAIN_EVERY)
            self._world.fork_servers.maintain()
            self._rolling.maintain()

    def _publish(self, name: str, before: State, state: State, event: Event) -> None:
        """A program's state has changed: wake who waits, store it for a later daemon, and tell whoever is to know."""
        self._snapshots.publish()
        if not self.ending:  # at the end every program is told to stop, which must not be taken for a person's request
            self._world.remember(name, state)
        self._feed.phase_changed(before, state)
        if fleet.visible_state(before) != fleet.visible_state(state):
            message = event_message(name, before, state, self.incarnation(name))
            self._events.add(message)
            self._log.info("state", **message)
        if self.show is not None:
            self.show(name, before, state)

    def _handover(self, lock: int, control: int, upgrades: int) -> fm.Handover:
        """What the next version of the daemon is to know. ``lock`` and ``control`` are descriptors that stay open."""
        events = tuple(dict(event) for event in self._events.after(0))
        put_off = tuple(self._rolling.put_off)
        return fm.Handover(lock, control, events, upgrades, self._began, put_off, umask=umask_of_children())


def _ran(entry: fm.Entry) -> bool:
    return entry.state is not None and entry.state.phase is Phase.RUNNING


def run(files: Sequence[Path], environ: dict[str, str], show: Callable[[Daemon], Show] | None = None) -> int:
    """Run the daemon in the foreground until it is told to end; its exit status. ``show`` is called with the daemon and
    returns what is called with every change of a program. Raises ConfigError, Refusal or OSError when it cannot
    start."""
    bootstrap = Bootstrap.prepare(environ)
    try:
        config, problems = bootstrap.configuration(files)
        return asyncio.run(_main(bootstrap, config, problems, show))
    except (ConfigError, Refusal):
        bootstrap.leave()
        raise


async def _main(
    bootstrap: Bootstrap, config: Config, problems: tuple[Problem, ...], show: Callable[[Daemon], Show] | None
) -> int:
    daemon = Daemon(bootstrap, config, problems)
    if show is not None:
        daemon.show = show(daemon)
    try:
        await daemon.run()
    except (ConfigError, Refusal):
        raise
    except Exception:
        return 1  # it is in the log, and the programs are stopped, or left to the next daemon
    return 0
