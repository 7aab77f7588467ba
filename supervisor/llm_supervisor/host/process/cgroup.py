"""A control group for each incarnation, where the service manager has delegated ours to us.

Nothing escapes from it by forking, and ``cgroup.kill`` (Linux 5.14) ends all of it at once, a fork bomb too. Only for
finding and killing: no controller is enabled in it, as that would forbid systemd to start anything in our own group
(status 219/CGROUP).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_MARKS = ("trusted.delegate", "user.delegate")  # systemd's, on a group with Delegate=


def _mount() -> tuple[str, Path] | None:
    """Where the unified hierarchy is mounted: its root within the hierarchy, and the folder."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields = before.split()
            if after.startswith("cgroup2 "):
                return fields[3], Path(fields[4])
    return None


@cache
def delegated() -> Path | None:
    """The folder of our own group, if it was delegated to us (``Delegate=yes``) and can kill; else None."""
    try:
        mount = _mount()
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            name = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
        if mount is None or name is None:
            return None
        root, folder = mount
        own = folder / os.path.relpath(name, root) if root != "/" else folder / name.lstrip("/")
        if not (own / "cgroup.kill").exists() or not os.access(own, os.W_OK):
            return None
        return own if any(_marked(own, mark) for mark in _MARKS) else None
    except OSError:
        return None


def _marked(folder: Path, mark: str) -> bool:
    try:
        return os.getxattr(folder, mark) == b"1"
    except OSError:
        return False


def name_of(cookie: str) -> str:
    """The name of the group of the incarnation with that cookie."""
    return cookie.replace("/", ".")


def contains(group: Path) -> bool:
    """Whether that path is in the hierarchy of control groups."""
    try:
        mount = _mount()
    except OSError:
        return False
    return mount is not None and group.is_relative_to(mount[1])


def enclose(pid: int, name: str) -> Path | None:
    """Put a process that was just started into a new group of that name; None where that cannot be done. What it forked
    in the moment before (microseconds, on a busy machine more) stays outside, and is found by its other traces."""
    own = delegated()
    if own is None:
        return None
    group = own / name
    try:
        group.mkdir(exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        remove(group)
        return None
    return group


def members(group: Path) -> set[int]:
    """Pids in the group and below it, zombies included; empty when it is gone."""
    pids: set[int] = set()
    for folder, _, _ in os.walk(group):
        try:
            with open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                pids.update(int(line) for line in file)
        except OSError:
            continue
    return pids


def kill(group: Path) -> None:
    """SIGKILL to everything in the group, what is being forked included. Nothing happens when it is gone."""
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError:
        pass


def remove(group: Path) -> None:
    """Remove the group and those below it, if nothing lives in them."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            continue
