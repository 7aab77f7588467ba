"""Becoming another version of ourselves in the same process: first a rehearsal in a child, then exec.

What survives an exec: the pid, the children, the subreaper's role, blocked signals, and every descriptor that is told
to. Threads do not, so the output's pump stands still for the moment (what children write waits in their pipes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_supervisor import __version__, paths
from llm_supervisor.config import ConfigError, load, plan
from llm_supervisor.daemon.bootstrap import known_pythons, last_good
from llm_supervisor.supervision import state_file as fm
from llm_supervisor.supervision.resources import find_pythons

PATIENCE = 60.0  # seconds that a rehearsal may take
FLAG = "--rehearse"
# What the service manager said to the process that we were
_STALE = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class Unfit(Exception):
    """The new code would not do; the text is for people."""


def command() -> list[str]:
    """Our own command line, as it would be run now: the interpreter by its name, which may lead elsewhere since."""
    return [sys.executable, *sys.orig_argv[1:]]


def environment() -> dict[str, str]:
    """For the process that we become."""
    return {name: value for name, value in os.environ.items() if name not in _STALE}


def rehearse() -> str:
    """Let the code that is installed now import itself, read the configuration, and read what we have written down for
    it; the version that it has. Raises Unfit. Blocks: run it in a thread."""
    try:
        done = subprocess.run(
            [*command(), FLAG],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unfit(f"the new code does not start: {error}") from error
    try:
        # not the exit status: as the subreaper we may have been quicker to fetch that
        said = json.loads(done.stdout.strip().rpartition("\n")[2])
        return str(said["rehearsed"])
    except (ValueError, KeyError, TypeError):
        said = (done.stderr or done.stdout).strip() or "it says nothing"
        raise Unfit(f"the new code does not pass the rehearsal: {said[-2000:]}") from None


def perform(files: Sequence[Path], runtime: Path, environ: Mapping[str, str]) -> int:
    """The rehearsal, in the new code: exit status, with one line of JSON on success. Changes nothing."""
    try:
        config = load(files, environ)
    except ConfigError as error:
        if (last := last_good(runtime, environ)) is None:
            raise
        config = last
        print(f"{error}\n(would go on with the last good configuration of {last.file})", file=sys.stderr)
    pythons = find_pythons(config, paths.data_dir(environ), known_pythons(runtime))
    plan(config, runtime=runtime, pythons=pythons, master_key="")
    former = fm.read(runtime)
    unread = [name for name, entry in former.programs.items() if entry.state is None] if former else []
    if former is None or unread:
        print(f"what the daemon wrote down cannot be read: {', '.join(unread) or runtime / fm.STATE}", file=sys.stderr)
        return 1
    print(json.dumps({"rehearsed": __version__}))
    return 0
