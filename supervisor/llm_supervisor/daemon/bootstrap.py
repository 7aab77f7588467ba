"""Bootstrap: folders, lock and leftovers of a former daemon, before the configuration is read.

The order matters. The output of living children is taken up first, before anything that can fail or take time. A
configuration that has become wrong is no reason to leave living engines alone.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.config import Config, ConfigError, Problem, load
from llm_supervisor.config.last_good import LAST_GOOD, contents, last_good
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines import environment as envs
from llm_supervisor.engines.litellm import dry_run
from llm_supervisor.engines.vllm import installed_options, judgement
from llm_supervisor.host import log
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.output.pump import Pump
from llm_supervisor.host.process import (
    disinherit_descriptors,
    make_files_private,
    raise_descriptor_limit,
    set_umask_of_children,
)
from llm_supervisor.host.systemd import Notifier, take_descriptors
from llm_supervisor.supervision import leftovers
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.resources import Refusal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def hold_signals() -> None:
    """Block the signals that would end the daemon, before anything else: until their handlers are installed, a stop has
    to wait instead of killing a half-made daemon."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


LOCK = "daemon.lock"  # in the runtime folder


def take_lock(runtime: Path) -> int:
    """Be the only daemon in this runtime folder, for as long as we live. Raises Refusal naming the other."""
    fd = os.open(runtime / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
class Bootstrap:
    """What a daemon has before it knows its configuration. ``pump`` already moves the output of the programs of
    ``former``, the daemon before this one; ``kept`` are descriptors of sockets that the service manager has kept, by
    name."""

    runtime: Path
    data: Path
    logs: Path
    environ: Mapping[str, str]
    notifier: Notifier
    lock: int
    pump: Pump
    former: fm.Former
    kept: dict[str, int] = field(default_factory=dict)

    @classmethod
    def prepare(cls, environ: MutableMapping[str, str]) -> Bootstrap:
        """Become the daemon of this runtime folder. Raises Refusal when another one is; NotOurs where the folder or the
        state file belongs to somebody else; or OSError."""
        hold_signals()
        kept = take_descriptors(environ)
        disinherit_descriptors()
        raise_descriptor_limit()
        make_files_private()
        notifier = Notifier.from_environment(environ)
        runtime = leftovers.runtime_in_use(environ) or paths.make_runtime_dir(environ)
        former = fm.read(runtime) or fm.Former({})
        if former.handover is not None:
            lock = former.handover.lock
            set_umask_of_children(former.handover.umask)
        else:
            lock = take_lock(runtime)
            former = fm.read(runtime) or fm.Former({})  # until then another daemon may have written, and died
        logs = paths.log_dir(environ)
        pump = Pump(logs)
        if former.limits is not None:
            pump.limit(*former.limits)
        fifos = {name: kept.pop(name) for name in list(kept) if not name.startswith("listener ")}
        for one in former.refused:
            log.get().warning("the state file names what is not ours: it is left alone", what=one)
        fm.reopen(former, runtime, pump, fifos)
        for name in fifos.keys() - {path.name for path in former.paths(runtime)}:
            notifier.forget(name)
        pump.start()
        return cls(runtime, paths.data_dir(environ), logs, environ, notifier, lock, pump, former, kept)

    def configuration(self, files: Sequence[Path]) -> tuple[Config, tuple[Problem, ...]]:
        """The configuration, and no problems. Where it is wrong and there is something to go on with: the last good
        one, and what is wrong. Raises ConfigError where there is nothing to go on with."""
        try:
            return load(files, self.environ, self.vllm_options, self.litellm_providers), ()
        except ConfigError as error:
            last = last_good(self.runtime, self.environ)
            if last is None or not self.former.goes_on():
                raise
            return last, tuple(problem for problem in error.problems if not problem.warning)

    def vllm_options(self, python: str | None) -> installed_options.Options | None:
        """The options of the installed vLLM, where they are known already; None where they are not. Nothing is started
        to find out."""
        return installed_options.known(python or str(envs.environment("vllm", self.data).python), self.data)

    def litellm_providers(self, python: str | None) -> Collection[str] | None:
        """The same for the providers of the installed LiteLLM."""
        return dry_run.known_providers(python or str(envs.environment("litellm", self.data).python), self.data)

    def judge_options(
        self, python: str | None, questions: Sequence[judgement.Question]
    ) -> list[judgement.Answer] | None:
        """What the installed vLLM says of options, which takes seconds; None where it is not installed."""
        return judgement.judge(python or str(envs.environment("vllm", self.data).python), self.data, questions)

    def remember(self, config: Config, pythons: Pythons) -> None:
        """Save this configuration as the last good one, for a later daemon. Raises OSError."""
        write_atomically(self.runtime / LAST_GOOD, contents(config, pythons))

    def leave(self) -> None:
        """Give the lock and the pump up again, when the daemon does not start after all."""
        self.pump.stop()
        os.close(self.lock)
