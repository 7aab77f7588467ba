"""What runs of a daemon that may be dead, from its state file: to show it to people. Nothing is done to it here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llm_supervisor import ownership, paths
from llm_supervisor.host.process import find
from llm_supervisor.supervision.state_file import Former, read


def runtime_in_use(environ: Mapping[str, str]) -> Path | None:
    """The first runtime folder of ours where a daemon runs, or one has left something running; None without one.

    It need not be the first place: a daemon whose folder was removed has moved, and that place may be there again by
    now. Raises NotOurs for a state file there that is not ours."""
    for runtime in paths.runtime_dirs(environ):
        try:
            ownership.require_own_folder(runtime)
        except OSError:
            continue
        former = read(runtime)
        if former is not None and (former.is_running() or former.lives()):
            return runtime
    return None


def formers(environ: Mapping[str, str]) -> dict[Path, Former]:
    """By runtime folder: what a daemon that runs, or one before it, wrote down there. Only to show it to people: it may
    be another user's. A folder that a client would not use is left out."""
    found = {}
    for runtime in paths.runtime_dirs(environ):
        try:
            former = read(runtime, ownership.owner_to_ask(runtime, environ).uid)
        except OSError:
            continue
        if former is not None:
            found[runtime] = former
    return found


def orphans(environ: Mapping[str, str]) -> list[str]:
    """The programs that a dead daemon left running, each with the pid of its leader, or with the processes that outlive
    the leader (of vLLM the EngineCore, which holds all of the GPU's memory)."""
    found = []
    for former in formers(environ).values():
        for name, entry in former.programs.items():
            rows = find(entry.tree())
            if entry.leader is not None and any(row.key == entry.leader for row in rows):
                found.append(f"{name} (pid {entry.leader[0]})")
            elif rows:
                left = ", ".join(f"{row.comm} pid {row.pid}" for row in rows)
                found.append(f"{name} (its leader is dead, not {left})")
    return found


def living_pids(environ: Mapping[str, str]) -> Iterator[int]:
    """The pids of a daemon that runs, and of the programs of one that runs or has left them running: what they hold
    (ports, memory) is ours already."""
    for runtime, former in formers(environ).items():
        mine = {row.pid for entry in former.programs.values() for row in find(entry.tree())}
        yield from mine
        try:
            # it holds the gateway's socket; where none of its programs lives, its pid may be another process's by now
            yield from [int((runtime / "daemon.lock").read_text())] if mine else []
        except (OSError, ValueError):
            continue
