"""Run one external command to its end: its output line by line, a time limit, and nothing that outlives us.

For commands that a person waits for (uv, a self-test, a download). The programs that the daemon supervises are not
started here. Everything is synchronous; call it from a thread that lives until it returns, because the command is
killed when that thread ends.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TIDYING = 20.0  # seconds that a command gets which has to end what it has started
PULSE = 5.0  # seconds of a command's silence after which a person is told that it still works

# PR_SET_PDEATHSIG: after our SIGKILL the command does not go on writing where the next attempt works. It is set by a
# small Python that then becomes the command, not by `preexec_fn`, which is unsafe in a process with threads. We may
# have died before it was set: then our child has another parent already.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"{sys.argv[2]}: {error.strerror}", file=sys.stderr)
    os._exit(127)
"""


class Cancelled(Exception):
    """The command was ended because somebody cancelled it."""


class Cancellation:
    """Ends every command that runs with it, from any thread. ``cancel`` may be called more than once."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def cancel(self) -> None:
        """End the commands. Each ``run`` raises Cancelled once its command is gone."""
        os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Give the descriptor back; no command may run with it any more."""
        os.close(self.fd)


def run(
    command: Sequence[str | Path],
    log: Path,
    *,
    hear: Callable[[str], object] = lambda line: None,
    extra: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    timeout: float = math.inf,
    tidies: bool = False,
    cancellation: Cancellation | None = None,
    pulse: float | None = None,
) -> int:
    """Run `command` to its end and return its exit status; `extra` is added to its environment, which is `environ`
    (default: ours).

    What it prints, on either stream, is appended to `log` and given to `hear` line by line, with "" for each `pulse`
    seconds (default: PULSE) of silence. However this ends, SIGKILL included, the command does not live on. One that
    `tidies` has processes outside of its group, and is given time to end them after SIGTERM.

    Raises TimeoutError after `timeout` seconds, Cancelled, and OSError where the command cannot be started.
    """
    words = [str(word) for word in command]
    if os.sep in words[0] and not os.access(words[0], os.X_OK):
        raise FileNotFoundError(2, "No such file or directory, or not executable", words[0])
    deadline = time.monotonic() + timeout
    watched = [] if cancellation is None else [cancellation.fd]
    with (
        log.open("ab", buffering=0) as record,
        subprocess.Popen(
            [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**(os.environ if environ is None else environ), **(extra or {})},
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the whole group
        ) as process,
    ):
        assert process.stdout is not None
        output, rest = process.stdout.fileno(), b""
        try:
            while True:
                readable = select.select([output, *watched], [], [], PULSE if pulse is None else pulse)[0]
                if not readable:
                    hear("")
                elif output not in readable:
                    raise Cancelled
                elif chunk := os.read(output, 65536):
                    record.write(chunk)
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        hear(line.decode(errors="replace"))
                else:
                    return process.wait()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took longer than {timeout:.0f} s")
        finally:
            _end(process, tidies=tidies)


def _end(process: subprocess.Popen[bytes], *, tidies: bool) -> None:
    """End the command's group, if it still runs; one that ``tidies`` is asked to leave first."""
    if tidies and process.poll() is None:
        process.terminate()
        try:
            process.wait(TIDYING)
        except subprocess.TimeoutExpired:
            pass
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # nothing to tidy up: the next attempt does that anyway
