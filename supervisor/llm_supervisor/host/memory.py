"""How much memory may still be used: the machine's, or what the control group leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def available(group: Path | None = None) -> int:
    """Bytes. ``group`` is a folder with ``memory.max`` and ``memory.current``; default: our own control group's."""
    free = int(psutil.virtual_memory().available)
    limit = _limit(group or _own_group())
    return free if limit is None else min(free, limit)


def resident(pid: int) -> int | None:
    """Bytes of a process that are in memory (RSS); None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def share(pid: int) -> int | None:
    """Bytes that a process costs, what it shares with others counted in proportion (PSS); None when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
    except (OSError, StopIteration, ValueError):
        return None


def _own_group() -> Path | None:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            name = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    except OSError:
        return None
    return None if name is None else Path("/sys/fs/cgroup") / name.lstrip("/")


def _limit(group: Path | None) -> int | None:
    """What the tightest limit from that group up to the root still allows."""
    least: int | None = None
    while group is not None and group != group.parent:
        try:
            most = (group / "memory.max").read_text().strip()
            if most != "max":
                # what can be given back at once does not count
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
                left = int(most) - used
                least = left if least is None else min(least, left)
        except (OSError, ValueError):
            pass
        if group == Path("/sys/fs/cgroup"):
            break
        group = group.parent
    return least
