"""The world of this machine behind ``supervision.world.World``: what one daemon does with processes and sockets.

It composes the collaborators of this folder and hands them what they share. What should be decided by ``core`` is not
decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llm_supervisor.core import event as ev
from llm_supervisor.core.health import Counters, ProbeResult
from llm_supervisor.core.probe import Canary, HttpProbe, MetricsProbe, ProbePlan
from llm_supervisor.core.recovery import Remnant
from llm_supervisor.core.spec import Kind, ProgramSpec, StopSpec
from llm_supervisor.core.state import State
from llm_supervisor.engines import hub_cache
from llm_supervisor.host import bounded, gpu
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.output.reader import excerpt
from llm_supervisor.host.process import Child, Identity, boot_id, find
from llm_supervisor.host.systemd import Notifier
from llm_supervisor.supervision.local.asking import ProbeClient
from llm_supervisor.supervision.local.fork_servers import ForkServerPool
from llm_supervisor.supervision.local.gpu_turns import GpuTurns
from llm_supervisor.supervision.local.incarnation import Incarnation
from llm_supervisor.supervision.local.launch import Environments, Launcher
from llm_supervisor.supervision.local.listeners import Listeners, Store
from llm_supervisor.supervision.local.post_mortem import PostMortem
from llm_supervisor.supervision.local.teardown import Teardown
from llm_supervisor.supervision.local.watch import DISK_WITHIN, OutputReader, TreeWatch
from llm_supervisor.supervision.state_file import FIFOS, Former, Handover, StateFile
from llm_supervisor.supervision.troubles import Troubles
from llm_supervisor.supervision.world import Launched, Post, Swept


class LocalWorld:
    """Everything that is alive, by program. ``store`` keeps descriptors for the next daemon."""

    def __init__(
        self,
        runtime: Path,
        pump: Pump,
        *,
        own_environ: Mapping[str, str],
        engine_environs: Mapping[Kind, Mapping[str, str]],
        incidents: Path,
        gpus: gpu.Gpus | None = None,
        store: Store | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        (runtime / FIFOS).mkdir(mode=0o700, exist_ok=True)
        store = store or Notifier(None)
        self.incarnations: dict[str, Incarnation] = {}
        self._runtime, self._pump = runtime, pump
        self._environments = Environments(own_environ, engine_environs)
        self._listeners = Listeners(store)
        self._gpu_turns = GpuTurns(gpus or gpu.NoGpus(), self._pids)
        self._watch = TreeWatch()
        self._output = OutputReader(pump.folder)
        self._state_file = StateFile(
            runtime,
            living=lambda: {name: living.entry() for name, living in self.incarnations.items()},
            accepting=lambda: self._listeners.accepting,
            limits=lambda: pump.limits,
            troubles=troubles,
        )
        self.fork_servers = ForkServerPool(runtime / "fork-servers", self._state_file.starting)
        self._launcher = Launcher(
            runtime,
            self.incarnations,
            pump,
            store,
            environments=self._environments,
            state_file=self._state_file,
            gpu_turns=self._gpu_turns,
            listeners=self._listeners,
            fork_servers=self.fork_servers,
            reader=self._output,
        )
        post_mortem = PostMortem(pump, incidents, self._gpu_turns.facts)
        self._teardown = Teardown(self.incarnations, pump, store, self._gpu_turns, self.fork_servers, post_mortem)
        self._probes = ProbeClient(self.incarnations, self._watch.look)

    # The protocol World, which says what each of these does ---------------------------------------------------

    async def spawn(self, spec: ProgramSpec, incarnation: int, post: Post, *, warm: bool) -> Launched:
        return await self._launcher.spawn(spec, incarnation, post, warm=warm)

    def adopt(self, name: str, incarnation: int, post: Post) -> Remnant:
        living = self.incarnations.get(name)
        if living is None:
            return Remnant(None, remains=False, began=False)
        living.number = incarnation
        began = living.first is not None
        if living.tree.leader is not None:
            pid, started = living.tree.leader
            living.leader = Child.open(pid, Identity(pid, started, boot_id()))
        if living.leader is not None:
            living.leader.watch(lambda status: post(ev.Exited(incarnation, status)))
            return Remnant(living.leader.pid, remains=True, began=True)
        remains = bool(find(living.tree))
        if not remains:
            living.tree.leader = None
            if not began:  # nothing was ever recorded of it but the name of its next incarnation
                self._teardown.release(name, living)
        return Remnant(None, remains=remains, began=began)

    def signal(self, name: str, signum: int, *, tree: bool) -> None:
        self._teardown.signal(name, signum, tree=tree)

    async def sweep(self, spec: ProgramSpec, state: State, grace: float, kill_grace: float) -> Swept:
        return await self._teardown.sweep(spec, state, grace, kill_grace)

    async def orphans_gone(self, name: str) -> None:
        await self._teardown.orphans_gone(name)

    def take_baseline(self, spec: ProgramSpec, incarnation: int, post: Post) -> None:
        living = self.incarnations.get(spec.name)
        if living is None or living.number != incarnation:
            self._gpu_turns.end(spec.name)
            return
        if living.warm:
            self.fork_servers.succeeded(spec.name)
        self.fork_servers.want(spec.name, spec.launch, self._environments.of(spec, living.cookie))
        self._watch.take_baseline(spec, living, post)
        self._gpu_turns.ready(spec.name)
        self._state_file.save_soon()

    def stopped(self, spec: ProgramSpec) -> tuple[str, ...]:
        living = self.incarnations.get(spec.name)
        return () if living is None else self._watch.stopped(spec, living)

    def worked(self, spec: ProgramSpec) -> int:
        living = self.incarnations.get(spec.name)
        return 0 if living is None else self._watch.worked(living)

    async def dump_stacks(self, spec: ProgramSpec) -> None:
        if (living := self.incarnations.get(spec.name)) is not None:
            await self._watch.dump_stacks(spec, living)

    async def output(self, name: str) -> tuple[list[bytes], bool]:
        return await self._output.lines(name)

    async def log_of(self, name: str, limit: int) -> bytes:
        """What the living incarnation has written so far, at most so many bytes; empty where there is none. Raises
        ``bounded.NoAnswer`` where the disk of the log does not answer."""
        if (living := self.incarnations.get(name)) is None:
            return b""
        folder, end = self._pump.folder(name), self._pump.position(name)
        thing = f"the folder {folder}"
        return await bounded.ask(thing, excerpt, folder, living.log_from, end, limit, within=DISK_WITHIN)

    async def downloaded(self, spec: ProgramSpec) -> int:
        total = 0
        for folder in spec.launch.downloads:
            try:
                total += await bounded.ask(f"the folder {folder}", hub_cache.growth, (folder,), within=DISK_WITHIN)
            except bounded.NoAnswer:
                continue
        return total

    async def ask(self, name: str, asking: ProbePlan, question: HttpProbe | None, timeout: float) -> ProbeResult:
        return await self._probes.ask(name, asking, question, timeout)

    async def read(
        self, name: str, asking: ProbePlan, reading: MetricsProbe, timeout: float
    ) -> tuple[ProbeResult, Counters | None]:
        return await self._probes.read(name, asking, reading, timeout)

    async def send(self, name: str, asking: ProbePlan, canary: Canary, timeout: float) -> ProbeResult:
        return await self._probes.send(name, asking, canary, timeout)

    def close_listener(self, name: str) -> None:
        self._listeners.close(name)

    # What the daemon needs: configurations -------------------------------------------------------------------

    @property
    def engine_environs(self) -> Mapping[Kind, Mapping[str, str]]:
        """The variables from which those of the engines are made, by kind; a new configuration may bring others."""
        return self._environments.engines

    @engine_environs.setter
    def engine_environs(self, environs: Mapping[Kind, Mapping[str, str]]) -> None:
        self._environments.engines = environs

    def find_gpus(self) -> None:
        """Look for GPUs: a configuration has come that names some."""
        self._gpu_turns.detect()

    def note_stop(self, name: str, stop: StopSpec) -> None:
        """Write down how a program is to be ended, for a daemon whose configuration no longer has it."""
        self._state_file.note_stop(name, stop)

    def watched_anew(self, spec: ProgramSpec) -> None:
        """The same process runs under another spec: perhaps its next start may be warm now, or may not be any more."""
        living = self.incarnations.get(spec.name)
        if living is not None and spec.name not in self._state_file.starting():
            self.fork_servers.want(spec.name, spec.launch, self._environments.of(spec, living.cookie))

    def let_go_of_listener(self, spec: ProgramSpec) -> None:
        """Close the socket of a program that is about to leave and will listen elsewhere when it is back."""
        self._listeners.close_if_moved(spec)

    def forget(self, name: str) -> None:
        """The program is no longer configured, and nothing of it is left."""
        self.fork_servers.forget(name)
        self._state_file.forget(name)
        self._output.forget(name)
        self._gpu_turns.forget(name)
        self._pump.forget(name)

    def lives(self, name: str) -> bool:
        """Whether any process of the program is alive."""
        return name in self.incarnations and bool(find(self.incarnations[name].tree))

    def running(self) -> dict[str, str]:
        """The digests of the specs with which the living incarnations were started, by program."""
        digests = {name: self._state_file.digest(name) for name in self.incarnations}
        return {name: digest for name, digest in digests.items() if digest is not None}

    # What the daemon needs: its own end, and what it inherits ------------------------------------------------

    def runtime_files(self) -> tuple[Path, ...]:
        """What has to be in the runtime folder as long as the daemon runs."""
        return self._runtime / FIFOS, self._state_file.file

    def move(self, runtime: Path) -> None:
        """Use that runtime folder from now on, which may be the same one made again. The pipes stay open; their names
        are gone, and a later daemon finds them by their processes. Raises OSError."""
        (runtime / FIFOS).mkdir(mode=0o700, exist_ok=True)
        self._runtime = runtime
        self._launcher.move(runtime)
        self.fork_servers.move(runtime / "fork-servers")
        for living in self.incarnations.values():
            living.fifo = runtime / FIFOS / living.fifo.name
        self._state_file.move(runtime)

    def remember(self, name: str, state: State) -> None:
        """Write down the state of a program, within a moment."""
        self._state_file.remember(name, state)

    def flush(self) -> None:
        """Write down what is not written yet."""
        self._state_file.flush()

    def save(self) -> None:
        """Write down everything now. Raises OSError."""
        self._state_file.save()

    def inherit(self, former: Former) -> None:
        """Know everything that a former daemon recorded, to go on with it (``adopt``) or to end it."""
        self._state_file.inherit(former)
        for name, entry in former.programs.items():
            if not entry.cookie and not entry.next:
                continue
            living = Incarnation.from_entry(entry, self._runtime, former.pipes.get(name))
            self.incarnations[name] = living
            self._output.begin(name, living.log_from)
            self._gpu_turns.inherit(name, living.baselines)

    def _pids(self, name: str) -> set[int]:
        """The pids of a program's tree, as far as they were seen."""
        living = self.incarnations.get(name)
        return set() if living is None else {pid for pid, _ in living.tree.seen} | {pid for pid, *_ in living.expected}

    async def recover_listeners(self, former: Former, kept: dict[str, int]) -> None:
        """Get back the sockets on which a former daemon's programs listen; used descriptors are taken out of
        ``kept``."""
        await self._listeners.recover(former, kept)

    def hand_over(self, handover: Handover) -> None:
        """Leave open and write down what we need ourselves after an exec; listeners and FIFOs are added here. Raises
        OSError."""
        fifos = {str(one.fifo): one.pipe for one in self.incarnations.values() if one.pipe is not None}
        self._state_file.hand_over(replace(handover, listeners=self._listeners.descriptors(), fifos=fifos))

    def keep_on(self) -> None:
        """The exec has failed: nothing is handed over."""
        self._state_file.take_back()

    def abandon(self) -> None:
        """At an orderly end: what could not be ended is for the next daemon to end, and nothing else is kept."""
        self._state_file.forget_states()
        if self.incarnations:
            self._state_file.save_now()

    async def end(self, name: str, grace: float, kill_grace: float) -> Swept:
        """End every process of the program: SIGTERM, after ``grace`` seconds SIGKILL, for ``kill_grace`` seconds."""
        return await self._teardown.end(name, grace, kill_grace)

    def reap(self) -> None:
        """Reap orphans that came to us. Call it on SIGCHLD."""
        self._teardown.reap()

    async def close(self) -> None:
        """Close connections and sockets. Processes are ended by the runners."""
        self._state_file.close()
        await self._teardown.cleaned()
        await self.fork_servers.close()
        await self._probes.close()
        if not self.incarnations:  # otherwise the next daemon gets the sockets back from the programs
            self._listeners.close_all()
