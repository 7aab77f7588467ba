"""Random faults in a row, seeded and so replayable, on a running daemon; and what must hold after each.

A fault hurts some program in some way; then every wanted program must be ready again, with exactly one incarnation of
each alive and no process of an older one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.harness import Daemon, cookie_of, marked, name_of

# Cookies that were ever seen, by program: an older one must have no process left
Seen = dict[str, set[str]]
FLOOD = 16 * 1024 * 1024  # bytes


@dataclass
class Faults:
    """A seeded source of faults for some programs of a daemon."""

    daemon: Daemon
    programs: tuple[str, ...]
    seed: int
    stops: bool = True  # SIGSTOP too, where a stopped program is found
    patience: float = 60.0
    ports: Mapping[str, int] = field(default_factory=dict)  # where programs listen by themselves
    disk: Path | None = None  # a small file system that the logs are on
    history: list[str] = field(default_factory=list)
    seen: Seen = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def one(self) -> None:
        """One fault, and what must hold after it."""
        before = {program["name"]: program for program in self.daemon.wait_ready(self.patience)["programs"]}
        for name, program in before.items():
            self.seen.setdefault(name, set()).add(program["incarnation"])
        name = self._random.choice(self.programs)
        kinds: list[Callable[[str], bool]] = [self._kill_leader, self._kill_any, self._kill_all]
        kinds += [self._garbage, self._flood, self._squat]
        if self.stops:
            kinds.append(self._stop_any)
        if self.disk is not None:
            kinds.append(self._fill_disk)
        hurt = self._random.choice(kinds)(name)
        if hurt:
            self.daemon.wait_for(
                lambda: self.daemon.program(name)["incarnation"] not in (None, before[name]["incarnation"]),
                f"{name} to be replaced after {self.history[-1]}",
                self.patience,
            )
        self.check()

    def check(self) -> None:
        """Ready again; one living incarnation of each; nothing of an older one; no stranger."""
        after = {program["name"]: program for program in self.daemon.wait_ready(self.patience)["programs"]}
        for name, program in after.items():
            assert program["state"] == "RUNNING" or name not in self.programs, (self.seed, self.history, program)
            for old in self.seen.get(name, set()) - {program["incarnation"]}:
                assert not self.daemon.tree(name, old), (self.seed, self.history, name, old)
        assert self.daemon.process is not None
        mine = {pid for name in after for pid in self.daemon.tree(name)}
        theirs = {pid for pid in marked(self.daemon.mark) if cookie_of(pid).startswith("fork-server")}
        strangers = set(marked(self.daemon.mark)) - mine - theirs - {self.daemon.process.pid}
        assert not strangers, (self.seed, self.history, strangers)

    def _pids(self, name: str) -> list[int]:
        return sorted(self.daemon.tree(name))

    def _kill_leader(self, name: str) -> bool:
        return self._signal(name, [self.daemon.program(name)["pid"]], signal.SIGKILL, "kill leader")

    def _kill_any(self, name: str) -> bool:
        victim = self._random.choice(self._pids(name))
        leader = victim == self.daemon.program(name)["pid"]
        needed = vital(victim)
        return self._signal(name, [victim], signal.SIGKILL, "kill one") and (leader or needed)

    def _kill_all(self, name: str) -> bool:
        return self._signal(name, self._pids(name), signal.SIGKILL, "kill all")

    def _stop_any(self, name: str) -> bool:
        needed = [pid for pid in self._pids(name) if vital(pid)]
        return self._signal(
            name, [self._random.choice(needed or [self.daemon.program(name)["pid"]])], signal.SIGSTOP, "stop"
        )

    def _garbage(self, name: str) -> bool:
        """A configuration that is broken by now does not matter to a daemon that runs."""
        self.history.append("garbage configuration")
        text = self.daemon.config_file.read_text()
        self.daemon.config_file.write_text("{ : [\n" + text[: self._random.randrange(len(text))])
        assert self.daemon.cli("status").returncode == 0
        self.daemon.config_file.write_text(text)
        return False

    def _flood(self, name: str) -> bool:
        """Its log, written to as if it did so itself, faster than any disk takes it."""
        self.history.append(f"log flood of {name}")
        line = b"flood " * 20 + b"\n"
        (fifo,) = (self.daemon.runtime / "fifo").glob(f"{name}.*")
        with open(fifo, "wb", buffering=0) as file:
            for _ in range(FLOOD // (len(line) * 500)):
                file.write(line * 500)
        return False

    def _squat(self, name: str) -> bool:
        """It dies, and somebody takes its port for a while."""
        leader = self.daemon.program(name)["pid"]
        port = self.ports.get(name)
        if port is None:  # a gateway's: the port is the daemon's, and never free
            return self._signal(name, [leader], signal.SIGKILL, "kill leader")
        self.history.append(f"squatter on port {port} of {name}")
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            os.kill(leader, signal.SIGKILL)
            while True:
                try:
                    squatter.bind(("127.0.0.1", port))
                    squatter.listen()
                    break
                except OSError:
                    time.sleep(0.001)
            time.sleep(self._random.uniform(0.1, 1.0))
        return True

    def _fill_disk(self, name: str) -> bool:
        """No room for logs and incidents: the program dies, comes back and works all the same."""
        assert self.disk is not None
        self.history.append(f"full disk, kill leader of {name}")
        before = self.daemon.program(name)
        filler = self.disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(1024 * 1024)) == 1024 * 1024:
                    pass
            except OSError:
                pass  # full
        try:
            os.kill(before["pid"], signal.SIGKILL)
            self.daemon.wait_for(
                lambda: self.daemon.program(name)["incarnation"] not in (None, before["incarnation"]),
                f"{name} to be replaced on a full disk",
                self.patience,
            )
            self.daemon.wait_ready(self.patience)
        finally:
            filler.unlink()
        return True

    def _signal(self, name: str, pids: list[int], signum: int, what: str) -> bool:
        self.history.append(f"{what} of {name}: {pids}")
        for pid in pids:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue
        return True


def vital(pid: int) -> bool:
    """Whether an engine cannot work without it."""
    try:
        return name_of(pid).startswith("VLLM::")
    except OSError:
        return False


def run(faults: Faults, count: int) -> None:
    """So many faults; the seed and the history are shown when one is not healed."""
    began = time.monotonic()
    for _ in range(count):
        faults.one()
    print(f"{count} faults (seed {faults.seed}) in {time.monotonic() - began:.0f} s")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A small file system of its own at that folder; None where this user may not mount one."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        print(f"no small disk, so the fault of a full one is left out: {done.stderr.decode().strip()}")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ext4:
    """A small ext4 of its own, whose kernel can be told that it is damaged: it turns read-only under everybody."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._folder, self._image = folder, image
        self._device = ""

    def mount(self) -> None:
        """Raises CalledProcessError where this user may not."""
        command = ["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self._folder)]
        subprocess.run(command, check=True, capture_output=True)
        mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
        self._device = next(Path(one[0]).name for one in mounts if one[1] == str(self._folder))

    def unmount(self) -> None:
        """As an administrator would, who does not wait for those who have files open on it."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def replace(self) -> None:
        """Mount a copy instead: the damaged one stays read-only as long as anybody has a file open on it."""
        self.unmount()
        self._image = self._image.rename(self._image.with_suffix(".damaged"))
        self._image = Path(shutil.copyfile(self._image, self._image.with_suffix("")))
        self.mount()

    def damage(self) -> None:
        """Every write fails with EROFS from now on, also to files that are open."""
        Path(f"/sys/fs/ext4/{self._device}/trigger_fs_error").write_text("1")


@contextmanager
def ext4(folder: Path, image: Path) -> Iterator[Ext4 | None]:
    """A mounted ext4 at that folder; None where this user cannot have one that can be damaged."""
    folder.mkdir(parents=True)
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    disk = Ext4(folder, image)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no ext4, so a file system that turns read-only is left out: {error}")
        yield None
        return
    try:
        yield disk
    finally:
        disk.unmount()
