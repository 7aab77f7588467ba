"""A daemon under test: started as a person would start it, asked by its own command, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

COOKIE = b"LLM_SUPERVISOR_INCARNATION="
# Marks everything that a test's daemon starts, whatever becomes of the cookie
MARK = "LLM_SUPERVISOR_TEST"


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def marked(mark: str) -> list[int]:
    """Living processes whose environment holds this test's mark."""
    found = []
    needle = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                environ = Path(f"/proc/{name}/environ").read_bytes()
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if needle in environ.split(b"\0") and state not in "ZX":
                found.append(int(name))
    return found


def name_of(pid: int) -> str:
    """What the kernel calls it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Daemon:
    """``llm-supervisor run`` in folders of its own. A context manager: leaving it stops the daemon by SIGTERM and
    asserts that nothing is left."""

    def __init__(self, folder: Path, config: dict[str, Any], *, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.runtime, self.home = folder / "run", folder / "home"
        self.config_file = folder / "supervisor.yaml"
        self.mark = f"{os.getpid()}-{folder.name}-{time.monotonic_ns()}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("LITELLM_", "NOTIFY_"))},
            "RUNTIME_DIRECTORY": str(self.runtime),
            "LLM_SUPERVISOR_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            MARK: self.mark,
            **(env or {}),
        }
        self.env.pop("LOGS_DIRECTORY", None)
        self.write(config)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, config: dict[str, Any]) -> None:
        """Write the configuration."""
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))

    def start(self) -> None:
        """Start it; does not wait."""
        with open(self.folder / "stdout", "ab") as out, open(self.folder / "stderr", "ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llm_supervisor.cli", "run", "-c", str(self.config_file)],
                env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        left = [(pid, name_of(pid)) for pid in marked(self.mark) if pid != os.getpid()]
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
        if kind is None:
            assert not left, f"left running: {left}\n{self.stderr()[-2000:]}"
            assert not (self.runtime / "control.sock").exists()
            assert not list((self.runtime / "fifo").glob("*")) if self.runtime.exists() else True
        elif kind is not None:
            print(f"--- stdout\n{self.stdout()[-3000:]}\n--- stderr\n{self.stderr()[-3000:]}")

    def stdout(self) -> str:
        """What it printed so far."""
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        """What it logged so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def cli(self, *argv: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """One command against it."""
        return subprocess.run(
            [sys.executable, "-m", "llm_supervisor.cli", *argv],
            env=self.env, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.folder,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """``status --json``; an empty supervisor while it does not answer."""
        message: dict[str, Any] = json.loads(self.cli("status", "--json").stdout)
        return message

    def program(self, name: str) -> dict[str, Any]:
        """One program of the status."""
        return next((one for one in self.status()["programs"] if one["name"] == name), {"state": "NONE", "pid": None})

    def wait(self, name: str, timeout: float = 30, **wanted: Any) -> dict[str, Any]:
        """Wait until the program's status shows these values. Raises AssertionError when it does not."""
        end = time.monotonic() + timeout
        while True:
            seen = self.program(name)
            if all(seen.get(key) == value for key, value in wanted.items()):
                return seen
            assert time.monotonic() < end, f"{name} is {seen}, not {wanted}\n{self.stderr()[-3000:]}"
            assert self.process is None or self.process.poll() is None, f"the daemon ended\n{self.stderr()[-3000:]}"
            time.sleep(0.05)

    def wait_ready(self, timeout: float = 30) -> dict[str, Any]:
        """Wait until ``status`` exits 0; its message."""
        end = time.monotonic() + timeout
        while True:
            done = self.cli("status", "--json")
            if done.returncode == 0:
                message: dict[str, Any] = json.loads(done.stdout)
                return message
            assert time.monotonic() < end, f"not ready: {done.stdout}\n{self.stderr()[-3000:]}"
            assert self.process is None or self.process.poll() is None, f"the daemon ended\n{self.stderr()[-3000:]}"
            time.sleep(0.1)

    def tree(self, name: str, incarnation: str | None = None) -> dict[int, str]:
        """Living processes of an incarnation (default: the present one) by cookie: pid to name."""
        uuid = incarnation or self.program(name)["incarnation"]
        found = {}
        for pid in marked(self.mark):
            try:
                if COOKIE + f"{name}/{uuid}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found[pid] = name_of(pid)
            except OSError:
                continue
        return found
