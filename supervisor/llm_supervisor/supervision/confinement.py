"""What a state file may name: our own pipes, sockets and control groups, and nothing else of the host.

The file is ours alone (``ownership``), but it may be damaged or edited, and what it names is opened, connected to,
written to and removed. So each name is compared with the form that the daemon itself gives it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from llm_supervisor.config import schema
from llm_supervisor.host.process import Row, cgroup, read_cookie
from llm_supervisor.host.process.proc import NO_COOKIE

_UNIQUE = re.compile(r"[0-9A-Za-z_-]{1,64}")


def is_program(name: str) -> bool:
    """Whether a program can have that name, of which the folder of its logs is made."""
    return schema.NAME.fullmatch(name) is not None


def is_cookie(cookie: str) -> bool:
    """Whether it is the cookie of an incarnation, of which the names of files are made. Empty is one: there is none."""
    program, _, unique = cookie.partition("/")
    return not cookie or (is_program(program) and _UNIQUE.fullmatch(unique) is not None)


def is_fifo(path: str, runtime: Path) -> bool:
    """Whether the FIFO is in the folder for FIFOs, under a name without a folder. Empty is one: there is none."""
    return not path or Path(path) == runtime / "fifo" / Path(path).name != runtime / "fifo" / ".."


def is_group(path: str, *cookies: str) -> bool:
    """Whether the control group has the name of one of these incarnations. Empty is one: there is none."""
    named = {cgroup.name_of(cookie) for cookie in cookies if cookie}
    return not path or (Path(path).name in named and ".." not in Path(path).parts and cgroup.contains(Path(path)))


def is_socket(path: str, runtime: Path) -> bool:
    """Whether the unix socket is in the runtime folder; or, where a configuration has named another place for it, it is
    a socket of our own, or nothing is there. Empty is one: there is none."""
    if not path or Path(path).parent == runtime:
        return True
    if not os.path.isabs(path) or ".." in Path(path).parts:
        return False
    return all(is_own_socket(name) or not os.path.lexists(name) for name in (path, f"{path}.listener"))


def is_own_socket(path: str) -> bool:
    """Whether a unix socket of our own user is there."""
    try:
        seen = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISSOCK(seen.st_mode) and seen.st_uid == os.geteuid()


def is_of(row: Row, cookies: set[str], session: int | None) -> bool:
    """Whether a process whose pid and start time a state file names is of these incarnations: it has their cookie; or
    it has none (its program wiped the environment, or it is another user's by now) and is in the leader's session."""
    if row.pid in (1, os.getpid()):
        return False
    if row.dead:
        return True  # a zombie has no environment any more; nothing is done to it but to fetch its status
    said = read_cookie(row.pid)
    if said and not said.startswith(NO_COOKIE):
        return said in cookies
    return row.session == session
