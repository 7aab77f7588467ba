"""Checks of ``programs``: the command, its folder, when it counts as ready; and of the signals that stop programs."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from llm_supervisor.config import schema
from llm_supervisor.config.checks.context import Context, is_host
from llm_supervisor.config.config import GATEWAY, split_url
from llm_supervisor.config.document import Document, Problem, Where
from llm_supervisor.suggest import short

# Words that only a shell understands
_SHELL_BUILTINS = frozenset({"cd", "export", "source", ".", "exec", "ulimit", "set"})
# The ways in which a program can become ready
_READY = ("tcp", "http", "after")


def problems(context: Context) -> Iterator[Problem]:
    """All that is wrong with the programs, and with the stop signals of everything that is supervised."""
    for name, program in context.root.programs.items():
        where: Where = ("programs", name)
        yield from _command(context, where, program)
        yield from _ready(context, where, program.ready)
    yield from _stop_signals(context)


def _command(context: Context, where: Where, program: schema.Program) -> Iterator[Problem]:
    cwd = context.file(program.cwd) if program.cwd else None
    if cwd is not None and not os.path.isdir(cwd):
        yield context.document.problem((*where, "cwd"), f"no such folder: {program.cwd}")
    elif (*where, "command") not in context.placeholders:
        search = program.env.get("PATH") or context.environ.get("PATH") or os.environ.get("PATH", os.defpath)
        if problem := _wrong_command(program.command[0], cwd, search):
            message, advice, warning = problem
            yield context.document.problem((*where, "command", 0), message, advice, warning=warning)


def _ready(context: Context, where: Where, ready: schema.Ready) -> Iterator[Problem]:
    document, here = context.document, (*where, "ready")
    ways = [way for way in _READY if getattr(ready, way) is not None]
    if len(ways) != 1 and not context.has_placeholder_in(here):
        advice = "leave the others out" if ways else "write {after: 5s}, for one"
        yield document.problem(here, "must say exactly one of tcp, http, after", advice)
    if ready.tcp is not None:
        yield from _tcp(document, (*here, "tcp"), ready.tcp)
    if ready.http is not None and split_url(ready.http) is None:
        advice = "write http://127.0.0.1:8080/health, for one"
        yield document.problem((*here, "http"), "must be an http:// URL of this machine", advice)


def _tcp(document: Document, where: Where, address: str) -> Iterator[Problem]:
    host, _, port = address.rpartition(":")
    if is_host(host) and port.isdecimal() and 0 < int(port) < 65536:
        return
    bare = re.fullmatch(r"(?:\w+://|\s*)(?:([\w.-]*):)?([1-9]\d{0,4})[\s/]*", address)
    advice = f'write "{bare[1] or "127.0.0.1"}:{bare[2]}"' if bare and int(bare[2]) < 65536 else ""
    yield document.problem(where, f"{short(address)} is no host:port", advice)


def _wrong_command(first: str, cwd: Path | None, search: str) -> tuple[str, str, bool] | None:
    """Message, advice, and whether it is only a warning, for the first word of a command; None where nothing is wrong.

    A program that does not exist is a warning: the daemon may have another PATH than this command, the program may be
    installed later, and one missing program is no reason not to start the others."""
    if "/" not in first:
        if shutil.which(first, path=search) is not None:
            return None
        shell = first in _SHELL_BUILTINS or re.search(r"[\s$|&;<>*]", first) is not None
        advice = 'a shell is needed for that: [sh, -c, "..."]' if shell else "install it, or write its whole path"
        return f"no such program in PATH: {first}", advice, True
    if first.startswith(("~", "$")):
        return f"{first}: no shell is there to expand it", "write the whole path", False
    file = os.path.join(cwd, first) if cwd else first
    if os.path.isdir(file):
        return f"{first} is a folder", "", False
    if not os.path.isfile(file):
        return f"no such program: {first}", "", True
    return None if os.access(file, os.X_OK) else (f"{first} cannot be executed", f"chmod +x {first}", False)


def _stop_signals(context: Context) -> Iterator[Problem]:
    root = context.root
    blocks: dict[Where, schema.Supervised] = {("models", name): model for name, model in root.models.items()}
    blocks |= {("programs", name): program for name, program in root.programs.items()}
    blocks |= {(GATEWAY,): root.gateway} if root.gateway is not None else {}
    for where, block in blocks.items():
        if block.stop.signal in (signal.SIGSTOP, signal.SIGCONT):
            name = signal.Signals(block.stop.signal).name.removeprefix("SIG")
            message = f"{name} does not end a process: each stop would take the whole grace"
            yield context.document.problem((*where, "stop", "signal"), message, "write TERM, INT or QUIT")
