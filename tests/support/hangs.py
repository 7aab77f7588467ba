"""A daemon on a machine of which parts do not answer: GPUs, a disk and a process that hang while a file is there.

The parts are played inside the daemon, by a module that its Python loads at the start; the daemon's own code is the
real one. A call that hangs sleeps in short steps, as a call in the kernel sleeps, and cannot be ended from outside.
"""

from __future__ import annotations

import json
from pathlib import Path

_PLAYED = """
import builtins, os, time
FOLDER = {folder!r}
DISK = os.path.join(FOLDER, "disk")

def hang(what):
    while real_exists(os.path.join(FOLDER, "hangs", what)):
        time.sleep(0.02)

real_exists, real_open, real_lexists = os.path.exists, builtins.open, os.path.lexists

def is_of_the_process(name):
    try:
        with real_open(os.path.join(FOLDER, "pid")) as file:
            pid = file.read()
    except OSError:
        return False
    return name in ["/proc/" + pid + "/" + what for what in ("environ", "cmdline", "maps", "smaps_rollup")]

def wait(path):
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if name == DISK or name.startswith(DISK + "/"):
        hang("disk")
    elif name.startswith("/proc/") and is_of_the_process(name):
        hang("process")

def held_up(real):
    def call(path=".", *more, **named):
        wait(path)
        return real(path, *more, **named)
    return call

for name in "stat lstat scandir listdir open access".split():
    setattr(os, name, held_up(getattr(os, name)))
for name in "isdir isfile exists getsize realpath".split():
    setattr(os.path, name, held_up(getattr(os.path, name)))
builtins.open = held_up(builtins.open)

import signal
real_send = signal.pidfd_send_signal

def send(pidfd, signum, *more):
    # a process that hangs in the kernel survives SIGKILL
    with real_open("/proc/self/fdinfo/%d" % pidfd) as file:
        pid = next(line.split()[1] for line in file if line.startswith("Pid:"))
    if signum != signal.SIGKILL or not real_exists(os.path.join(FOLDER, "hangs", "unkillable-" + pid)):
        real_send(pidfd, signum, *more)

signal.pidfd_send_signal = send

from llm_supervisor.core.spec import StopSpec
StopSpec.__init__.__defaults__ = (15, 30.0, 30.0, 0.1, 0.2)  # nobody waits half a minute after SIGKILL

from llm_supervisor.core.gpu_memory import Memory
from llm_supervisor.host import gpu

class Gpus:
    def memory(self, index):
        hang("gpu%d" % index)
        with real_open(os.path.join(FOLDER, "gpus.json")) as file:
            import json
            said = json.load(file)[index]
        return Memory(said["used"], said["total"], tuple(map(tuple, said["holders"])))

    def names(self):
        return ["played"]

    def driver(self):
        return None

gpu.detect = Gpus
"""


class Hangs:
    """What does not answer at present. ``env`` is for the daemon; ``disk`` is a folder on the disk that can hang."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.disk = folder / "disk"
        for one in (self.disk, folder / "hangs", folder / "site"):
            one.mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_PLAYED.format(folder=str(folder)))
        self.env = {"PYTHONPATH": str(folder / "site")}
        self.gpus([{"used": 1 << 30, "total": 80 << 30, "holders": []}])

    def gpus(self, said: list[dict[str, object]]) -> None:
        """How the GPUs are from now on."""
        fresh = self._folder / "gpus.new"
        fresh.write_text(json.dumps(said))
        fresh.replace(self._folder / "gpus.json")

    def begin(self, what: str, pid: int = 0) -> None:
        """From now on ``gpu0``, ``disk`` or ``process`` (with its pid) hangs, or one is ``unkillable``."""
        if what == "unkillable":
            what = f"unkillable-{pid}"
        if what == "process":
            (self._folder / "pid").write_text(str(pid))
        (self._folder / "hangs" / what).touch()

    def end(self) -> None:
        """Everything answers again."""
        for one in (self._folder / "hangs").iterdir():
            one.unlink()
