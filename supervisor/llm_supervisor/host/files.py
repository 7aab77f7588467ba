"""Writing files so that a crash at any moment leaves the old content or the new, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the content of ``path``; a file that is made has ``mode``, less the umask.

    A reader sees the old content or the new. Raises OSError, and then the old content stays.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        rest = memoryview(data)
        while rest:  # a write is cut where the disk is full, and only the next write says so
            rest = rest[os.write(fd, rest) :]
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    os.replace(fresh, path)
