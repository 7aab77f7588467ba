"""Who listens on a TCP port of this machine."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psutil

from llm_supervisor.host import bounded

WITHIN = 0.2  # seconds that a process may take to say who it is


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
    """The inodes of the TCP sockets that listen on a port, of whatever address.

    Asked of the kernel by sock_diag(7), which walks the listening sockets alone: 0.3 ms, where ``/proc/net/tcp`` walks
    every bucket of its table of connections, some 9 ms on an idle host. That is read where there is no such netlink."""
    try:
        return {inode for family in (socket.AF_INET, socket.AF_INET6) for at, inode in _listeners(family) if at == port}
    except (OSError, struct.error):
        return _listed(port)


_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_LISTEN = 10  # TCP_LISTEN
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, pid
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, no extras, states; any address
_AT = struct.Struct("!H")  # inet_diag_msg.id.idiag_sport, 4 bytes into the message
_INODE = struct.Struct("=I")  # inet_diag_msg.idiag_inode, 68 bytes into it


def _listeners(family: int) -> Iterator[tuple[int, int]]:
    """Port and inode of every listening TCP socket of a family. Raises OSError where the kernel does not answer so."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as sock:
        sock.settimeout(1.0)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << _LISTEN)
        sock.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            answer, at = sock.recv(65536), 0
            while at < len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, at)
                body = at + _HEADER.size
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, body)[0], "sock_diag")
                yield _AT.unpack_from(answer, body + 4)[0], _INODE.unpack_from(answer, body + 68)[0]
                at += (length + 3) & ~3


def _listed(port: int) -> set[int]:
    """What ``listening`` returns, read from /proc/net/tcp."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, "rb") as file:
                next(file)
                rows = (line.split() for line in file if b" 0A " in line)
                found |= {
                    int(row[9]) for row in rows if row[3] == b"0A" and int(row[1].rpartition(b":")[2], 16) == port
                }
        except FileNotFoundError:
            continue  # no IPv6 here
    return found


def _described(pid: int) -> Holder:
    """Who a process is. Its command line cannot be read while it hangs in the kernel."""
    try:
        process = psutil.Process(pid)
        command = " ".join(" ".join(process.cmdline()).split())  # one line, whatever an argument holds
        return Holder(pid, command[:120] or process.name(), process.create_time())
    except psutil.Error:
        return Holder(pid, "", None)


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
        return bounded.each(_described, {process.pid: f"process {process.pid}"}, within=WITHIN).get(
            process.pid, Holder(process.pid, "a process that does not answer", None)
        )
    return Holder(None, "", None)
