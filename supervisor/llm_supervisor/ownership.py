"""Whether a folder, a file or a socket of the runtime folder may be used: only when it belongs to who should own it.

Anybody on the host can make ``/tmp/llm-supervisor-UID`` before its user does. So nothing that is found there is
believed before its owner, its mode and its place were looked at. Reads files' owners; changes nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ROOT = 0


class NotOurs(PermissionError):
    """Something was refused because of who owns it, or who could change it. The text says what, whose it is, and what
    to do."""


class Owner(NamedTuple):
    """Whose daemon a client may ask. ``trusted``: it is our own or root's, or root has given the folder to that user
    (as systemd does for a unit), so the gateway's key may be read and sent as that daemon says."""

    uid: int
    trusted: bool


def user(uid: int) -> str:
    """A user for people: the name where there is one, and the number."""
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def command_as(uid: int, folder: Path, command: str) -> str:
    """A command line with which a person runs ``command`` as that user, about that runtime folder."""
    return f"`sudo -u '#{uid}' env RUNTIME_DIRECTORY={folder} llm-supervisor {command}`"


def require_own_folder(path: Path) -> None:
    """Nothing, if the folder is ours and nobody else can change or replace it. One that others can write to passes as
    long as it is empty. Raises NotOurs, or OSError when it does not exist."""
    seen = os.lstat(path)
    me = os.geteuid()
    advice = "Remove it if you did not make it, or set RUNTIME_DIRECTORY to a folder of your own."
    _require_owner(path, seen, (me,), advice)
    if (wrong := changeable(seen)) is not None and os.listdir(path):
        raise NotOurs(
            f"{path} of {user(me)} {wrong}, so nothing in it is used. Look at what is in it, then `chmod 700 {path}`."
        )
    _require_place(path, (me, ROOT))


def require_own_place(path: Path) -> None:
    """Nothing, if nobody but us and root can replace what is at ``path``, which need not exist. Raises NotOurs, or
    OSError when its parent does not exist."""
    _require_place(path, (os.geteuid(), ROOT))


def owner_to_ask(path: Path, environ: Mapping[str, str]) -> Owner:
    """Whose daemon a client asks in that runtime folder. Raises NotOurs when it must not be asked, or OSError when the
    folder does not exist.

    Besides our own folder and root's, it may be another user's: where root made the folder for that user; where
    RUNTIME_DIRECTORY names it, since then a person has chosen it; and for ``sudo``, where it is that of its caller."""
    seen = os.lstat(path)
    me = os.geteuid()
    parent = os.stat(path.parent)
    given_by_root = parent.st_uid == ROOT and changeable(parent) is None
    trusted = seen.st_uid in (me, ROOT) or given_by_root
    told = Path(environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]) == path
    called = me == ROOT and environ.get("SUDO_UID") == str(seen.st_uid)
    owners = (seen.st_uid,) if trusted or told or called else (me, ROOT)
    advice = f"If that daemon is meant, use {command_as(seen.st_uid, path, '...')}; otherwise remove the folder."
    _require_owner(path, seen, owners, advice)
    if (wrong := changeable(seen)) is not None:
        raise NotOurs(f"{path} of {user(seen.st_uid)} {wrong}, so nobody is asked there. Use `chmod 700 {path}`.")
    _require_place(path, (me, ROOT, seen.st_uid))
    return Owner(seen.st_uid, trusted)


def require_peer(sock: socket.socket, path: Path, owner: Owner) -> None:
    """Nothing, if the process that listens at the other end belongs to the owner of the folder, or to root. Raises
    NotOurs; call it before anything is sent."""
    pid, uid = peer(sock)
    if uid not in (owner.uid, ROOT):
        raise NotOurs(
            f"{path} belongs to {user(owner.uid)}, but pid {pid} of {user(uid)} answers there: nothing was sent to it. "
            "End that process, and start the daemon again."
        )


def peer(sock: socket.socket) -> tuple[int, int]:
    """The pid and the user of the process that listens at the other end of a connected unix socket (or that has
    connected to this one), as the kernel knows them."""
    pid, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def read_file(path: Path, owner: int | None = None) -> bytes:
    """The content of a regular file of that user (default: ours), which nobody else can write. Raises NotOurs, or
    OSError when it cannot be read."""
    uid = os.geteuid() if owner is None else owner
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotOurs(f"{path} is a symbolic link and is not used. Remove it.") from None
        raise
    with open(fd, "rb") as file:
        seen = os.fstat(fd)
        wrong = changeable(seen) if stat.S_ISREG(seen.st_mode) else "is not a regular file"
        if seen.st_uid != uid:
            wrong = f"belongs to {user(seen.st_uid)}, not to {user(uid)}"
        if wrong is not None:
            raise NotOurs(f"{path} {wrong}, so it is not used. Remove it, or `chown {uid}` and `chmod 600` it.")
        return file.read()


def changeable(seen: os.stat_result) -> str | None:
    """How others than its owner and root can change a file or a folder; None when they cannot. Root's own group counts
    as root."""
    if not seen.st_mode & _OTHERS_WRITE or (seen.st_gid == ROOT and not seen.st_mode & stat.S_IWOTH):
        return None
    return f"can be written by {'everybody' if seen.st_mode & stat.S_IWOTH else 'its group'}"


def _require_owner(path: Path, seen: os.stat_result, owners: Collection[int], advice: str) -> None:
    if stat.S_ISLNK(seen.st_mode):
        raise NotOurs(f"{path} is a symbolic link of {user(seen.st_uid)} and is not used. {advice}")
    if not stat.S_ISDIR(seen.st_mode):
        raise NotOurs(f"{path} of {user(seen.st_uid)} is not a folder. {advice}")
    if seen.st_uid not in owners:
        raise NotOurs(f"{path} belongs to {user(seen.st_uid)}, not to {user(os.geteuid())}, and is not used. {advice}")


def _require_place(path: Path, owners: Collection[int]) -> None:
    """Nobody but these can rename or replace what is at ``path``."""
    parent = os.stat(path.parent)
    sticky = bool(parent.st_mode & stat.S_ISVTX)
    wrong = changeable(parent) if not sticky else None
    if parent.st_uid not in owners:
        wrong = f"belongs to {user(parent.st_uid)}"
    if wrong is not None:
        raise NotOurs(
            f"{path} is not used: {path.parent.absolute()} {wrong}, who could replace it. "
            "Set RUNTIME_DIRECTORY to a folder that only you can change."
        )
