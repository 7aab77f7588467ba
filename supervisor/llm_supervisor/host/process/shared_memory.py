"""What processes leave in /dev/shm: engines that are killed do not remove their segments, and the folder fills up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from llm_supervisor.host.process.proc import read_rows

FOLDER = Path("/dev/shm")
# Seconds after which a semaphore that no process has mapped is abandoned: a process that was still to open it would
# have done so by then
SEMAPHORE_ABANDONED_AFTER = 600.0


def mapped(pid: int) -> set[str]:
    """The names in /dev/shm that the process has mapped. Reads all of its maps: milliseconds for an engine."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            maps = file.read()
    except OSError:
        return set()
    found = set()
    for line in maps.splitlines():
        _, marker, name = line.partition(b" /dev/shm/")
        if marker and not name.endswith(b" (deleted)"):
            found.add(os.fsdecode(name))
    return found


def semaphores_since(began: float) -> set[str]:
    """The semaphores of multiprocessing that this user made after ``began`` (wall clock, seconds).

    They may be a dead tree's: a killed engine leaves some that none of its processes has mapped, so that nothing tells
    whose they are.
    """
    found = set()
    for entry in os.scandir(FOLDER):
        try:
            seen = entry.stat()
        except OSError:
            continue
        if entry.name.startswith("sem.mp-") and seen.st_uid == os.geteuid() and seen.st_ctime >= began:
            found.add(entry.name)
    return found


def remove_unmapped(names: Iterable[str]) -> None:
    """Remove those of these names in /dev/shm that no living process has mapped."""
    left = {name for name in names if os.path.exists(FOLDER / name)}
    if not left:
        return
    for pid in read_rows():
        left -= mapped(pid)
    for name in left:
        (FOLDER / name).unlink(missing_ok=True)
