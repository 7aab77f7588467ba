"""The pump: one thread that moves what children write from their FIFOs into the segments of their logs.

The bytes never pass through Python: ``splice`` moves them from the pipe to the file, so a SIGKILL of the daemon
between two instructions loses none (read+write loses what was read), and the daemon's memory does not grow with
what children say. A full disk drains the pipe and leaves a mark: a log never blocks an engine.
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

from llm_supervisor.host.output.segments import NOTED, NOTED_AT_LEAST, Position, segments

SEGMENT_BYTES = 50 * 1024 * 1024  # supervisord's stdout_logfile_maxbytes
SEGMENTS_KEPT = 10  # supervisord's stdout_logfile_backups
LOG_MODE, LOG_FOLDER_MODE = 0o640, 0o750
_CHUNK = 1024 * 1024
_LITTLE = 200  # bytes; a note has a tenth of that
TURN = 5.0  # seconds after which the pump shows that it turns, though nothing is written
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


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


def open_fifo(path: Path) -> int:
    """Our end of an existing FIFO, with the size it has. Raises OSError when it does not exist or is no FIFO."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EEXIST, f"{path} is not a FIFO")
    return fd


def pending(fd: int) -> int:
    """Bytes waiting in a pipe."""
    buffer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, buffer)
    return buffer[0]


def _make_folder(path: Path) -> None:
    """A folder that the group may read, whatever the umask is. One that is there keeps its mode."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return
    path.chmod(LOG_FOLDER_MODE)


def _open_log(path: Path, flags: int) -> int:
    """A file that the group may read, whatever the umask is. One that is there keeps its mode."""
    flags |= os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, LOG_MODE)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(fd, LOG_MODE)
    return fd


class _Sink:
    """The growing log of one program: the segment being written, and its number."""

    def __init__(self, folder: Path, segment_bytes: int, kept: int) -> None:
        self.folder, self._limit, self._kept = folder, segment_bytes, kept
        self._noted, self._noted_to = -NOTED_AT_LEAST, 0
        for one in (folder.parent, folder):
            _make_folder(one)
        existing = segments(folder)
        self._number = int(existing[-1].stem) if existing else 0
        self.fd = -1
        self.size = 0
        self.lost = 0
        if existing and existing[-1].stat().st_size < segment_bytes:
            self._open(existing[-1])
        else:
            self.rotate()

    def _open(self, path: Path) -> None:
        # not O_APPEND: splice refuses that with EINVAL. We are the only writer, at the end
        fd = _open_log(path, os.O_WRONLY)
        size = os.lseek(fd, 0, os.SEEK_END)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.size = fd, size
        self._noted, self._noted_to = -NOTED_AT_LEAST, 0
        self._point(path)

    def _point(self, path: Path) -> None:
        # not with_suffix: a name like glm-4.1v has a dot of its own
        link = self.folder.parent / f"{self.folder.name}.log"
        fresh = self.folder.parent / f".{self.folder.name}.link"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(path.relative_to(self.folder.parent))
            fresh.replace(link)
        except OSError:
            pass  # a convenience; the segments are the log

    def rotate(self) -> None:
        """Begin the next segment and drop the oldest."""
        self._open(self.folder / f"{self._number + 1:08d}.log")
        self._number += 1
        for old in segments(self.folder)[: -self._kept]:
            old.unlink(missing_ok=True)
            old.with_suffix(".times").unlink(missing_ok=True)

    def _note(self, offset: int) -> None:
        """Note that what follows this offset was written from now on."""
        now = time.monotonic()
        if now - self._noted < (NOTED if offset - self._noted_to >= _LITTLE else NOTED_AT_LEAST):
            return
        self._noted, self._noted_to = now, offset
        try:
            times = _open_log(self.folder / f"{self._number:08d}.times", os.O_WRONLY | os.O_APPEND)
            with open(times, "ab", buffering=0) as file:
                file.write(b"%d %d\n" % (time.time(), offset))
        except OSError:
            pass  # a convenience, too

    def limit(self, segment_bytes: int, kept: int) -> None:
        """Use other limits from now on. Segments beyond them stay until the next one begins."""
        self._limit, self._kept = segment_bytes, kept

    @property
    def position(self) -> Position:
        """The present end of the log."""
        return Position(self._number, self.size)

    def take(self, pipe: int) -> bool:
        """Move what waits in the pipe, at most one chunk; False when nothing waits."""
        if self.size >= self._limit:
            try:
                self.rotate()
            except OSError:
                pass  # no room for a new file: go on in this one, whose own failure is handled below
        try:
            if self.lost:
                self._mark()
            moved = os.splice(pipe, self.fd, min(_CHUNK, max(self._limit - self.size, 4096)), flags=_NONBLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:
                return self._copy(pipe)
            if error.errno not in _NO_ROOM:
                raise
            return self._drain(pipe)
        if moved:
            self._note(self.size)
        self.size += moved
        return moved > 0

    def _copy(self, pipe: int) -> bool:
        """For file systems that cannot splice: at most once for the last buffer, should we be killed in between."""
        try:
            data = os.read(pipe, 65536)
        except BlockingIOError:
            return False
        try:
            self._note(self.size)
            while data:
                written = os.write(self.fd, data)
                self.size += written
                data = data[written:]
        except OSError:
            self.lost += len(data)
        return True

    def _drain(self, pipe: int) -> bool:
        """The disk is full: throw away what waits, as a full pipe would block the child."""
        try:
            self.lost += len(os.read(pipe, _CHUNK))
        except BlockingIOError:
            return False
        return True

    def _mark(self) -> None:
        mark = f"\n[llm-supervisor: {self.lost} bytes lost here: no room for the log]\n".encode()
        self.size += os.write(self.fd, mark)
        self.lost = 0

    def close(self) -> None:
        os.close(self.fd)


_NONBLOCK = 2  # SPLICE_F_NONBLOCK


class Pump:
    """The thread that moves the output of all children. Start it before anything else; stop it last."""

    def __init__(self, logs: Path, *, segment_bytes: int = SEGMENT_BYTES, kept: int = SEGMENTS_KEPT) -> None:
        self._logs, self._segment_bytes, self._kept = logs, segment_bytes, kept
        self._epoll = select.epoll()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._epoll.register(self._wake_r, select.EPOLLIN)
        self._lock = threading.Lock()
        self._sinks: dict[str, _Sink] = {}
        self._pipes: dict[int, tuple[str, _Sink]] = {}
        self._moved: dict[str, int] = {}
        self._stopping = False
        self.turned_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="output-pump", daemon=True)

    def start(self) -> None:
        """Begin to move bytes, or go on after ``halt``."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="output-pump", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """End the thread; every pipe stays open, with what is in it."""
        self._stopping = True
        os.write(self._wake_w, b"x")
        if self._thread.is_alive():
            self._thread.join()

    def limit(self, segment_bytes: int, kept: int) -> None:
        """Use other limits from now on: bytes of a segment, and the number of segments kept."""
        with self._lock:
            self._segment_bytes, self._kept = segment_bytes, kept
            for sink in self._sinks.values():
                sink.limit(segment_bytes, kept)

    def forget(self, name: str) -> None:
        """Close the log of a program that no longer exists. ``add`` opens it again."""
        with self._lock:
            if not any(name == owner for owner, _ in self._pipes.values()) and (sink := self._sinks.pop(name, None)):
                sink.close()

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
        """Move what comes out of ``pipe`` into the log of ``name``. Raises OSError when no log can be opened."""
        with self._lock:
            sink = self._sinks.get(name)
            if sink is None:
                sink = self._sinks[name] = _Sink(self.folder(name), self._segment_bytes, self._kept)
            self._pipes[pipe] = (name, sink)
            self._epoll.register(pipe, select.EPOLLIN)

    def remove(self, pipe: int) -> None:
        """Take what still waits in the pipe, then close it."""
        with self._lock:
            entry = self._pipes.pop(pipe, None)
            if entry is None:
                return
            self._epoll.unregister(pipe)
            name, sink = entry
            while pending(pipe) and sink.take(pipe):
                self._moved[name] = self._moved.get(name, 0) + 1
            os.close(pipe)

    def moved(self, name: str) -> int:
        """A number that grows whenever something of that program was moved."""
        return self._moved.get(name, 0)

    def position(self, name: str) -> Position:
        """The present end of a program's log, to read from there later."""
        with self._lock:
            sink = self._sinks.get(name)
            return sink.position if sink else Position(0, 0)

    def _run(self) -> None:
        while not self._stopping:
            events = self._epoll.poll(TURN)
            self.turned_at = time.monotonic()
            for fd, _ in events:
                if fd == self._wake_r:
                    os.read(self._wake_r, 4096)
                    continue
                with self._lock:
                    entry = self._pipes.get(fd)
                    if entry is None:
                        continue
                    name, sink = entry
                    # at most a few chunks a turn, so that one that floods does not silence the others
                    for _ in range(4):
                        if not sink.take(fd):
                            break
                        self._moved[name] = self._moved.get(name, 0) + 1

    def stop(self) -> None:
        """Move what waits everywhere, then end the thread and close everything."""
        self.halt()
        for pipe in list(self._pipes):
            self.remove(pipe)
        for sink in self._sinks.values():
            sink.close()
        self._epoll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
