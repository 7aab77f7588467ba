"""What a program should be: plain frozen data, made by ``config`` and read by everybody.

Only values may live here, no behaviour beyond simple derivations. Durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What sort of program this is; it decides how it is probed, never how it is supervised."""

    VLLM = "vllm"
    LITELLM = "litellm"
    COMMAND = "command"


class RestartPolicy(StrEnum):
    """When a program that ended by itself comes back (systemd's ``Restart=`` in three words)."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class HealthSpec:
    """How often and how patiently a program is asked how it is (Kubernetes' words, in seconds).

    ``period``, ``timeout`` and ``failure_threshold`` are liveness's; ``readiness_*`` (the catalogue's) are the same
    unless said otherwise; ``startup_*`` hold before the first readiness. ``startup_budget`` bounds the time to
    readiness and is extended while loading advances; ``startup_stall`` bounds the time without any sign of life.
    ``stall_grace`` is how long work may stand still before the engine counts as hung.
    """

    period: float = 10.0
    timeout: float = 10.0
    failure_threshold: int = 3
    readiness_period: float = 10.0
    readiness_timeout: float = 10.0
    readiness_threshold: int = 3
    startup_period: float = 0.5
    startup_timeout: float = 10.0
    startup_budget: float = 1800.0
    startup_stall: float = 600.0
    stall_grace: float = 120.0
    canary: bool = True
    canary_interval: float = 300.0
    canary_timeout: float = 30.0
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class RestartSpec:
    """How a program comes back: the n-th failed start in a row waits ``backoff * factor**(n-1)``, at most ``cap``.

    ``intensity`` failures within ``window`` seconds, counted since the last proven readiness, end in FATAL
    (Erlang's intensity and period).
    """

    policy: RestartPolicy = RestartPolicy.ALWAYS
    backoff: float = 5.0
    backoff_factor: float = 2.0
    backoff_cap: float = 300.0
    intensity: int = 5
    window: float = 3600.0


@dataclass(frozen=True, slots=True)
class StopSpec:
    """How a program is asked to leave.

    ``grace`` is the time between ``signal`` and SIGKILL; ``start_grace`` the same before the first readiness (vLLM 0.32
    ignores SIGTERM while its EngineCore loads, and there is no request to wait for). ``sweep_grace`` is what the rest
    of a tree gets between SIGTERM and SIGKILL once its leader is dead; nothing of a headless engine is worth waiting
    for, so engines have 0. What survives SIGKILL for ``kill_grace`` seconds is stuck in the kernel: FATAL, never a
    second start.
    """

    signal: int = 15
    grace: float = 30.0
    start_grace: float = 30.0
    sweep_grace: float = 5.0
    kill_grace: float = 30.0


@dataclass(frozen=True, slots=True)
class Launch:
    """How a program is started: an argv that never meets a shell, and what its environment adds to ours.

    ``env`` may hold secrets, so it is kept out of ``repr``. ``port`` is the loopback port the program itself will
    bind (its holder is looked for before a start), ``listener`` the (host, port) that the daemon binds for it.

    ``warm`` is the command line of a fork server that imports the program (empty: it is always started cold),
    ``warm_env`` what a start from it adds to the environment, and ``late`` names of variables that are not read while
    it imports.

    ``downloads`` are folders that grow while it downloads what it needs: those of a hub's cache.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    unset: tuple[str, ...] = ()
    cwd: str | None = None
    port: int | None = None
    listener: tuple[str, int] | None = None
    uds: str | None = None
    pipe_size: int = 256 * 1024
    warm: tuple[str, ...] = ()
    warm_env: tuple[tuple[str, str], ...] = ()
    late: frozenset[str] = frozenset()
    downloads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """One supervised program.

    ``ready_after`` is for a program without a readiness check: it counts as ready once it has lived that long
    (supervisord's ``startsecs``). ``vital`` are prefixes of the names of child processes without which the
    program cannot work: losing one of them is the program's death. ``max_rss`` (bytes): a program whose leader has
    grown beyond that is restarted, one of its kind at a time. ``digest`` stands for everything that was configured and
    that a process has for life: with another one, it needs a new process; ``settings`` for all that was configured.
    """

    name: str
    kind: Kind
    launch: Launch
    health: HealthSpec = HealthSpec()
    restart: RestartSpec = RestartSpec()
    stop: StopSpec = StopSpec()
    ready_after: float | None = None
    vital: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()
    max_rss: int | None = None
    autostart: bool = True
    digest: str = ""
    settings: str = ""
