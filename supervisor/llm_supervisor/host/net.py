"""Ports of this machine: who holds one, and a listening socket of our own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Holder:
    """Who listens on a port. ``pid`` is None where the kernel does not tell us (another user's process)."""

    pid: int | None
    command: str
    since: float | None  # wall clock, for people

    def __str__(self) -> str:
        if self.pid is None:
            return "another user's process"
        since = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(self.since)) if self.since else ""
        return f"pid {self.pid} ({self.command}){since}"


def listening(port: int) -> set[int]:
    """The inodes of the TCP sockets that listen on a port, of whatever address."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, "rb") as file:
                next(file)
                rows = (line.split() for line in file)
                found |= {
                    int(row[9]) for row in rows if row[3] == b"0A" and int(row[1].rpartition(b":")[2], 16) == port
                }
        except FileNotFoundError:
            continue  # no IPv6 here
    return found


def held(sockets: set[int], pids: Iterable[int]) -> set[int]:
    """Which of these sockets, by inode, the processes have open."""
    links = {f"socket:[{inode}]": inode for inode in sockets}
    found: set[int] = set()
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if len(found) == len(sockets):
                    return found
                try:
                    inode = links.get(os.readlink(f"/proc/{pid}/fd/{fd}"))
                except OSError:
                    continue
                if inode is not None:
                    found.add(inode)
        except OSError:
            continue
    return found


def holder(port: int, sockets: set[int] | None = None) -> Holder | None:
    """Who listens on this TCP port (with these sockets); None when nobody does. Looks into every
    process: milliseconds."""
    sockets = listening(port) if sockets is None else sockets
    if not sockets:
        return None
    for process in psutil.process_iter():
        if not held(sockets, (process.pid,)):
            continue
        try:
            return Holder(process.pid, " ".join(process.cmdline())[:120] or process.name(), process.create_time())
        except psutil.Error:
            return Holder(process.pid, "", None)
    return Holder(None, "", None)


def can_bind(host: str, port: int) -> OSError | None:
    """None when the port can be bound now, else why not."""
    try:
        bind(host, port).close()
    except OSError as error:
        return error
    return None


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. SO_REUSEADDR, so that connections in TIME_WAIT do not keep it; never SO_REUSEPORT, which
    would let two servers share a port without noticing. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    return sock


def bind_unix(path: str, mode: int = 0o600) -> socket.socket:
    """A listening unix socket at ``path`` (replacing a stale one). A path longer than the kernel's 107 bytes is reached
    through its folder's descriptor."""
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(f"/proc/self/fd/{fd}/{name}" if len(os.fsencode(path)) > 107 else path)
        finally:
            os.umask(before)
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


_folders: dict[str, int] = {}


def reachable(path: str) -> str:
    """A name for a unix socket that fits into an address (107 bytes): the path itself, or the same through a descriptor
    of its folder, which then stays open."""
    if len(os.fsencode(path)) <= 107:
        return path
    folder, name = os.path.split(path)
    if folder not in _folders:
        _folders[folder] = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{_folders[folder]}/{name}"
