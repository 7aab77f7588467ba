"""The pump: one thread that moves what children write from their FIFOs into the segments of their logs.

The bytes never pass through Python: ``splice`` moves them from the pipe to the file, so a SIGKILL of the daemon
between two instructions loses none (read+write loses what was read), and the daemon's memory does not grow with
what children say. A log never blocks an engine: where the disk is full, read-only or gone, the pipes are emptied all
the same, and where a write does not come back, another thread goes on without that log.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import stat
import termios
import threading
import time
from pathlib import Path

from llm_supervisor.host.output.segments import Position
from llm_supervisor.host.output.sink import Sink

SEGMENT_BYTES = 50 * 1024 * 1024  # supervisord's stdout_logfile_maxbytes
SEGMENTS_KEPT = 10  # supervisord's stdout_logfile_backups
TURN = 5.0  # seconds after which the pump shows that it turns, though nothing is written
LOOK = 5.0  # seconds between two looks whether somebody has removed a log
HUNG = 3.0  # seconds after which a write that has not come back is left behind
LOCK_WITHIN = 0.5  # seconds for which the event loop waits for a log that is being written


def make_fifo(path: Path, size: int) -> int:
    """Make the FIFO (or open the one that is there) and return our end. ``size`` is the pipe's in bytes, as far as
    the kernel allows.

    Our end is opened for reading and writing too: so there is never an end of file nor a hang-up to spin on, and
    what a dead writer left is still there for the next reader.
    """
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    fd = open_fifo(path)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        pass  # EPERM: over the user's pipe quota. A smaller pipe only wakes the pump more often
    return fd


def open_fifo(path: Path, *, link: bool = False) -> int:
    """Our end of an existing FIFO, with the size it has. Raises OSError when it does not exist or is no FIFO. With
    ``link`` the path may be a link to it, as below ``/proc/PID/fd``."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags if link else flags | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EEXIST, f"{path} is not a FIFO")
    return fd


def pending(fd: int) -> int:
    """Bytes waiting in a pipe."""
    buffer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, buffer)
    return buffer[0]


class Pump:
    """The thread that moves the output of all children. Start it before anything else; stop it last."""

    def __init__(self, logs: Path, *, segment_bytes: int = SEGMENT_BYTES, kept: int = SEGMENTS_KEPT) -> None:
        self._logs, self._segment_bytes, self._kept = logs, segment_bytes, kept
        self._epoll = select.epoll()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._epoll.register(self._wake_r, select.EPOLLIN)
        self._lock = threading.Lock()  # of the two maps; nobody writes while holding it
        self._sinks: dict[str, Sink] = {}
        self._pipes: dict[int, tuple[str, Sink]] = {}
        self._moved: dict[str, int] = {}
        self._stopping = False
        self._writing: tuple[Sink, float] | None = None  # the log that the thread is at, and since when
        self._looked = time.monotonic()
        self.turned_at = time.monotonic()
        self._thread = self._new_thread()

    def start(self) -> None:
        """Begin to move bytes, or go on after ``halt``."""
        self._stopping = False
        self._thread = self._new_thread()
        self._thread.start()

    def halt(self) -> None:
        """End the thread; every pipe stays open, with what is in it."""
        self._stopping = True
        os.write(self._wake_w, b"x")
        if self._thread.is_alive():
            self._thread.join(HUNG)

    def look_after(self) -> None:
        """Replace the thread where it has ended, or does not come back from a write: call this now and then."""
        writing = self._writing
        hangs = writing is not None and time.monotonic() - writing[1] > HUNG
        if self._stopping or (self._thread.is_alive() and not hangs):
            return
        if writing is not None and hangs:
            writing[0].hung = True
            self._writing = None
        self.start()

    def problems(self) -> dict[str, str]:
        """Why the output of a program cannot be written at present, by program."""
        with self._lock:
            sinks = dict(self._sinks)
        found = {name: "the disk does not answer" if sink.hung else sink.problem for name, sink in sinks.items()}
        return {name: why for name, why in found.items() if why}

    def limit(self, segment_bytes: int, kept: int) -> None:
        """Use other limits from now on: bytes of a segment, and the number of segments kept."""
        with self._lock:
            self._segment_bytes, self._kept = segment_bytes, kept
            for sink in self._sinks.values():
                sink.limit(segment_bytes, kept)

    def forget(self, name: str) -> None:
        """Close the log of a program that no longer exists. ``add`` opens it again."""
        with self._lock:
            if any(name == owner for owner, _ in self._pipes.values()) or name not in self._sinks:
                return
            sink = self._sinks.pop(name)
        if sink.lock.acquire(timeout=LOCK_WITHIN):
            sink.close()
            sink.lock.release()

    @property
    def alive(self) -> bool:
        """Whether the thread runs: without it every child blocks sooner or later."""
        return self._thread.is_alive()

    @property
    def limits(self) -> tuple[int, int]:
        """Bytes of a segment, and how many of them are kept."""
        return self._segment_bytes, self._kept

    def folder(self, name: str) -> Path:
        """Where the segments of one program are."""
        return self._logs / name

    def add(self, name: str, pipe: int) -> None:
        """Move what comes out of ``pipe`` into the log of ``name``; where that cannot be opened, it is tried again.

        Raises OSError where the kernel does not watch the pipe for us."""
        sink = self._sinks.get(name)
        if sink is None:
            sink = Sink(self.folder(name), self._segment_bytes, self._kept)
        with self._lock:
            self._sinks[name] = sink
            self._pipes[pipe] = (name, sink)
        try:
            self._epoll.register(pipe, select.EPOLLIN)
        except BaseException:
            with self._lock:
                del self._pipes[pipe]
            raise

    def remove(self, pipe: int) -> None:
        """Take what still waits in the pipe, then close it."""
        with self._lock:
            entry = self._pipes.pop(pipe, None)
        if entry is None:
            return
        self._epoll.unregister(pipe)
        name, sink = entry
        if not sink.hung and sink.lock.acquire(timeout=LOCK_WITHIN):
            try:
                while pending(pipe) and sink.take(pipe):
                    self._moved[name] = self._moved.get(name, 0) + 1
            finally:
                sink.lock.release()
        os.close(pipe)

    def moved(self, name: str) -> int:
        """A number that grows whenever something of that program was moved."""
        return self._moved.get(name, 0)

    def position(self, name: str) -> Position:
        """The present end of a program's log, to read from there later."""
        sink = self._sinks.get(name)
        return sink.position if sink else Position(0, 0)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="output-pump", daemon=True)

    def _run(self) -> None:
        me = threading.current_thread()
        while not self._stopping and me is self._thread:
            try:
                self._turn(me)
            except Exception:  # no thread, no output: whatever it was, go on
                time.sleep(0.1)

    def _turn(self, me: threading.Thread) -> None:
        events = self._epoll.poll(min(TURN, LOOK))
        self.turned_at = time.monotonic()
        for fd, _ in events:
            if fd == self._wake_r:
                os.read(self._wake_r, 4096)
                continue
            with self._lock:
                entry = self._pipes.get(fd)
            if entry is not None and not self._serve(me, fd, *entry):
                return
        if self.turned_at - self._looked >= LOOK:
            self._looked = self.turned_at
            with self._lock:
                sinks = [sink for sink in self._sinks.values() if not sink.hung]
            for sink in sinks:
                with sink.lock:
                    self._writing = (sink, time.monotonic())
                    sink.look()
                if not self._is_back(me, sink):
                    return

    def _serve(self, me: threading.Thread, pipe: int, name: str, sink: Sink) -> bool:
        """Move a few chunks, so that one that floods does not silence the others. False: another thread has taken over
        because this one did not come back."""
        for _ in range(4):
            if sink.hung:
                moved = sink.drain(pipe)
            else:
                with sink.lock:
                    if self._pipes.get(pipe) != (name, sink):
                        return True  # it was removed meanwhile, and its descriptor may be another one's by now
                    self._writing = (sink, time.monotonic())
                    moved = sink.take(pipe)
                if not self._is_back(me, sink):
                    return False
            if not moved:
                break
            self._moved[name] = self._moved.get(name, 0) + 1
        return True

    def _is_back(self, me: threading.Thread, sink: Sink) -> bool:
        """Note that a write has come back. False where this thread was left behind for it."""
        if me is self._thread:
            self._writing = None
            return True
        sink.hung = False  # whoever has taken over may write again
        return False

    def stop(self) -> None:
        """Move what waits everywhere, then end the thread and close everything."""
        self.halt()
        for pipe in list(self._pipes):
            self.remove(pipe)
        for sink in self._sinks.values():
            if not sink.hung:
                sink.close()
        self._epoll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
