"""What processes leave in /dev/shm: engines that are killed do not remove their segments, and the folder fills up.

The folder may be shared with other users and, by ``--ipc=host``, with other containers, whose processes are not seen
here. So a thing is removed only when it is known to be ours: it was not there before the start of an incarnation, it is
our user's, processes of that incarnation had it mapped, and now no process has. Litter whose origin cannot be told
stays; for example semaphores that an engine made and had not mapped when it was looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from llm_supervisor.host import bounded
from llm_supervisor.host.process.proc import read_rows

FOLDER = Path("/dev/shm")
WITHIN = 2.0  # seconds that a process may take to show what it has mapped; of an engine it takes milliseconds


def names() -> frozenset[str] | None:
    """What there is now; None where the folder cannot be read."""
    try:
        return frozenset(os.listdir(FOLDER))
    except OSError:
        return None


def mapped(pid: int) -> set[str]:
    """The names in /dev/shm that the process has mapped. Reads all of its maps: milliseconds for an engine, for ever
    while the process hangs in the kernel with its memory locked."""
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


def made_by(pids: Iterable[int], before: Iterable[str]) -> dict[str, int]:
    """What these processes have mapped, is our user's, and was not there ``before``: names with their inodes."""
    seen: set[str] = set().union(*bounded.each(mapped, _named(pids), within=WITHIN).values())
    found = {}
    for name in seen.difference(before):
        try:
            there = os.stat(FOLDER / name, follow_symlinks=False)
        except OSError:
            continue
        if there.st_uid == os.geteuid():
            found[name] = there.st_ino
    return found


def remove_unmapped(objects: Mapping[str, int]) -> None:
    """Remove those of these (names with their inodes) that no living process has mapped. Where a process does not tell
    what it has mapped, nothing is removed."""
    left = {name for name, inode in objects.items() if _inode(name) == inode}
    if not left:
        return
    pids = _named(read_rows())
    answers = bounded.each(mapped, pids, within=WITHIN)
    if len(answers) < len(pids):
        return
    left.difference_update(*answers.values())
    for name in left:
        (FOLDER / name).unlink(missing_ok=True)


def _inode(name: str) -> int | None:
    try:
        return os.stat(FOLDER / name, follow_symlinks=False).st_ino
    except OSError:
        return None


def _named(pids: Iterable[int]) -> dict[int, str]:
    return {pid: f"process {pid}" for pid in pids}
