"""The kernel's process table: as much of it as is needed to tell to which program a process belongs.

Reads ``/proc`` directly rather than through psutil: a sweep reads every process between a child's death and its
successor's start, and has a few milliseconds for it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

COOKIE = "LLM_SUPERVISOR_INCARNATION"
NO_COOKIE = "fork-server"  # where a fork server's children will have theirs
_COOKIE_PREFIX = COOKIE.encode() + b"="
_EXEC_TRIES = 100
_PF_KTHREAD = 0x00200000  # include/linux/sched.h


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for another: a pid is reused, a pid with its start time is not, and both
    only mean something within one boot. ``started`` is in clock ticks since that boot."""

    pid: int
    started: int
    boot: str


@dataclass(frozen=True, slots=True)
class Row:
    """What ``/proc/PID/stat`` says. ``state`` is the kernel's letter (R S D T t Z X I). ``kernel``: it is a thread of
    the kernel, which its parent does not tell: in a container anybody may be process 2, and have children."""

    pid: int
    comm: str
    state: str
    ppid: int
    session: int
    started: int
    cpu: int = 0  # clock ticks, user and system
    kernel: bool = False

    @property
    def dead(self) -> bool:
        """A zombie has no memory, no descriptors and no future."""
        return self.state in "ZX"

    @property
    def key(self) -> tuple[int, int]:
        """Pid and start time: unique within this boot."""
        return self.pid, self.started


@cache
def boot_id() -> str:
    """The kernel's name for the present boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def read_row(pid: int) -> Row | None:
    """One process; None when no process has that pid."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(fd, 1024)
    except OSError:  # ESRCH: it died between open and read
        return None
    finally:
        os.close(fd)
    # comm may contain anything, parentheses and spaces too: it ends at the last one
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    return Row(
        pid=pid,
        comm=head.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        cpu=int(fields[11]) + int(fields[12]),
        kernel=bool(int(fields[6]) & _PF_KTHREAD),
    )


def read_rows() -> dict[int, Row]:
    """Every process of the machine, by pid."""
    rows = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (row := read_row(int(name))) is not None:
            rows[row.pid] = row
    return rows


def identify(pid: int) -> Identity | None:
    """The identity of the process that has ``pid`` now; None when no process has it."""
    row = read_row(pid)
    return None if row is None else Identity(pid, row.started, boot_id())


def read_cookie(pid: int) -> str | None:
    """The value of our cookie in the environment that ``pid`` was started with; empty without one, or where we may not
    look; None when that cannot be told (any more).

    In the middle of an exec (some 100 µs) the kernel shows an empty environment and an empty command line: such an
    answer is none, and is asked for again. Only who has a command line, looked at again and again, has none.
    """
    bare = 0
    for _ in range(_EXEC_TRIES):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
            if not environ:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    bare = bare + 1 if file.read(1) else 0
                if bare == 3:
                    return ""
                continue
        except PermissionError:
            return ""
        except OSError:
            return None
        at = 0 if environ.startswith(_COOKIE_PREFIX) else environ.find(b"\0" + _COOKIE_PREFIX) + 1
        if at == 0 and not environ.startswith(_COOKIE_PREFIX):
            return ""
        return environ[at + len(_COOKIE_PREFIX) :].partition(b"\0")[0].decode(errors="replace")
    return None


def transferred(pid: int) -> int:
    """Bytes that the process has read and written; 0 where we may not know."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            fields = file.read().split()
        return int(fields[1]) + int(fields[3])  # rchar: N wchar: N
    except (OSError, IndexError, ValueError):
        return 0


def may_hold(pid: int) -> bool:
    """Whether the standard output or error of ``pid`` may be a file with a path, or a FIFO. The name of what is open is
    read, which asks no disk."""
    for fd in ("1", "2"):
        try:
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if name.startswith("/") and not name.startswith("/dev/"):
            return True
    return False


def holds(pid: int, file: tuple[int, int]) -> bool:
    """Whether the standard output or error of ``pid`` is that file, named by (device, inode). What it is instead may be
    on a disk that does not answer."""
    for fd in ("1", "2"):
        try:
            seen = os.stat(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if (seen.st_dev, seen.st_ino) == file:
            return True
    return False
