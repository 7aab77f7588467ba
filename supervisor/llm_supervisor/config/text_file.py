"""Reading a text file whose name a person wrote: it may be missing, a pipe, a device, huge, or no text at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llm_supervisor.suggest import near

# More than any configuration has. Reading that much takes a second or two, and a file may be anything
_MOST_BYTES = 1024 * 1024


class NotText(ValueError):
    """The file is not UTF-8; ``line`` is the first line that is not, counted from 1."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__("it is not text in UTF-8")


def text_of(path: Path, most: int = _MOST_BYTES) -> str:
    """The text of a regular file of at most ``most`` bytes (default: 1 MiB), without a byte order mark.

    Raises OSError; NotText; and ValueError, whose text says what else the file is. It is opened without blocking, as a
    pipe or a device would make the caller wait for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file, but a pipe, a socket or a device")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB, which no configuration is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotText(data.count(b"\n", 0, error.start) + 1) from error


def unreadable(error: OSError | ValueError) -> str:
    """The reason for which ``text_of`` raised, as it is shown to people."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "its name holds a NUL" if "null" in str(error) else str(error)


def similar_name(file: str) -> str:
    """Advice that names an existing file of the same folder whose name is close; empty where there is none."""
    try:
        there = [one for one in os.listdir(os.path.dirname(file)) if one != os.path.basename(file)]
    except (OSError, ValueError):
        return ""
    return near(os.path.basename(file), there)
