"""Listening sockets that belong to the daemon: they outlive incarnations, so clients queue in them meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Protocol

from llm_supervisor.core.failure import Failure
from llm_supervisor.core.spec import ProgramSpec
from llm_supervisor.host.net import listener as net_listener
from llm_supervisor.host.net import ports as net_ports
from llm_supervisor.supervision.state_file import Address, Former
from llm_supervisor.supervision.world import SpawnRefused


class Store(Protocol):
    """Keeps descriptors for the next daemon (``host.systemd.Notifier``)."""

    def store(self, name: str, fd: int) -> None:
        """Keep the descriptor under that name."""

    def forget(self, name: str) -> None:
        """Keep the descriptor of that name no longer."""


class Listeners:
    """The sockets by address, and which programs accept on them; replicas share one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sockets: dict[Address, socket.socket] = {}
        self._accepting: dict[str, Address] = {}  # programs that accept on one of these, or will

    @property
    def accepting(self) -> Mapping[str, Address]:
        """By program: where it accepts."""
        return self._accepting

    def listen(self, name: str, address: Address) -> socket.socket:
        """The program's socket, bound anew only if there is none. Raises SpawnRefused when the port is taken.

        It is bound before an old one of the same port is closed, on which other replicas may still serve."""
        if address not in self._sockets:
            ours = [sock for (_, port), sock in self._sockets.items() if port == address[1]]
            try:
                self._sockets[address] = sock = net_listener.bind(*address, beside=ours)
            except OSError as error:
                self.close(name)  # the program is not to listen at its old address any more
                raise port_taken(address[1], error) from error
            self._store.store(_stored_name(address), sock.fileno())
        if self._accepting.get(name, address) != address:
            self.close(name)
        self._accepting[name] = address
        return self._sockets[address]

    def close(self, name: str) -> None:
        """The program accepts no more. The last one that accepted on a socket closes it."""
        address = self._accepting.pop(name, None)
        if address is not None and address not in self._accepting.values():
            self._sockets.pop(address).close()
            self._store.forget(_stored_name(address))

    def close_if_moved(self, spec: ProgramSpec) -> None:
        """Before a program leaves that will listen elsewhere when it is back: clients of the old address must not queue
        where nobody will accept."""
        if spec.launch.listener is not None and self._accepting.get(spec.name) not in (None, spec.launch.listener):
            self.close(spec.name)

    def close_all(self) -> None:
        """Close the sockets of all programs."""
        for name in list(self._accepting):
            self.close(name)

    async def recover(self, former: Former, kept: dict[str, int]) -> None:
        """Get back the sockets on which a former daemon's programs listen; what cannot be had is bound anew when it is
        needed.

        First from ``kept``: descriptors by name that the service manager has held (those that are used are taken out),
        or we ourselves before an exec; else from a program that has the socket."""
        if former.handover:
            kept |= {_stored_name((host, port)): fd for host, port, fd in former.handover.listeners}
        for name, entry in former.programs.items():
            if (address := entry.listener) is None:
                continue
            if address not in self._sockets:
                sock = None
                fd = kept.pop(_stored_name(address), None)
                if fd is not None:
                    sock = net_listener.listener(fd, address)
                if sock is None and entry.uds:
                    sock = await net_listener.ask_for_listener(f"{entry.uds}.listener", address)
                if sock is None and entry.leader is not None and entry.tree().leader is not None:
                    sock = net_listener.copy_listener(entry.leader[0], address)
                if sock is None:
                    continue
                self._sockets[address] = sock
                self._store.store(_stored_name(address), sock.fileno())
            self._accepting[name] = address

    def descriptors(self) -> tuple[tuple[str, int, int], ...]:
        """All sockets: host, port, descriptor."""
        return tuple((host, port, sock.fileno()) for (host, port), sock in self._sockets.items())


def port_taken(port: int, error: OSError) -> SpawnRefused:
    """The refusal of a start whose port cannot be bound; it names the process that holds the port."""
    holder = net_ports.holder(port)
    who = f": {holder}" if holder else f" ({error.strerror})"
    advice = f"End {holder}, or give this model another port." if holder else "Choose another port."
    return SpawnRefused(Failure("port_taken", f"port {port} is taken{who}", advice, permanent=False, busy=True))


def _stored_name(address: Address) -> str:
    """The name of a listening socket where the service manager keeps it; there a colon separates names."""
    return f"listener {address[0].replace(':', '_')} {address[1]}"
