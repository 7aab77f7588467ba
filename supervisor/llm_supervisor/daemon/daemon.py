"""The composition root: makes everything, runs it in one task group, and ends it in order.

Exit status: 0 after an orderly end, 1 when something of ours broke, 2 when it may not start (a wrong configuration, a
taken port, another daemon).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llm_supervisor import __version__, paths
from llm_supervisor.config import Config, ConfigError, Plan, Problem, load, not_cached, plan
from llm_supervisor.config.plan import Planned, Pythons
from llm_supervisor.control.protocol import About, ModelGroup, event_message, outcome, settled, status_message
from llm_supervisor.control.server import REQUESTS, ControlServer
from llm_supervisor.core import event as ev
from llm_supervisor.core import fleet
from llm_supervisor.core.event import Event
from llm_supervisor.core.health import Answer, Observation
from llm_supervisor.core.hold import hold, hold_elsewhere
from llm_supervisor.core.reload import Action, Change, changes
from llm_supervisor.core.spec import Kind, Launch, ProgramSpec, StopSpec
from llm_supervisor.core.state import Phase, State, Wanted
from llm_supervisor.daemon import upgrade
from llm_supervisor.daemon.bootstrap import LAST_GOOD, SIGNALS, Ground, known_pythons, take_lock
from llm_supervisor.engines import litellm
from llm_supervisor.host import gpu, http, log, memory, net, output
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.process import become_subreaper, find
from llm_supervisor.names import SOCKET
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.local.fork_servers import MAINTAIN_EVERY
from llm_supervisor.supervision.local.local_world import LocalWorld
from llm_supervisor.supervision.resources import Refusal, check_ports, find_pythons, master_key
from llm_supervisor.supervision.runner import HEARTBEAT, Runner

# How often systemd is told how things stand (seconds); its watchdog is fed at least three times per period
TELL = 5.0
# What is asked of systemd at a time while a start or a stop makes progress (seconds)
EXTENSION = 60.0
# How often a route that fails is asked again, and how often it is looked whether there is a new one (seconds)
ROUTE_RETRY = 30.0
ROUTE_LOOK = 10.0
NEED_TIMEOUT = 5.0
# How often the gateway is told that we live, and so that what it reads holds (seconds)
TELL_GATEWAY = 5.0
WITHOUT = {"redis": "until it is back, the cache and the limits that are shared through it do nothing"}
# Seconds that an upgrade waits for starts that are being made
SPAWNS_WAIT = 10.0
# Events that can be asked for later
EVENTS_KEPT = 1000
STOPPED_MEANWHILE = "not restarted: was stopped meanwhile"
# What a program is asked for to bring a change about
ASKED = {Action.START: "start", Action.STOP: "stop", Action.RESTART: "restart"}
Show = Callable[[str, State, State], None]


class Daemon:
    """All programs of one configuration, from start to end."""

    def __init__(self, ground: Ground, config: Config, problems: tuple[Problem, ...] = ()) -> None:
        self.config, self._problems = config, problems
        self._ground, self._notifier, self._pump = ground, ground.notifier, ground.pump
        self.show: Show | None = None  # told of every change, for people who watch
        self._log = log.get()
        known = known_pythons(ground.runtime) if ground.former.goes_on() else None
        self._pythons = find_pythons(config, ground.data, known)
        self.plan = self._planned(config, self._pythons)
        self._pump.limit(self.plan.logs.max_bytes, self.plan.logs.backups)
        self._world = LocalWorld(
            ground.runtime,
            self._pump,
            own_environ=ground.environ,
            engine_environ=self.plan.environ,
            incidents=paths.incident_dir(ground.environ),
            gpus=gpu.detect() if any(model.gpus for model in config.root.models.values()) else None,
            store=ground.notifier,
        )
        self._began, self._upgrades = time.monotonic(), 0
        self._state = "starting"
        self._changed = asyncio.Event()
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        if (handover := ground.former.handover) is not None:
            self._began, self._upgrades = handover.began, handover.upgrades
            self._events.extend(handover.events)
        self._stop = asyncio.Event()
        self._down = asyncio.Event()
        self.runners: dict[str, Runner] = {}
        self._group = asyncio.TaskGroup()
        self._reloading, self._rolling = asyncio.Lock(), asyncio.Lock()
        self._put_off: list[str] = []  # replicas that are to be replaced after an upgrade
        # by engine: where the gateway's replicas may look for it, and since when it is not there
        self._addresses: dict[str, dict[str, float | None]] = {}
        self._dismissed: set[str] = set()  # told to leave by a configuration, and nothing else by anybody since
        self._upgrading = asyncio.Event()
        self._control: ControlServer | None = None
        self._all_known = False  # every runner had its first turn

    def _planned(self, config: Config, pythons: Pythons) -> Plan:
        key, self.key_file = master_key(config, self._ground.data) if config.root.gateway else ("", None)
        return plan(config, runtime=self._ground.runtime, pythons=pythons, master_key=key)

    # What the control server asks (control.server.Fleet) ---------------------------------------------------

    @property
    def specs(self) -> Mapping[str, ProgramSpec]:
        """All programs."""
        return {name: runner.spec for name, runner in self.runners.items()}

    @property
    def states(self) -> Mapping[str, State]:
        """The present snapshot."""
        return {name: runner.state for name, runner in self.runners.items()}

    def incarnation(self, name: str) -> str | None:
        """The present incarnation's name."""
        living = self._world.incarnations.get(name)
        return living.uuid if living else None

    def status(self) -> dict[str, Any]:
        """The status message."""
        about = About(
            os.getpid(),
            __version__,
            time.monotonic() - self._began,
            self._state,
            self.plan.endpoint,
            str(self.config.file),
            str(self._ground.logs),
            self._upgrades,
            tuple(str(problem) for problem in self._problems),
            tuple(str(file) for file in self.config.files),
        )
        asked = frozenset(alias for one in self.plan.programs.values() if one.asking for alias in one.asking.routes)
        groups = [ModelGroup(one.name, one.vision, one.engines, asked, one.disabled) for one in self.plan.groups]
        names = {name: uuid for name in self.runners if (uuid := self.incarnation(name))}
        servers = {name: one for name in self.runners if (one := self._world.fork_servers.status(name)) is not None}
        return status_message(about, self.specs, self.states, groups, asyncio.get_running_loop().time(), names, servers)

    def events(self, after: int) -> list[dict[str, Any]]:
        """What happened since the event of that number, oldest first, as far as it is kept."""
        return [event for event in self._events if event["id"] > after]

    async def post(self, name: str, event: Event) -> None:
        """Ask a program for something, and return when it has decided what that means."""
        self._dismissed.discard(name)  # a person's word is the last one
        await self._post(name, event)

    async def _post(self, name: str, event: Event) -> None:
        runner = self.runners[name]
        if isinstance(event, (ev.StartRequested, ev.RestartRequested)) and (self.ending or not self._stays(name)):
            return  # nothing comes back any more
        runner.post(event)
        while runner.pending:
            await asyncio.sleep(0)
        self._world.flush()  # a person's word that was answered outlives us

    async def changed(self) -> None:
        """Wait for the next snapshot."""
        await self._changed.wait()

    def shut_down(self, why: str) -> None:
        """Stop everything and end; asked twice, without a grace."""
        if self._stop.is_set():
            self._log.warning("asked again: killing what is left", why=why)
            for name, runner in self.runners.items():
                runner.post(ev.StopRequested())  # those whose turn had not come must not come back
                self._world.signal(name, signal.SIGKILL, tree=True)
            return
        self._log.info("shutting down", why=why)
        self._stop.set()

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    @property
    def handing_over(self) -> bool:
        """Whether it is about to become another version: who waits is answered now."""
        return self._upgrading.is_set()

    async def is_down(self) -> None:
        """Wait until everything is stopped."""
        await self._down.wait()

    # Life -------------------------------------------------------------------------------------------------

    def _publish(self, name: str, before: State, state: State, event: Event) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if not self.ending:  # that all is told to stop then is no person's word about this program
            self._world.remember(name, state)
        if before.phase is not state.phase:
            self._tell_gateway()
        if fleet.face(before) != fleet.face(state):
            number = self._events[-1]["id"] + 1 if self._events else 1
            message = event_message(name, before, state, self.incarnation(name))
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._events.append({"id": number, "at": now, **message})
            self._log.info("state", **message)
        if self.show is not None:
            self.show(name, before, state)

    async def run(self) -> None:
        """Everything, until it is told to end."""
        loop = asyncio.get_running_loop()
        become_subreaper()
        former = self._ground.former
        self._world.inherit(former)
        await self._world.recover_listeners(former, self._ground.kept)
        self._drop_unclaimed()
        try:
            check_ports(self.config, self._is_ours)
        except ConfigError as error:
            if not former.goes_on():
                raise
            self._problems += tuple(error.problems)  # who needs that port waits for it, and says so
        self._warn()
        for problem in self._problems:
            self._log.error("the configuration is wrong: going on with the last good one", problem=str(problem))
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.shut_down, signum.name)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._soon(self._reload_by_signal()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._soon(self._upgrade_by_signal()))
        loop.add_signal_handler(signal.SIGCHLD, self._world.reap)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        try:
            self._write_files()
        except OSError as error:
            if not former.goes_on():
                raise
            self._log.error("files cannot be written: who needs them fails at its next start", error=str(error))
        spare = self.plan.spare.spec.name if self.plan.spare else ""
        gone = sorted(former.programs.keys() - self.plan.programs.keys())
        if spare in gone and _ran(former.programs[spare]):
            gone.remove(spare)  # perhaps it alone serves: it is adopted, and goes when another one does
        for name, planned in self.plan.programs.items():
            self._add(name, planned)
        for name in gone:
            await self._take_leave(name, former.programs[name])
        if self.plan.spare is not None and spare in former.programs and spare not in gone:
            self._add(spare, self.plan.spare)
        leaving = self.runners.keys() & gone
        self._log.info("started", version=__version__, pid=os.getpid(), config=str(self.config.file))
        for problem in not_cached(self.config) if not former.goes_on() else ():
            self._log.warning("a start will have to wait for a download", problem=str(problem))
        try:
            async with self._group:
                serving = self._group.create_task(self._serve())
                for name, runner in self.runners.items():
                    entry = former.programs.get(name)
                    recorded = entry.state if entry else None
                    left = entry is not None and recorded is None
                    self._group.create_task(runner.run(sweep_first=left, recorded=recorded))
                    if name in leaving:
                        self._soon(self._see_off(name))
                # after the runners, whose first turn makes them wanted: before it, all is as it should be
                telling = [
                    self._group.create_task(one)
                    for one in (
                        self._tell(),
                        self._prove_routes(),
                        self._watch_needs(),
                        self._maintain(),
                        self._keep_telling(),
                        self._catch_up(former),
                    )
                ]
                self._state = "running"
                await self._stop.wait()
                self._state = "stopping"
                self._notifier.stopping("stopping")
                await self._stop_all()
                self._world.abandon()
                self._down.set()
                for runner in self.runners.values():
                    runner.finish()
                if self._control is not None:
                    self._control.stop()
                await serving
                for task in telling:
                    task.cancel()
        except BaseException:
            if self._notifier.active:
                # something of ours is broken. Whoever started us starts the next one, which adopts
                self._log.exception("unexpected: leaving the programs to the next daemon")
                raise
            # and here nobody would watch the programs any more
            self._log.exception("unexpected: stopping everything")
            for names in fleet.stop_order(list(self.specs.values())):
                await asyncio.gather(*(self._world.end(name, 5.0, 30.0) for name in names))
            raise
        finally:
            await self._world.close()
            self._pump.stop()
            (self._ground.runtime / SOCKET).unlink(missing_ok=True)
            if not self._world.incarnations:  # else a later daemon must find them
                for name in (fm.STATE, LAST_GOOD):
                    (self._ground.runtime / name).unlink(missing_ok=True)
                self.plan.litellm_file.unlink(missing_ok=True)
                self.plan.engines_file.unlink(missing_ok=True)
        self._log.info("ended")

    def _warn(self) -> None:
        for problem in self.config.warnings:
            self._log.warning("configuration", problem=str(problem))

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        """In the background. What goes wrong with one request is no reason for the daemon to end."""

        async def alone() -> None:
            try:
                await work
            except Exception:
                self._log.exception("a request failed")

        self._group.create_task(alone())

    def _add(self, name: str, planned: Planned) -> Runner:
        runner = Runner(planned.spec, self._world, self._publish, asking=planned.asking, reader=planned.reader)
        self.runners[name] = runner
        self._world.note_stop(name, planned.spec.stop)
        return runner

    async def _take_leave(self, name: str, entry: fm.Entry) -> None:
        """Of a program that was taken out of the configuration while no daemon lived. Its processes get the time to end
        that they were promised, and nobody waits for that: it has a runner as long as something of it lives."""
        if not self._world.lives(name):
            await self._world.end(name, 0.0, 0.0)  # its pipe, its group
            self._world.close_listener(name)
            self._world.forget(name)
            return
        # of what an older daemon has left nobody knows more than that
        stop = entry.stop or StopSpec(sweep_grace=StopSpec().grace)
        spec = ProgramSpec(name, Kind.COMMAND, Launch(()), stop=stop, autostart=False, digest=entry.digest)
        self._add(name, Planned(spec)).post(ev.StopRequested())

    async def _see_off(self, name: str) -> None:
        """Let go of a program that is no longer configured when nothing of it is left."""
        await self._ask(name, "stop")
        while name in self.runners and self.states[name].orphaned:
            await self.changed()
        if name not in self.plan.programs:
            self._drop(name)

    def _write_files(self) -> None:
        """What the gateway reads, and what a later daemon may need."""
        if self.plan.litellm_config is not None:
            text = yaml.safe_dump(dict(self.plan.litellm_config), sort_keys=False, allow_unicode=True)
            head = "# Made by llm-supervisor from the configuration; changes here are lost.\n"
            write_atomically(self.plan.litellm_file, (head + text).encode())
        if not self._problems:
            self._ground.remember(self.config, self._pythons)

    def _drop_unclaimed(self) -> None:
        """Sockets that somebody kept for nobody: who connects there must be refused."""
        for name, fd in self._ground.kept.items():
            os.close(fd)
            self._notifier.forget(name)

    async def _serve(self) -> None:
        """The control socket, over upgrades that do not come about too."""
        handover = self._ground.former.handover
        door = socket.socket(fileno=handover.control) if handover else net.bind_unix(str(self._ground.runtime / SOCKET))
        with door:
            while True:
                self._control = ControlServer(self, door.dup())
                await self._control.run()
                if self._down.is_set() or not self._upgrading.is_set():
                    return
                await self._become(door)
                self._upgrading.clear()
                if self._down.is_set():
                    return  # else whoever asks while all is stopped is answered
                while self._put_off:
                    self.replace_later(self._put_off.pop())

    # Another configuration ------------------------------------------------------------------------------------

    async def reload(self, *, dry_run: bool, wait: bool) -> dict[str, Any]:
        """Read the configuration again, and change only what it changes. The answer of ``POST /v1/reload``."""
        async with self._reloading:
            if self._stop.is_set() or self._upgrading.is_set():
                return {"ok": False, "problems": [], "changes": [], "error": "the daemon is about to end"}
            try:
                config = load(self.config.files, self._ground.environ, self._ground.vllm_options)
                pythons = find_pythons(config, self._ground.data, self._pythons)
                check_ports(config, self._is_ours)
                fresh = self._planned(config, pythons)
            except ConfigError as error:
                return self._not_reloaded([str(one) for one in error.problems])
            except (Refusal, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
                return self._not_reloaded([str(error) or repr(error)])
            specs = {name: planned.spec for name, planned in fresh.programs.items()}
            # a spare replica is nobody's plan: it goes by itself
            before = {name: spec for name, spec in self.specs.items() if name in specs or not self._is_spare(name)}
            todo = changes(before, specs, self.states, self._world.running(), self._dismissed)
            told: list[dict[str, Any]] = [
                {"program": one.program, "action": one.action.value, "why": one.why} for one in todo
            ]
            warnings = [*config.warnings, *not_cached(config)]
            answer = {"ok": True, "problems": [str(one) for one in warnings], "changes": told}
            if dry_run:
                self._planned(self.config, self._pythons)  # the key's file may be another one
                return answer
            kept = {name for name in specs if _way(self.plan, name) == _way(fresh, name)}
            try:
                self._take(config, pythons, fresh)
            except OSError as error:
                return self._not_reloaded([f"cannot be written down: {error}"])
            self._dismissed -= specs.keys()
            self._warn()
            self._log.info("reloaded", changes=[one for one in told if one["action"] != Action.NOTHING.value])
            for one in todo:
                if one.action is not Action.STOP:
                    self._renew(one.program)
            order = [*fresh.programs, *(self.runners.keys() - specs.keys())]
            self.runners = {name: self.runners[name] for name in order}
        # what holds is settled; that it comes about may take long, and another word may come meanwhile
        if not wait:
            self._soon(self._carry_out(todo, kept))
            return answer
        results = await self._carry_out(todo, kept)
        for line in told:
            if (result := results.get(line["program"])) is not None:
                line["outcome"] = result[1]
                line["ok"] = result[0]
        return {**answer, "ok": all(ok for ok, _ in results.values())}

    def _not_reloaded(self, problems: list[str]) -> dict[str, Any]:
        self._log.error("not reloaded: the configuration is wrong, nothing has changed", problems=problems)
        return {"ok": False, "problems": problems, "changes": []}

    def _take(self, config: Config, pythons: Pythons, fresh: Plan) -> None:
        """This is what holds from now on. Raises OSError, and then it does not."""
        before = (self.config, self._pythons, self.plan, self._problems)
        self.config, self._pythons, self.plan, self._problems = config, pythons, fresh, ()
        try:
            self._write_files()
        except OSError:
            self.config, self._pythons, self.plan, self._problems = before
            raise
        self._pump.limit(fresh.logs.max_bytes, fresh.logs.backups)
        self._world.engine_environ = fresh.environ
        if any(model.gpus for model in config.root.models.values()):
            self._world.find_gpus()

    def _renew(self, name: str) -> None:
        planned = self.plan.programs[name]
        if name in self.runners:
            runner = self.runners[name]
            self._world.note_stop(name, planned.spec.stop)
            if (runner.spec.digest, runner.spec.settings) != (planned.spec.digest, planned.spec.settings):
                same = runner.spec.digest == planned.spec.digest
                runner.replace(planned.spec, planned.asking, planned.reader)
                if same and runner.state.phase is Phase.RUNNING:
                    self._world.watched_anew(planned.spec)
            else:
                runner.spec = planned.spec  # another default of ours perhaps, for its next start
            return
        self._group.create_task(self._add(name, planned).run())

    async def _carry_out(self, todo: Sequence[Change], kept: Collection[str] = ()) -> dict[str, tuple[bool, str]]:
        """Do it: all at once, but the gateway's replicas one after the other, and those that are too many only when the
        others are there. By program: whether it worked.

        Engines that serve and are restarted come last, where the gateway's way to them is ``kept``: while one restarts,
        requests wait for it in the replicas, and a replica that is told to leave then cuts them when its drain is over.
        Where an engine gets another address, name or key, no order loses nothing: a replica of the one configuration
        cannot use an engine of the other. Then both go at once, which is over soonest."""
        rolling = [one.program for one in todo if one.action is Action.ROLLING]
        replicas = set(self._replicas())
        last = [one for one in todo if one.action is Action.STOP and one.program in replicas]
        leaving = self._serving(list(replicas)) and (rolling or last)
        later = [one for one in todo if leaving and one.program in kept and self._serves_until_then(one)]
        first = [one for one in todo if one.action in ASKED and one not in last and one not in later]
        async with asyncio.TaskGroup() as group:
            rolled = group.create_task(self._roll(rolling))
            others = [group.create_task(self._do(one)) for one in first]
        found = rolled.result() | dict(one.result() for one in others)
        missing = [name for name, (ok, _) in found.items() if name in replicas and not ok]
        for one in last:
            if missing:
                # perhaps it alone serves. It is a spare one now, and goes when another one is there
                found[one.program] = (False, f"left as it is, as {missing[0]} did not get ready")
            else:
                found |= dict([await self._do(one)])
        found |= dict(await asyncio.gather(*(self._do(one) for one in later)))
        for one in todo:
            if one.action is Action.STOP and one.program not in self.plan.programs:
                self._drop(one.program)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return found

    async def _do(self, one: Change) -> tuple[str, tuple[bool, str]]:
        """One change, unless another configuration has come meanwhile that says otherwise of that program."""
        if one.action is Action.STOP:
            return one.program, await self._dismiss(one.program)
        if one.program not in self.plan.programs:
            return one.program, (False, "is no longer configured")
        if one.action is Action.RESTART:  # it may have waited for its turn
            if self._is_told_to_stay_down(one.program):
                return one.program, (False, STOPPED_MEANWHILE)
            if self._world.running().get(one.program) == self.specs[one.program].digest:
                return await self._ask(one.program, "start")  # another reload was quicker: it is new, or on its way
        return await self._ask(one.program, ASKED[one.action])

    def _serves_until_then(self, one: Change) -> bool:
        """Whether it is an engine that serves until it is restarted."""
        spec, state = self.specs.get(one.program), self.states.get(one.program)
        serves = state is not None and state.phase is Phase.RUNNING
        return serves and one.action is Action.RESTART and spec is not None and spec.kind is Kind.VLLM

    async def _dismiss(self, name: str) -> tuple[bool, str]:
        """Let it leave, as it is no longer configured. It may be put back before it is gone: that somebody wants it
        down must be told from a person's word then, which would hold."""
        if name in self.runners and name not in self.plan.programs:
            if self.states[name].wanted is Wanted.UP:
                self._dismissed.add(name)
            _, said = await self._ask(name, "stop")
            if name not in self.plan.programs:
                return said
        return True, "is configured again" if name in self.plan.programs else "is no longer configured"

    async def _ask(self, name: str, action: str) -> tuple[str, tuple[bool, str]]:
        """Ask for it, and wait until it has come about or cannot any more."""
        if name not in self.runners:
            return name, (action == "stop", "is no longer configured")
        if action != "stop":
            self._dismissed.discard(name)
        if action == "restart":
            self._world.let_go_of_listener(self.specs[name])
        since = self.states[name].incarnation
        await self._post(name, REQUESTS[action]())
        while name in self.runners and not (self.ending or self.handing_over):
            if settled(action, self.states[name], since):
                return name, outcome(action, self.states[name])
            await self.changed()
        return name, (action == "stop" or self.handing_over, "asked")

    async def _roll(self, names: Sequence[str]) -> dict[str, tuple[bool, str]]:
        """Each is ready before the next one leaves; when one does not get ready, the rest is left as it is."""
        found: dict[str, tuple[bool, str]] = {}
        for name in names:
            found[name] = await self.replace(name, changed=True)
            if not found[name][0]:
                rest = names[names.index(name) + 1 :]
                return found | dict.fromkeys(rest, (False, f"left as it is, as {name} did not get ready"))
        return found

    async def replace(self, name: str, *, changed: bool = False) -> tuple[bool, str]:
        """A new process for a replica of the gateway. Another one serves meanwhile: where there is none, a spare one
        that is ready before the old one drains. ``changed``: only if its process is not the new one
        yet. Whether it worked, and in words. One that is stopped meanwhile, while others are replaced or a spare one
        starts, stays so."""
        wanted = changed or not self._is_told_to_stay_down(name)
        async with self._rolling:
            if self.ending or name not in self.runners:
                return False, "not restarted: the daemon is about to end, or it is no longer configured"
            if self.handing_over:
                if not changed and name not in self._put_off:  # what has changed the next daemon sees by itself
                    self._put_off.append(name)
                return True, "asked"
            if wanted and self._is_told_to_stay_down(name):
                return False, STOPPED_MEANWHILE
            planned = self.plan.spare
            others = [one for one in self._replicas() if one != name]
            serves = self.states[name].phase is Phase.RUNNING
            if changed and serves and self._world.running().get(name) == self.specs[name].digest:
                return True, "is new already"
            if planned is None or not serves or planned.spec.name in self.runners or self._serving(others):
                return (await self._ask(name, "restart"))[1]
            spare = planned.spec.name
            self._group.create_task(self._add(spare, planned).run())
            _, (ok, words) = await self._ask(spare, "start")
            if self._is_told_to_stay_down(name):
                ok, words = False, STOPPED_MEANWHILE
            elif ok:
                _, (ok, words) = await self._ask(name, "restart")
            else:
                words = f"left as it is, as a new one did not get ready: {words}"
            await self._retire(spare, [name])
            return ok, words

    def replace_later(self, name: str) -> None:
        """The same, without waiting."""
        self._soon(self.replace(name))

    def _is_told_to_stay_down(self, name: str) -> bool:
        return name in self.runners and self.states[name].wanted is Wanted.DOWN

    def _replicas(self) -> list[str]:
        return [name for name, runner in self.runners.items() if runner.spec.kind is Kind.LITELLM]

    def _is_spare(self, name: str) -> bool:
        return self.runners[name].spec.kind is Kind.LITELLM and name not in self.plan.programs

    def _stays(self, name: str) -> bool:
        """Whether it is one of ours, and not only on its way out."""
        return name in self.plan.programs or self._is_spare(name)

    def _serving(self, names: Sequence[str]) -> bool:
        states = [self.runners[name].state for name in names if name in self.runners]
        return any(state.phase is Phase.RUNNING and state.wanted is Wanted.UP for state in states)

    async def _retire(self, spare: str, others: Sequence[str]) -> None:
        """Let the spare one go, unless it alone serves; nobody is to, where all others were told to stay down."""
        unwanted = all(self._is_told_to_stay_down(name) for name in self._replicas() if not self._is_spare(name))
        if (unwanted or self._serving(others)) and not self.ending and spare not in self.plan.programs:
            await self._dismiss(spare)
            if spare not in self.plan.programs:
                self._drop(spare)

    async def _retire_alone(self, spare: str) -> None:
        """One that was left over."""
        async with self._rolling:
            if spare in self.runners:
                await self._retire(spare, [one for one in self._replicas() if one != spare])

    def _drop(self, name: str) -> None:
        """It is no program of ours any more; if it is down, that is, and nothing of it lives on."""
        state = self.runners[name].state if name in self.runners else None
        if state is None or self.ending or state.orphaned:
            return
        if state.phase in (Phase.STOPPED, Phase.FATAL):
            self.runners.pop(name).finish()
            self._dismissed.discard(name)
            self._world.forget(name)

    async def _catch_up(self, former: fm.Former) -> None:
        """What the configuration changed while no daemon lived is changed now, and what was put off is done."""
        for name in former.handover.replace if former.handover is not None else ():
            self.replace_later(name)
        known = {name: one for name, one in former.programs.items() if one.state is not None and one.digest}
        old = {name: replace(spec, digest=known[name].digest) for name, spec in self.specs.items() if name in known}
        new = {name: spec for name, spec in self.specs.items() if name in known}
        todo = changes(old, new, self.states, self._world.running())
        todo = [one for one in todo if one.action in (Action.START, Action.RESTART, Action.ROLLING)]
        if todo:
            self._log.info("changed while no daemon lived", programs=[one.program for one in todo])
            await self._carry_out(todo)

    async def _reload_by_signal(self) -> None:
        await self.reload(dry_run=False, wait=True)

    # Another version ------------------------------------------------------------------------------------------

    async def upgrade(self) -> dict[str, Any]:
        """Rehearse the code that is installed now; if it would do, become it soon. As POST /v1/upgrade answers."""
        async with self._reloading, self._rolling:
            if (refusal := self._no_upgrade()) is not None:
                return refusal
            try:
                self._world.save()
                version = await asyncio.to_thread(upgrade.rehearse)
            except (upgrade.Unfit, OSError) as error:
                self._log.error("not upgraded: everything stays as it is", error=str(error))
                return {"ok": False, "error": str(error)}
            if (refusal := self._no_upgrade()) is not None:
                return refusal  # a rehearsal takes long enough for another word
            self._log.info("upgrading", version=version)
            self._upgrading.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()  # who waits is answered
        self._soon(self._close_door())
        return {"ok": True, "version": version, "upgrades": self._upgrades}

    def _no_upgrade(self) -> dict[str, Any] | None:
        """The answer where something else was asked for first."""
        if self._stop.is_set():
            return {"ok": False, "error": "the daemon is about to end"}
        if self._upgrading.is_set():
            return {"ok": False, "error": "it becomes another version already"}
        return None

    async def _close_door(self) -> None:
        """After the answer that is on its way. Not where all is to end: then somebody waits to hear that it has."""
        await asyncio.sleep(0.05)
        if self._control is not None and not self._stop.is_set():
            self._control.stop()

    async def _upgrade_by_signal(self) -> None:
        await self.upgrade()

    async def _become(self, door: socket.socket) -> None:
        """Exec. Returns only when that did not work; then all is as it was."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SPAWNS_WAIT
        while any(state.spawning for state in self.states.values()) and loop.time() < end and not self.ending:
            await asyncio.sleep(0.01)  # a start that nobody has written down yet would be swept
        async with self._rolling:
            pass  # who waited for it has had his turn, and has put off what he wanted
        await self._world.fork_servers.close()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for _ in range(3):
            await asyncio.sleep(0)  # a signal that has come, and was not handled yet
        if self._stop.is_set():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return
        self._pump.halt()
        argv = upgrade.command()
        try:
            door.set_inheritable(True)
            os.set_inheritable(self._ground.lock, True)
            self._world.hand_over(
                fm.Handover(
                    lock=self._ground.lock,
                    control=door.fileno(),
                    events=tuple(self._events),
                    upgrades=self._upgrades + 1,
                    began=self._began,
                    replace=tuple(self._put_off),
                )
            )
            sys.stdout.flush()
            os.execve(argv[0], argv, upgrade.environment())
        except OSError as error:
            self._log.error("not upgraded: exec failed", error=str(error), argv=argv)
        self._world.keep_on()
        self._pump.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _is_ours(self, pid: int) -> bool:
        trees = [living.tree for living in self._world.incarnations.values()]
        return pid == os.getpid() or any(row.pid == pid for tree in trees for row in find(tree))

    async def _stop_all(self) -> None:
        """Group after group, what uses others first; nothing is left, or it is named."""
        for names in fleet.stop_order(list(self.specs.values())):
            for name in names:
                self.runners[name].post(ev.StopRequested())
            for name in names:
                runner = self.runners[name]
                while runner.pending or runner.state.phase not in (Phase.STOPPED, Phase.FATAL):
                    await self.changed()
        stuck = [runner for runner in self.runners.values() if runner.state.orphaned]
        for runner in stuck:
            self._log.error("left behind", program=runner.name, reason=runner.state.reason)

    async def _prove_routes(self) -> None:
        """One canary through the gateway for each local group, after either side changed and until it is answered: so
        that a wrong key, route or address is found. The result is an observation of the gateway."""
        loop = asyncio.get_running_loop()
        proved: dict[tuple[str, str], tuple[int, int]] = {}
        again: dict[tuple[str, str], float] = {}
        while True:
            routes = [
                (gateway, planned.asking, alias, canary)
                for gateway, planned in self.plan.programs.items()
                if planned.asking is not None
                for alias, canary in planned.asking.routes.items()
            ]
            for gateway, asking, alias, canary in routes:
                route = (gateway, alias)
                if gateway not in self.runners or alias not in self.runners:
                    continue  # gone since
                front, engine = self.runners[gateway], self.runners[alias]
                pair = fleet.pair_ready(front.state, engine.state)
                if pair is None or (proved.get(route) == pair and loop.time() < again.get(route, math.inf)):
                    continue
                proved[route] = pair
                with engine.own_request():
                    answer = await self._world.send(gateway, asking, canary, front.spec.health.canary_timeout)
                if fleet.pair_ready(front.state, engine.state) != pair:
                    proved.pop(route, None)  # one of the two has gone meanwhile: no verdict on its successor
                    continue
                if answer.answer is Answer.SILENT and engine.state.health.pending:
                    again[route] = loop.time() + ROUTE_RETRY  # it waited behind the engine's work: no verdict
                    continue
                front.post(ev.Observed(pair[0], Observation(routes={alias: answer})))
                # what is wrong with a route may be mended elsewhere: ask again now and then
                again[route] = math.inf if answer.answer is Answer.OK else loop.time() + ROUTE_RETRY
            try:
                async with asyncio.timeout(ROUTE_LOOK):
                    await self.changed()
                await asyncio.sleep(0.05)
            except TimeoutError:
                pass

    async def _watch_needs(self) -> None:
        """Whether what a gateway needs beside its engines is there: it may work without, but not do all that it
        should. The result is an observation of the gateway, as a route's is."""
        asked = 0  # the incarnation that was told last
        while True:
            needy = [
                (self.runners[name], planned.asking.needs)
                for name, planned in self.plan.programs.items()
                if planned.asking is not None and planned.asking.needs and name in self.runners
            ]
            for runner, needs in needy:
                if runner.state.phase is not Phase.RUNNING:
                    continue
                asked = runner.state.incarnation
                seen = {}
                for need, address in needs.items():
                    found = await http.connect(*address, NEED_TIMEOUT)
                    if found.answer is not Answer.OK:
                        found = replace(found, answer=Answer.WRONG, detail=f"{found.detail}; {WITHOUT[need]}")
                    seen[need] = found
                runner.post(ev.Observed(asked, Observation(routes=seen)))
            # a new one is told soon
            told = not needy or any(runner.state.incarnation == asked for runner, _ in needy)
            await asyncio.sleep(ROUTE_LOOK if told else 0.5)

    def _tell_gateway(self) -> None:
        """Write down how the engines are, for requests that may wait for one."""
        if not self._all_known:
            return  # what the daemon before this one has told is true; a runner that had no turn yet knows nothing
        now = time.monotonic()
        engines = self._engines(now)
        if engines:
            try:
                write_atomically(self.plan.engines_file, json.dumps({"at": now, "engines": engines}).encode())
            except OSError as error:
                self._log.warning("the gateway is not told", error=str(error))  # an old file holds nobody

    def _engines(self, now: float) -> dict[str, dict[str, Any]]:
        """How each engine is, by address. One that was given another address has the old one too, as long as a replica
        runs that knows no other: what comes to where the engine is not waits, and is not sent there."""
        digests = {one.spec.digest for one in self.plan.programs.values() if one.spec.kind is Kind.LITELLM}
        running = self._world.running()
        current = all(running[name] in digests for name in self._replicas() if name in running)
        is_at: dict[str, dict[str, Any]] = {}
        elsewhere: dict[str, dict[str, Any]] = {}
        for name, runner in self.runners.items():
            if runner.spec.kind is not Kind.VLLM:
                continue
            meant = litellm.engine_base(name, runner.spec.launch.port)
            living = self._world.incarnations.get(name)
            known = living is not None and (living.port is not None or living.uds is not None)
            place = litellm.engine_base(name, living.port) if living is not None and known else meant
            before = {} if current else self._addresses.get(name, {})
            since = {base: before.get(base) or now for base in {**before, meant: None} if base != place}
            self._addresses[name] = {place: None, **since}
            is_at[place] = asdict(hold(runner.state, self.plan.hold, now))
            for base, when in since.items():
                elsewhere[base] = asdict(hold_elsewhere(runner.state, self.plan.hold, when, now))
        return elsewhere | is_at  # an address may be another one's by now

    async def _keep_telling(self) -> None:
        self._all_known = True
        while True:
            self._tell_gateway()
            await asyncio.sleep(TELL_GATEWAY)

    async def _maintain(self) -> None:
        """Look after the fork servers, and after replicas that have grown too much."""
        while True:
            await asyncio.sleep(MAINTAIN_EVERY)
            self._world.fork_servers.maintain()
            self._replace_grown()
            for name in [name for name in self._replicas() if self._is_spare(name)]:
                if not self._rolling.locked():
                    self._soon(self._retire_alone(name))

    def _replace_grown(self) -> None:
        """Restart the one whose turn it is."""
        limited = {name: one.state for name, one in self.runners.items() if one.spec.max_rss is not None}
        sizes = {name: memory.resident(state.pid) for name, state in limited.items() if state.pid is not None}
        name = fleet.grown({name: self.specs[name] for name in limited}, limited, sizes)
        if name is not None:
            self._log.warning("grown too much: replaced", program=name, rss=sizes[name])
            self.replace_later(name)

    async def _tell(self) -> None:
        """Tell systemd how things stand, as long as everything turns."""
        told_ready, last = False, ""
        loop = asyncio.get_running_loop()
        pause = min(TELL, self._notifier.watchdog / 3) if self._notifier.watchdog else TELL
        while True:
            words = fleet.in_words(self.states)
            ours = {name: runner.spec for name, runner in self.runners.items() if self._stays(name)}
            if not told_ready and fleet.reached(self.plan.ready_when, ours, {name: self.states[name] for name in ours}):
                told_ready = self._notifier.ready(words) or not self._notifier.active
            elif self._stop.is_set():
                # every phase of leaving has its deadline, so this ends by itself
                if any(runner.state.deadline is not None for runner in self.runners.values()):
                    self._notifier.extend(EXTENSION)
            elif not told_ready and fleet.progressing(self.states.values(), loop.time(), EXTENSION):
                # a start that moves may take its time; one that does not runs out of systemd's
                self._notifier.extend(EXTENSION)
            if words != last:
                last = words
                self._notifier.status(words)
            turning = all(loop.time() - runner.turned_at < 3 * HEARTBEAT for runner in self.runners.values())
            if turning and self._pump.alive and time.monotonic() - self._pump.turned_at < 3 * HEARTBEAT:
                self._notifier.alive()
            elif not self._pump.alive:
                raise RuntimeError("the output pump has ended: children would block on their output")
            try:
                async with asyncio.timeout(pause):
                    await self.changed()
                await asyncio.sleep(0.05)  # many changes at once are told once
            except TimeoutError:
                pass


def _way(known: Plan, name: str) -> tuple[object, ...]:
    """How the gateway asks an engine: where, for which model, with which key."""
    entries = (known.litellm_config or {}).get("model_list") or []
    params = [entry["litellm_params"] for entry in entries if entry["model_name"] == name]
    asked = [(one.get("model"), one.get("api_base")) for one in params]
    asking = known.programs[name].asking if name in known.programs else None
    return (asked, asking.address, asking.headers) if asking is not None else ()


def _ran(entry: fm.Entry) -> bool:
    return entry.state is not None and entry.state.phase is Phase.RUNNING


async def sweep_orphans(environ: Mapping[str, str]) -> dict[str, int]:
    """End what a daemon that is no more left running: program to number of processes found.

    Raises Refusal when a daemon lives, or when something cannot be ended."""
    found: dict[str, int] = {}
    stuck: list[str] = []
    for runtime in paths.runtime_dirs(environ):
        if not (runtime / fm.STATE).exists():
            continue
        lock = take_lock(runtime)
        pump = output.Pump(paths.log_dir(environ))
        pump.start()
        try:
            former = fm.read(runtime) or fm.Former({})
            fm.reopen(former, runtime, pump, {})
            world = LocalWorld(runtime, pump, own_environ={}, engine_environ={}, incidents=paths.incident_dir(environ))
            world.inherit(former)
            for name in sorted(world.incarnations):
                ended = await world.end(name, 5.0, 30.0)
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


def run(files: Sequence[Path], environ: dict[str, str], show: Callable[[Daemon], Show] | None = None) -> int:
    """Run the daemon in the foreground until it is told to end; its exit status."""
    ground = Ground.prepare(environ)
    try:
        config, problems = ground.configuration(files)
        return asyncio.run(_main(ground, config, problems, show))
    except (ConfigError, Refusal):
        ground.leave()
        raise


async def _main(
    ground: Ground, config: Config, problems: tuple[Problem, ...], show: Callable[[Daemon], Show] | None
) -> int:
    daemon = Daemon(ground, config, problems)
    if show is not None:
        daemon.show = show(daemon)
    try:
        await daemon.run()
    except (ConfigError, Refusal):
        raise
    except Exception:
        return 1  # it is in the log; the programs are stopped
    return 0
