"""What a daemon stands on before it knows its configuration: its folders, its lock, and what a former one left.

The order is a law: the output of living children is taken first, before anything that can fail or take time; a
configuration that is wrong by now is no reason to leave living engines alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.config import Config, ConfigError, Problem, keep, load, restore
from llm_supervisor.config.plan import Pythons
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines import options
from llm_supervisor.host import output
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.process import disinherit_descriptors, raise_descriptor_limit
from llm_supervisor.host.systemd import Notifier, take_descriptors
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.resources import Refusal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
# What was configured when all was well
LAST_GOOD = "last-good.json"


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


@dataclass
class Ground:
    """See the module. ``pump`` moves the output of ``former``'s programs already; ``kept`` are sockets that the service
    manager has kept, by name."""

    runtime: Path
    data: Path
    logs: Path
    environ: Mapping[str, str]
    notifier: Notifier
    lock: int
    pump: output.Pump
    former: fm.Former
    kept: dict[str, int] = field(default_factory=dict)

    @classmethod
    def prepare(cls, environ: MutableMapping[str, str]) -> Ground:
        """Be the daemon of this runtime folder. Raises Refusal or OSError."""
        hold_signals()
        kept = take_descriptors(environ)
        disinherit_descriptors()
        raise_descriptor_limit()
        os.umask(0o077)
        notifier = Notifier.from_environment(environ)
        runtime = paths.make_runtime_dir(environ)
        former = fm.read(runtime) or fm.Former({})
        if former.handover is not None:
            lock = former.handover.lock
        else:
            lock = take_lock(runtime)
            former = fm.read(runtime) or fm.Former({})  # until then another daemon may have written, and died
        logs = paths.log_dir(environ)
        pump = output.Pump(logs)
        if former.limits is not None:
            pump.limit(*former.limits)
        fifos = {name: kept.pop(name) for name in list(kept) if not name.startswith("listener ")}
        fm.reopen(former, runtime, pump, fifos)
        for name in fifos.keys() - {path.name for path in former.paths(runtime)}:
            notifier.forget(name)
        pump.start()
        return cls(runtime, paths.data_dir(environ), logs, environ, notifier, lock, pump, former, kept)

    def configuration(self, files: Sequence[Path]) -> tuple[Config, tuple[Problem, ...]]:
        """The configuration; where it is wrong and there is something to go on with, the last good one with what is
        wrong. Raises ConfigError."""
        try:
            return load(files, self.environ, self.vllm_options), ()
        except ConfigError as error:
            last = last_good(self.runtime, self.environ)
            if last is None or not self.former.goes_on():
                raise
            return last, tuple(problem for problem in error.problems if not problem.warning)

    def vllm_options(self, python: str | None) -> options.Options | None:
        """As far as they are known: nothing waits for that."""
        return options.known(python or str(envs.environment("vllm", self.data).python), self.data)

    def remember(self, config: Config, pythons: Pythons) -> None:
        """This is good: a later daemon may need it."""
        text = json.dumps({"config": keep(config), "pythons": asdict(pythons)})
        write_atomically(self.runtime / LAST_GOOD, text.encode())

    def leave(self) -> None:
        """Give everything up again: nothing was begun."""
        self.pump.stop()
        os.close(self.lock)


def last_good(runtime: Path, environ: Mapping[str, str]) -> Config | None:
    """See ``Ground.remember``; None where there is nothing that can be used."""
    try:
        return restore(json.loads((runtime / LAST_GOOD).read_bytes())["config"], environ)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_pythons(runtime: Path) -> Pythons | None:
    """The interpreters of the engines that the former daemon has started, whatever has become of its configuration."""
    try:
        return Pythons(**json.loads((runtime / LAST_GOOD).read_bytes())["pythons"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
