"""The growing log of one program: bytes go from its pipe into the segment that is written at present.

Whatever the disk does, the pipe is emptied: a child whose pipe is full stands still. What could not be written is
counted, and a mark says so where the log goes on.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

from llm_supervisor.host import bounded
from llm_supervisor.host.output.segments import NOTED, NOTED_AT_LEAST, Position, segments

LOG_MODE, LOG_FOLDER_MODE = 0o640, 0o750
OPENS_WITHIN = 0.5  # seconds that a log may take to be opened before its program starts without one
REOPEN = 1.0  # seconds between two attempts to open a log again
CHUNK = 1024 * 1024
_LITTLE = 200  # bytes; a note has a tenth of that
_NONBLOCK = 2  # SPLICE_F_NONBLOCK
# Errors after which the same file may take bytes again the next moment
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


class Sink:
    """Where one program's output goes. ``take`` and ``look`` are for whoever holds ``lock``; nothing of it raises.

    ``problem`` says why nothing can be written at present; None where all is well. ``hung`` is set by others when a
    write has not come back: from then on only ``drain`` is called, until it has."""

    def __init__(self, folder: Path, segment_bytes: int, kept: int) -> None:
        self.folder, self._limit, self._kept = folder, segment_bytes, kept
        self.lock = threading.Lock()
        self.hung = False
        self.problem: str | None = None
        self._why = "the disk did not answer"  # for the mark
        self.lost = 0
        self.size = 0
        self._number = 0
        self._fd = -1
        self._tried = time.monotonic()
        self._noted, self._noted_to = -NOTED_AT_LEAST, 0
        try:
            self._use(*bounded.call(f"the log folder {folder}", _open_last, folder, segment_bytes, within=OPENS_WITHIN))
        except Exception as error:
            self._failed(error)

    @property
    def position(self) -> Position:
        """The present end of the log."""
        return Position(self._number, self.size)

    def limit(self, segment_bytes: int, kept: int) -> None:
        """Use other limits from now on. Segments beyond them stay until the next one begins."""
        self._limit, self._kept = segment_bytes, kept

    def take(self, pipe: int) -> bool:
        """Move what waits in the pipe, at most one chunk; False when nothing waits."""
        try:
            if self._fd < 0 and not self._reopen():
                return self.drain(pipe)
            if self.size >= self._limit:
                self._rotate()
            if self.lost:
                self._mark()
            moved = os.splice(pipe, self._fd, min(CHUNK, max(self._limit - self.size, 4096)), flags=_NONBLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EINVAL and self._fd >= 0:
                return self._copy(pipe)
            self._failed(error)
            return self.drain(pipe)
        except Exception as error:
            self._failed(error)
            return self.drain(pipe)
        self.problem = None
        if moved:
            self._note(self.size)
        self.size += moved
        return moved > 0

    def drain(self, pipe: int) -> bool:
        """Throw away what waits in the pipe, at most one chunk; False when nothing waits."""
        try:
            self.lost += len(os.read(pipe, CHUNK))
        except OSError:
            return False
        return True

    def look(self) -> None:
        """Begin a new segment where the present one was removed: nobody would ever see what is written into it. And see
        whether a log that could not be written can be, as its program may have nothing more to say."""
        try:
            if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
                self._use(*_open_next(self.folder, self._number))
            if self.problem and (self._fd >= 0 or self._reopen()):
                if self.lost:
                    self._mark()
                self.problem = None
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        """Close the segment that is written; ``take`` would open it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _use(self, fd: int, number: int, size: int) -> None:
        self.close()
        self._fd, self._number, self.size = fd, number, size
        self._noted, self._noted_to = -NOTED_AT_LEAST, 0
        self._point(self.folder / f"{number:08d}.log")

    def _failed(self, error: Exception) -> None:
        """Remember why nothing can be written. A file that a moment cannot mend is closed, and opened again later."""
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        self.problem = text
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        self._why = "no room for the log" if full else f"the log could not be written: {text}"
        if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
            self.close()
            self._tried = time.monotonic()

    def _reopen(self) -> bool:
        now = time.monotonic()
        if now - self._tried < REOPEN:
            return False
        self._tried = now
        self._use(*_open_last(self.folder, self._limit, after=self._number))
        return True

    def _rotate(self) -> None:
        """Begin the next segment and drop the oldest."""
        try:
            self._use(*_open_next(self.folder, self._number))
        except OSError:
            return  # no room for a new file: go on in this one, whose own failure is handled where it is written
        for old in segments(self.folder)[: -self._kept]:
            old.unlink(missing_ok=True)
            old.with_suffix(".times").unlink(missing_ok=True)

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

    def _note(self, offset: int) -> None:
        """Note that what follows this offset was written from now on."""
        now = time.monotonic()
        if now - self._noted < (NOTED if offset - self._noted_to >= _LITTLE else NOTED_AT_LEAST):
            return
        self._noted, self._noted_to = now, offset
        try:
            times = _open(self.folder / f"{self._number:08d}.times", os.O_WRONLY | os.O_APPEND)
            with open(times, "ab", buffering=0) as file:
                file.write(b"%d %d\n" % (time.time(), offset))
        except OSError:
            pass  # a convenience, too

    def _copy(self, pipe: int) -> bool:
        """For file systems that cannot splice: at most once for the last buffer, should we be killed in between."""
        try:
            data = os.read(pipe, 65536)
        except OSError:
            return False
        try:
            self._note(self.size)
            while data:
                written = os.write(self._fd, data)
                self.size += written
                data = data[written:]
            self.problem = None
        except OSError as error:
            self.lost += len(data)
            self._failed(error)
        return True

    def _mark(self) -> None:
        mark = f"\n[llm-supervisor: {self.lost} bytes lost here: {self._why}]\n".encode()
        self.size += os.write(self._fd, mark)
        self.lost = 0


def _open_last(folder: Path, segment_bytes: int, after: int = 0) -> tuple[int, int, int]:
    """The segment to go on with: its descriptor, its number and its size. It is a new one where the last one is full,
    or has a lower number than ``after``. Raises OSError."""
    for one in (folder.parent, folder):
        _make_folder(one)
    existing = segments(folder)
    number = int(existing[-1].stem) if existing else 0
    if existing and number >= after and existing[-1].stat().st_size < segment_bytes:
        return _open_segment(folder, number)
    return _open_segment(folder, max(number, after) + 1)


def _open_next(folder: Path, number: int) -> tuple[int, int, int]:
    """The segment behind the one of that number. Raises OSError."""
    if not folder.exists():
        _make_folder(folder)
    return _open_segment(folder, number + 1)


def _open_segment(folder: Path, number: int) -> tuple[int, int, int]:
    # not O_APPEND: splice refuses that with EINVAL. We are the only writer, at the end
    fd = _open(folder / f"{number:08d}.log", os.O_WRONLY)
    return fd, number, os.lseek(fd, 0, os.SEEK_END)


def _make_folder(path: Path) -> None:
    """A folder that the group may read, whatever the umask is. One that is there keeps its mode."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return
    path.chmod(LOG_FOLDER_MODE)


def _open(path: Path, flags: int) -> int:
    """A file that the group may read, whatever the umask is. One that is there keeps its mode."""
    flags |= os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, LOG_MODE)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(fd, LOG_MODE)
    return fd
