"""Read a program's log back: from a place, between two places, the last lines, since a moment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from llm_supervisor.host.output.segments import NOTED_AT_LEAST, Position, segments

_CUT = b"\n[...]\n"


def read_from(folder: Path, at: Position, limit: int = 256 * 1024) -> tuple[bytes, Position]:
    """What was written since ``at``, at most ``limit`` bytes, and the place to go on from. A segment that is gone is
    skipped."""
    data = b""
    for path in segments(folder):
        number = int(path.stem)
        if number < at.segment:
            continue
        offset = at.offset if number == at.segment else 0
        try:
            with open(path, "rb") as file:
                part = os.pread(file.fileno(), limit - len(data), offset)
        except FileNotFoundError:
            continue
        data += part
        at = Position(number, offset + len(part))
        if len(data) >= limit:
            break
    return data, at


def excerpt(folder: Path, begin: Position, end: Position, limit: int = 512 * 1024) -> bytes:
    """What was written between two places; of more than ``limit`` bytes the first and the last halves, with a mark."""
    parts = []
    for path in segments(folder):
        number = int(path.stem)
        if not begin.segment <= number <= end.segment:
            continue
        start = begin.offset if number == begin.segment else 0
        try:
            with open(path, "rb") as file:
                stop = end.offset if number == end.segment else os.fstat(file.fileno()).st_size
                if stop - start <= limit:
                    parts.append(os.pread(file.fileno(), max(stop - start, 0), start))
                else:
                    half = limit // 2
                    parts.append(os.pread(file.fileno(), half, start) + _CUT)
                    parts.append(os.pread(file.fileno(), half, stop - half))
        except FileNotFoundError:
            continue
    data = b"".join(parts)
    return data if len(data) <= limit + len(_CUT) else data[: limit // 2] + _CUT + data[-limit // 2 :]


def tail(folder: Path, lines: int, limit: int = 16 * 1024 * 1024) -> tuple[list[bytes], Position]:
    """The last ``lines`` lines (without their ends), looking back ``limit`` bytes at most, and the end's place."""
    found = b""
    end = Position(0, 0)
    for path in reversed(segments(folder)):
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            break  # dropped meanwhile, and so are all older ones
        with file:
            size = os.fstat(file.fileno()).st_size
            if end.segment == 0:
                end = Position(int(path.stem), size)
            offset = size
            while offset > 0 and found.count(b"\n") <= lines and len(found) < limit:
                step = min(65536, offset)
                offset -= step
                found = os.pread(file.fileno(), step, offset) + found
        if found.count(b"\n") > lines or len(found) >= limit:
            break
    every = split_lines(found)
    return every[-lines:] if lines else [], end


def since(folder: Path, moment: float) -> Position:
    """Where the first line begins that was written at that moment (seconds since the epoch) or later, give or take some
    seconds: nothing later is missing.
    A segment without notes has only the time of its last change: it is taken as a whole, or not."""
    at = Position(0, 0)
    for path in segments(folder):
        number = int(path.stem)
        try:
            status = path.stat()
            later = _noted_since(path.with_suffix(".times"), moment)
            if later:
                return _line_from(path, later[0])
            if later is None and status.st_mtime >= moment:
                return Position(number, 0)
        except FileNotFoundError:
            continue  # dropped meanwhile
        at = Position(number, status.st_size)
    return at


def _noted_since(file: Path, moment: float) -> list[int] | None:
    """The offsets at which something was written then, or later; None where it was not noted. Times are whole seconds,
    and what is written within ``NOTED_AT_LEAST`` of a note may have none of its own."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return None
    found = [re.fullmatch(rb"(\d+) (\d+)", line) for line in lines]
    notes = [(int(one[1]), int(one[2])) for one in found if one is not None]  # a full disk may have cut one off
    if not notes or (notes[0][1] and notes[0][0] > moment):
        return None if not notes else [0]  # the beginning is of a version that noted nothing
    return [offset for at, offset in notes if at + 1 + NOTED_AT_LEAST > moment]


def _line_from(path: Path, offset: int) -> Position:
    """The place of the first line that begins at that offset or later."""
    number = int(path.stem)
    with open(path, "rb") as file:
        if offset and os.pread(file.fileno(), 1, offset - 1) != b"\n":
            end = os.pread(file.fileno(), 65536, offset).find(b"\n")
            return Position(number, offset + end + 1)
    return Position(number, offset)


def ends_a_line(folder: Path, at: Position) -> bool:
    """Whether a line feed stands just before that place."""
    try:
        with open(folder / f"{at.segment:08d}.log", "rb") as file:
            return at.offset == 0 or os.pread(file.fileno(), 1, at.offset - 1) == b"\n"
    except FileNotFoundError:
        return True


def split_lines(data: bytes) -> list[bytes]:
    """Lines as a terminal shows them: ended by a line feed, and of what carriage returns overwrote only the last."""
    lines = data.split(b"\n")
    if lines and lines[-1] == b"":
        lines.pop()
    return [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines]


def follow(folder: Path, at: Position) -> Iterator[bytes]:
    """Chunks as they come, for ever; an empty one when there is nothing new (the caller decides how to wait)."""
    while True:
        data, at = read_from(folder, at)
        yield data
