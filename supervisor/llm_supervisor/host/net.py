"""Ports of this machine: who holds one, and a listening socket of our own."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
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
    """The same from /proc/net/tcp."""
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
            command = " ".join(" ".join(process.cmdline()).split())  # one line, whatever an argument holds
            return Holder(process.pid, command[:120] or process.name(), process.create_time())
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


def bind(host: str, port: int, beside: Sequence[socket.socket] = ()) -> socket.socket:
    """A listening TCP socket. SO_REUSEADDR, so that connections in TIME_WAIT do not keep it; never SO_REUSEPORT, which
    would let two servers share a port without noticing. Raises OSError.

    ``beside``: our own sockets that listen on that port. One that is there by another name of the same address
    (localhost) is the one; with others the addresses may overlap (0.0.0.0 and 127.0.0.1), and one of the two is about
    to leave: for the moment of binding all have SO_REUSEPORT, without which the kernel has no second one. (From then on
    it lets in who asks for SO_REUSEPORT there and is of the same user; nobody else.)"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for other in beside:
        if other.family == family and _is_at(other, (host, port)):
            return other.dup()
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sharing = [*beside, sock] if beside else []
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for one in sharing:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(2048)
        for one in sharing:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except OSError:
        sock.close()
        for one in beside:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        raise
    return sock


def _is_at(sock: socket.socket, address: tuple[str, int]) -> bool:
    """Whether it is bound there, by whatever name. Raises OSError where the name is nobody's."""
    wanted = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sock.getsockname()[:2] in [one[4][:2] for one in wanted]


def listener(fd: int, address: tuple[str, int]) -> socket.socket | None:
    """The listening socket behind a descriptor, if it is one at that address; else it is closed."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and _is_at(sock, address):
            sock.set_inheritable(False)
            return sock
    except OSError:
        pass
    sock.close()
    return None


HANDING_OVER = 2.0  # seconds


async def ask_for_listener(path: str, address: tuple[str, int]) -> socket.socket | None:
    """The listening socket from a program that has it and hands it out on a unix socket of its own; None where that
    cannot be had."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HANDING_OVER):
            await loop.sock_connect(sock, reachable(path))
            ready = asyncio.Event()
            loop.add_reader(sock, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(sock)
        _, fds, _, _ = socket.recv_fds(sock, 16, 1)
        return listener(fds[0], address) if fds else None
    except (OSError, TimeoutError):
        return None
    finally:
        sock.close()


_PIDFD_GETFD = 438  # on every architecture


def copy_listener(pid: int, address: tuple[str, int]) -> socket.socket | None:
    """The listening socket out of a process that has it, as far as the kernel lets us (pidfd_getfd(2), the rights of a
    debugger); None where that cannot be had."""
    mine = listening(address[1])
    links = {f"socket:[{inode}]" for inode in mine}
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}") not in links:
                    continue
            except OSError:
                continue
            fd = libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            if fd >= 0 and (sock := listener(fd, address)) is not None:
                return sock
    except OSError:
        return None
    finally:
        os.close(pidfd)
    return None


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


def answers(path: str) -> bool:
    """Whether somebody listens on that unix socket. Raises OSError where no socket can be: the path is longer than 107
    bytes, or something else is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise OSError(errno.EEXIST, "is there already, and is no socket") from None
            return False
        except (TimeoutError, BlockingIOError):
            pass  # its queue is full
        return True


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
