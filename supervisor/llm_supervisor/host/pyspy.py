"""The stacks of Python processes, by ``py-spy`` where it is installed: for the incident of an engine that hangs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

from llm_supervisor.host import bounded

PATIENCE = 5.0  # seconds a process
LIMIT = 64 * 1024  # bytes of a dump


def tool() -> str | None:
    """The path of py-spy: on PATH, or beside our own Python; None when it is not installed."""
    beside = os.path.dirname(sys.executable)
    return shutil.which("py-spy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), beside]))


def _dump(program: str, pid: int) -> str:
    # not blocking: one that is stopped cannot be stopped, and one that works must not be
    argv = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no dump of pid {pid}: {error}\n"
    text = done.stdout[:LIMIT].decode(errors="replace")
    return text if done.returncode == 0 else f"no dump of pid {pid}: {text.partition(chr(10))[0]}\n"


async def dump(pids: Iterable[int]) -> str:
    """The stacks of these processes, one after the other; empty without py-spy."""
    program = tool()
    if program is None:
        return ""
    dumps = []
    for pid in pids:
        try:
            dumps.append(await bounded.ask(f"process {pid}", _dump, program, pid, within=PATIENCE + 1.0))
        except OSError as error:
            dumps.append(f"no dump of pid {pid}: {error}\n")
    return "\n".join(dumps)
