"""systemd's notification protocol (sd_notify(3)): datagrams to the socket that ``NOTIFY_SOCKET`` names.

Without that variable everything here does nothing. Children never inherit it.
"""

from __future__ import annotations

import array
import os
import pwd
import socket
import time
from collections.abc import MutableMapping
from pathlib import Path

SESSIONS = Path("/run/user")  # logind makes and removes a folder for each user here
LOGIND = Path("/run/systemd/users")  # is there where logind runs
LINGER = Path("/var/lib/systemd/linger")  # a file for each user whose folder stays (loginctl enable-linger)


def removed_at_logout(place: Path) -> str | None:
    """The user at whose logout logind will remove that place, and with it what is in it; None when it stays."""
    try:
        uid = int(place.relative_to(SESSIONS).parts[0])
        user = pwd.getpwuid(uid).pw_name
    except (ValueError, IndexError, KeyError):
        return None
    return user if LOGIND.is_dir() and not (LINGER / user).exists() else None


def take_descriptors(environ: MutableMapping[str, str]) -> dict[str, int]:
    """The descriptors that the manager has kept or opened for us, by name (sd_listen_fds_with_names(3)); close-on-exec.
    The variables are taken out of the environment."""
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, int] = {}
    for number in range(int(count)):
        fd = 3 + number
        os.set_inheritable(fd, False)
        name = names[number] if number < len(names) else ""
        if name in found:
            os.close(fd)  # stored twice; one is enough
        else:
            found[name] = fd
    return found


class Notifier:
    """Talks to the service manager that started us, if one did."""

    def __init__(self, address: str | None, watchdog_usec: int | None = None) -> None:
        self._socket: socket.socket | None = None
        self.watchdog = watchdog_usec / 1e6 if watchdog_usec else None
        if address:
            # "@" stands for the abstract namespace's leading NUL
            self._address = "\0" + address[1:] if address.startswith("@") else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # a manager that does not read must not stop our loop

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take the variables out of the environment, so that nothing we start can speak in our name."""
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", None)
        pid = environ.pop("WATCHDOG_PID", None)
        mine = usec is not None and usec.isdecimal() and (pid is None or pid == str(os.getpid()))
        return cls(address, int(usec) if mine and usec else None)

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    def send(self, *lines: str) -> bool:
        """Send assignments such as ``READY=1``; False when the manager did not take them."""
        if self._socket is None:
            return False
        try:
            # a line is one assignment: what a status quotes must not become another one
            message = "\n".join(line.replace("\n", " ") for line in lines)
            self._socket.sendto(message.encode(errors="replace"), socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False  # the manager is restarting: it asks again by its watchdog, and STATUS comes again
        return True

    def store(self, name: str, fd: int) -> None:
        """Let the manager keep a descriptor for the next one of us. The name is of printable ASCII, without a colon."""
        if self._socket is None:
            return
        message = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode()
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]  # send_fds() forgets the address
            self._socket.sendmsg([message], rights, socket.MSG_DONTWAIT, self._address)
        except OSError:
            return  # without it the next one may have to do without the last words of what dies meanwhile

    def forget(self, name: str) -> None:
        """Let the manager drop the stored descriptor of that name."""
        self.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def ready(self, status: str) -> bool:
        """READY=1: what ``ready_when`` names is ready. False when the manager did not take it: send it again."""
        return self.send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self.send(f"STATUS={status}")

    def extend(self, seconds: float) -> None:
        """Ask for that much more time for the present start or stop."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """WATCHDOG=1: feed the watchdog."""
        self.send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """STOPPING=1: the daemon has begun to stop everything."""
        self.send("STOPPING=1", f"STATUS={status}")

    def reloading(self) -> None:
        """RELOADING=1, with the time that systemd 253 and later wants beside it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
