"""Listening sockets of our own: make them, take them over from another process, reach those of others."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import stat
from collections.abc import Sequence

from llm_supervisor.host.net.ports import listening
from llm_supervisor.ownership import peer


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

    ``beside``: our own sockets that listen on that port. One that has the same address under another name (localhost)
    is duplicated and returned. With others the addresses may overlap (0.0.0.0 and 127.0.0.1), and one of the two will
    be closed soon: while the new one is bound, all have SO_REUSEPORT, without which the kernel refuses a second one.
    (From then on the kernel lets a process of the same user bind there that asks for SO_REUSEPORT, and no other.)"""
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
    """Whether the socket is bound to that address, under any of its names. Raises OSError when the name is unknown."""
    wanted = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return sock.getsockname()[:2] in [one[4][:2] for one in wanted]


def listener(fd: int, address: tuple[str, int]) -> socket.socket | None:
    """The listening socket behind a descriptor. When it is not one, or has another address, it is closed: None."""
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
    """The listening socket of a program that hands it out on a unix socket of its own; None when it does not within
    ``HANDING_OVER`` seconds."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(HANDING_OVER):
            await loop.sock_connect(sock, reachable(path))
            if peer(sock)[1] != os.geteuid():
                return None
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
    """A copy of the listening socket of another process (pidfd_getfd(2), which takes the rights of a debugger); None
    when the kernel does not allow it, or the process has no such socket."""
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
