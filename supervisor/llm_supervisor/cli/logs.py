"""`llm-supervisor logs`: what the programs wrote.

The files are read directly, so that the last lines of a program can be read when no daemon lives, too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from llm_supervisor import paths
from llm_supervisor.cli.connection import ask
from llm_supervisor.cli.output import OK, complain, may_colour
from llm_supervisor.control.client import NoDaemon
from llm_supervisor.host.output import reader as output_reader
from llm_supervisor.host.output.segments import Position
from llm_supervisor.suggest import nearest
from llm_supervisor.terminal import coloured, harmless

LINES = 10  # of each program, where neither --lines nor --since is given
PERIOD = 0.1  # seconds between two looks of --follow, when nothing was written
COLOURS = (36, 33, 32, 35, 34, 31)  # of the prefixes, as in ECMA-48's "select graphic rendition"


def logs(options: argparse.Namespace) -> int:
    """Print the last lines of the named programs (default: all), and with --follow new ones until Ctrl-C."""
    folder, known = _find()
    if not known:
        return complain(f"no logs in {folder}")
    names = options.name or known
    for name in names:
        if name not in known:
            return complain(nearest(name, known))
    printer = _Printer(folder, names, _prefixes(names))
    printer.print_last(options.since, options.lines, follow=options.follow)
    behind = options.since is not None and options.lines is None
    while options.follow or behind:
        behind = printer.print_new()
        if options.follow and not behind:
            time.sleep(PERIOD)
    printer.print_unfinished()
    return OK


def _find() -> tuple[Path, list[str]]:
    """The folder of the logs and the programs that have one: as the daemon says, else as the folder shows."""
    folder, known = paths.log_dir(os.environ), []
    try:
        _, answer = ask("GET", "/v1/status", timeout=5)
        folder = Path(answer["supervisor"]["logs"])
        known = [program["name"] for program in answer["programs"]]
    except NoDaemon:
        pass
    return folder, known or sorted(path.name for path in folder.glob("*") if path.is_dir())


class _Printer:
    """Prints the logs of several programs line by line, and remembers how far each was read.

    Of a line that a program has rewritten by carriage returns (a progress bar) only the last version is printed. On a
    terminal nothing of it is obeyed but its colours; elsewhere it is printed as it was written.
    """

    def __init__(self, folder: Path, names: Sequence[str], prefixes: dict[str, bytes]) -> None:
        self._folder, self._prefixes = folder, prefixes
        self._places: dict[str, Position] = {}
        self._unfinished = dict.fromkeys(names, b"")  # the beginning of a line whose end is not written yet
        self._out = sys.stdout.buffer
        self._terminal = sys.stdout.isatty()
        self._harmless = coloured if may_colour(sys.stdout) else harmless

    def print_last(self, since: float | None, count: int | None, *, follow: bool) -> None:
        """Print the last lines of each program. With ``since`` alone, ``print_new`` will print them."""
        for name in self._unfinished:
            log = self._folder / name
            if since is None:
                lines, self._places[name] = output_reader.tail(log, LINES if count is None else count)
            elif count is None:
                lines, self._places[name] = [], output_reader.since(log, since)
            else:
                lines, self._places[name] = _last_since(log, since, count)
            if follow and lines and not output_reader.ends_a_line(log, self._places[name]):
                self._unfinished[name] = lines.pop()
            for line in lines:
                self._print(name, line)
        self._out.flush()

    def print_new(self) -> bool:
        """Print what was written since the last call, at most a block of each log; whether there was anything."""
        found = False
        for name in self._unfinished:
            data, self._places[name] = output_reader.read_from(self._folder / name, self._places[name])
            if data:
                found = True
                *lines, self._unfinished[name] = (self._unfinished[name] + data).split(b"\n")
                for line in lines:
                    self._print(name, _last_version(line))
        self._out.flush()
        return found

    def print_unfinished(self) -> None:
        """Print the last lines that have no end yet."""
        for name, line in self._unfinished.items():
            if line:
                self._print(name, line)

    def _print(self, name: str, line: bytes) -> None:
        if self._terminal:
            # what is no UTF-8 is shown as an escape: a byte alone may be a control character, too
            text = self._harmless(line.decode(errors="backslashreplace"))
            line = text.encode(sys.stdout.encoding, errors="backslashreplace")
        self._out.write(self._prefixes[name] + line + b"\n")


def _last_version(line: bytes) -> bytes:
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _last_since(folder: Path, moment: float, most: int) -> tuple[list[bytes], Position]:
    """The last lines, at most ``most``, of those that a log got since then (seconds since the epoch), and where they
    end."""
    at, rest = output_reader.since(folder, moment), b""
    lines: deque[bytes] = deque(maxlen=most)
    while True:
        data, at = output_reader.read_from(folder, at)
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        lines.extend(whole)
    if rest:
        lines.append(rest)
    return [_last_version(line) for line in lines], at


def _prefixes(names: Sequence[str]) -> dict[str, bytes]:
    """What is printed before each line: nothing for one program; for several the name, coloured on a terminal."""
    if len(names) == 1:
        return {names[0]: b""}
    width = max(len(name) for name in names)
    found = {}
    for number, name in enumerate(names):
        text = f"{name:<{width}} | "
        if may_colour(sys.stdout):
            text = f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"
        found[name] = text.encode()
    return found
