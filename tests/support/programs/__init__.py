"""Small child programs for tests (``children.py``), and what tests need around them: nothing here is collected.

Every process of a test carries the test's mark: in its environment, or where that is wiped, on its command line.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

CHILDREN = Path(__file__).parent / "children.py"
ENGINE = Path(__file__).parent / "engine.py"
MARK = "LLM_SUPERVISOR_TEST"
# A bound for what should take no time at all: reaching it is a failure, never a way to wait
PATIENCE = 60.0
T = TypeVar("T")


def command(name: str, *arguments: object) -> list[str]:
    """The argv of one child program."""
    return [sys.executable, "-I", "-S", str(CHILDREN), name, *(str(argument) for argument in arguments)]


def until(look: Callable[[], T | None], what: str = "", patience: float = PATIENCE) -> T:
    """What ``look`` returns as soon as it is true: for a state that cannot be waited for in a better way."""
    ends = time.monotonic() + patience
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < ends, f"not within {patience:g} s: {what or look}"
        time.sleep(0.005)


@contextmanager
def meanwhile(look: Callable[[], str | None]) -> Iterator[list[str]]:
    """``look`` again and again, as long as the context lasts; what it complained of."""
    wrong: list[str] = []
    done = threading.Event()

    def keep_looking() -> None:
        while not done.wait(0.002):
            if (complaint := look()) is not None:
                wrong.append(complaint)

    thread = threading.Thread(target=keep_looking)
    thread.start()
    try:
        yield wrong
    finally:
        done.set()
        thread.join()


def gone(pid: int, patience: float = PATIENCE) -> None:
    """Return when that process is dead (a zombie is)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([pidfd], [], [], patience)
        assert ready, f"pid {pid} lives on: {command_line(pid)}"
    finally:
        os.close(pidfd)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def command_line(pid: int) -> str:
    """For people, in a failure."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "?"


def marked(mark: str) -> dict[int, str]:
    """Every living process with that mark in its environment or on its command line, but not ourselves."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid() or not alive(int(name)):
            continue
        words = b""
        for what in ("environ", "cmdline"):
            try:
                with open(f"/proc/{name}/{what}", "rb") as file:
                    words += file.read()
            except OSError:
                continue
        if mark.encode() in words:
            found[int(name)] = command_line(int(name))
    return found


def free_port() -> int:
    """A loopback port that nobody holds now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def open_gate(gate: Path) -> None:
    """Let the child behind that FIFO go on, when it has come there."""

    def somebody_waits() -> bool:
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    until(somebody_waits, f"nobody came to {gate}")


class Lines:
    """Lines from a descriptor as they come, each awaited with a bound."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def next(self, patience: float = PATIENCE) -> str:
        """The next line."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.fd], [], [], patience)
            assert ready, f"no line within {patience:g} s; so far: {self._rest!r}"
            data = os.read(self.fd, 65536)
            assert data, f"the output ended; so far: {self._rest!r}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def pid(self, word: str) -> int:
        """The pid of the next ``WORD PID`` line; other lines are skipped."""
        while True:
            said, _, number = self.next().partition(" ")
            if said == word:
                return int(number)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, closed at the end where it still is open."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            try:
                os.close(fd)
            except OSError:
                continue
