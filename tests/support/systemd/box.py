"""A real systemd that is booted for tests in namespaces, beside whatever runs this machine, and thrown away afterwards.

It is PID 1 of a process namespace, sees this machine's files through an overlay (what it writes is in memory and goes
with it), and has its own mounts, control groups, host name, IPC and network. ``boot.sh`` puts that together. It takes
about a second.

It ends with the block that booted it, and when the test process is killed: the kernel then kills PID 1 of the
namespace and with it every process in it, and all of its mounts go with the last process. What a killed test leaves
is an empty control group, which the next boot removes. This is a test bench and no security boundary: root inside is
root outside.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SYSTEMD = Path("/usr/lib/systemd/systemd")
SCRIPT = Path(__file__).with_name("boot.sh")
PREFIX = "llm-supervisor-tests-"
TOOLS = ("bash", "unshare", "nsenter", "setpriv", "mount", "umount", "pivot_root", "mknod", "hostname", "systemctl")
# Seconds; a boot that takes longer has failed
PATIENCE = 60.0
# What a killed process needs to be gone, in seconds
MOMENT = 5.0


class NoSystemd(Exception):
    """No systemd can be booted here. The text says what is missing."""


def control_groups() -> Path:
    """Where the control groups (cgroup v2) of this machine are. Raises NoSystemd when there are none to write to."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 ") and "rw" in mount.split()[5].split(","):
            return Path(mount.split()[4])
    raise NoSystemd("a writable cgroup v2 file system is missing")


def require_everything() -> None:
    """Raises NoSystemd with the first thing that is missing here."""
    if os.geteuid():
        raise NoSystemd("the tests do not run as root")
    if not SYSTEMD.exists():
        raise NoSystemd(f"{SYSTEMD} is missing: apt-get install --no-install-recommends systemd")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise NoSystemd(f"the command {tool} is missing")
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], capture_output=True, check=False)
        if "overlay" not in Path("/proc/filesystems").read_text():
            raise NoSystemd("the kernel's overlay file system is missing")
    namespaces = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork"]
    attempt = [*namespaces, "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(attempt, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSystemd(f"namespaces are missing: {done.stderr.strip()}")


class Console:
    """The pseudo terminal that systemd has as its console. What is written there is read and kept."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self.name = os.ttyname(self._theirs)
        self._said = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # nobody has the other end open any more
                return
            if not data:
                return
            self._said += data

    def text(self) -> str:
        """The last 3000 characters."""
        return self._said.decode(errors="replace").replace("\r", "")[-3000:]

    def close(self) -> None:
        """Call it when systemd is dead."""
        os.close(self._theirs)
        self._thread.join(MOMENT)
        os.close(self._ours)


class Box:
    """A running systemd. ``pid`` is its process on this machine, ``cgroup`` its control group."""

    def __init__(self, pid: int, cgroup: Path) -> None:
        self.pid = pid
        self._commands = cgroup / "commands"
        self._commands.mkdir()

    def run(self, command: str, given: str = "", timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a shell command inside, with ``given`` as its standard input; both of its output streams are together.

        Raises subprocess.TimeoutExpired after that many seconds. What the command leaves running ends with the box."""
        procs = self._commands / "cgroup.procs"
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        return subprocess.run(
            [*enter, "bash", "-c", command], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout, check=False, preexec_fn=lambda: procs.write_text("0") and None,
            env={**variables, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip


@contextmanager
def booted(shown: Iterable[Path]) -> Iterator[Box]:
    """Boot a systemd that sees these folders, read-only, as well as the file system at ``/``. Raises NoSystemd."""
    require_everything()
    top = control_groups()
    for left in top.glob(f"{PREFIX}*"):
        if not Path(f"/proc/{left.name.removeprefix(PREFIX)}").exists():
            _remove(left)
    cgroup, console = top / f"{PREFIX}{os.getpid()}", Console()
    try:
        cgroup.mkdir()
    except OSError as error:
        raise NoSystemd(f"a control group cannot be made: {error}") from None
    # the first is killed when this process ends, and PID 1 of the namespace when the first ends
    launcher = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork",
         "--kill-child=KILL", "bash", SCRIPT, cgroup, console.name, *sorted(shown)],
        stdin=subprocess.DEVNULL, stdout=(said := os.open(console.name, os.O_WRONLY | os.O_NOCTTY)), stderr=said,
        start_new_session=True,
    )  # fmt: skip
    os.close(said)
    try:
        yield _wait_for_boot(launcher, cgroup, console)
    finally:
        launcher.kill()
        launcher.wait()
        _remove(cgroup)
        console.close()


def _wait_for_boot(launcher: subprocess.Popen[bytes], cgroup: Path, console: Console) -> Box:
    """The box, once all of its units are up. Raises NoSystemd when that fails."""
    ends = time.monotonic() + PATIENCE
    box, answer = None, "PID 1 did not become systemd"
    while launcher.poll() is None and time.monotonic() < ends:
        if box is None and (pid := _pid_of_systemd(launcher.pid)):
            box = Box(pid, cgroup)
        if box is not None:
            answer = box.run("systemctl is-system-running --wait", timeout=PATIENCE).stdout.strip()
            if answer == "running":
                return box
            if answer == "degraded":
                raise NoSystemd(f"units fail:\n{box.run('systemctl --failed --no-legend --plain').stdout}")
        time.sleep(0.02)
    raise NoSystemd(f"systemd does not boot ({answer}): {console.text()}")


def _pid_of_systemd(launcher: int) -> int | None:
    """The only child of the launcher, when it is systemd already."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    if children and os.readlink(f"/proc/{children[0]}/exe") == str(SYSTEMD.resolve()):
        return int(children[0])
    return None


def _remove(cgroup: Path) -> None:
    """Kill what a control group holds, and remove it."""
    ends = time.monotonic() + MOMENT
    while cgroup.exists() and time.monotonic() < ends:
        try:
            (cgroup / "cgroup.kill").write_text("1")
            for folder, _, _ in os.walk(cgroup, topdown=False):
                os.rmdir(folder)
        except OSError:
            time.sleep(0.02)
