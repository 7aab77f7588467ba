"""A daemon under test: started as a person would start it, asked by its own command, and nothing left afterwards."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, Self

import yaml

from llm_supervisor.cli import main
from llm_supervisor.control.client import NoDaemon, request
from tests.support.programs import MARK, alive, free_port, gone, until
from tests.support.programs import marked as marked_anyhow

__all__ = ["MARK", "Daemon", "answer_to", "free_port", "marked", "name_of"]

COOKIE = b"LLM_SUPERVISOR_INCARNATION="


def marked(mark: str) -> list[int]:
    """Living processes that hold this test's mark, in their environment or on their command line."""
    return list(marked_anyhow(mark))


def name_of(pid: int) -> str:
    """What the kernel calls it."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def cookie_of(pid: int) -> str:
    """``PROGRAM/INCARNATION`` of a process; empty without one."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((item.removeprefix(COOKIE).decode() for item in environ if item.startswith(COOKIE)), "")


def ports_of(config: dict[str, Any]) -> list[int]:
    """The ports that a configuration names for the gateway and the models."""
    blocks = [config.get("gateway") or {}, *(config.get("models") or {}).values()]
    return [block["port"] for block in blocks if isinstance(block, dict) and isinstance(block.get("port"), int)]


class Daemon:
    """``llm-supervisor run`` in folders of its own. A context manager: leaving it stops the daemon by SIGTERM and
    asserts that nothing is left: no process, no socket, no FIFO, no held port.

    ``prefix`` is put before the command (``setpriv``, ``unshare``, ...); ``stdout`` and ``stderr`` go to files of those
    names in ``folder`` unless something else is given to ``start``. ``base`` is a configuration that there is
    already: then ``config`` is a second file with what is changed of it.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        base: Path | None = None,
    ) -> None:
        self.folder = folder
        self.runtime, self.home = folder / "run", folder / "home"
        self.config_file = folder / ("supervisor.yaml" if base is None else "changes.yaml")
        self.config_files = [self.config_file] if base is None else [base, self.config_file]
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
        self._prefix = list(prefix)
        self.write(config)
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, config: dict[str, Any]) -> None:
        """Write the configuration."""
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
        self.ports = [port for file in self.config_files for port in ports_of(yaml.safe_load(file.read_text()))]

    # Life -------------------------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        """How it is started."""
        files = [word for file in self.config_files for word in ("-c", str(file))]
        return [*self._prefix, sys.executable, "-m", "llm_supervisor.cli", "run", *files]

    def start(self, stdout: IO[bytes] | int | None = None, stderr: IO[bytes] | int | None = None, **more: Any) -> None:
        """Start it; does not wait. ``more`` goes to Popen."""
        with open(self.folder / "stdout", "ab") as out, open(self.folder / "stderr", "ab") as err:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err if stderr is None else stderr,
                start_new_session=True,
                **more,
            )

    def end(self, signum: int = signal.SIGTERM, timeout: float = 90) -> int:
        """Send a signal and wait for its end; the exit status. Raises AssertionError when it does not end."""
        assert self.process is not None
        self.process.send_signal(signum)
        return self.wait_ended(timeout)

    def wait_ended(self, timeout: float = 90) -> int:
        """Wait until it has ended by itself; the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon does not end\n{self.stderr()[-3000:]}") from None

    def __enter__(self) -> Self:
        self.start()
        return self

    @contextmanager
    def started(self) -> Iterator[Daemon]:
        """The same as a context, for one that was started already."""
        with ExitStack() as stack:
            stack.push(self)
            yield self

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
        for pid, _ in left:
            gone(pid)
        if kind is None:
            assert not left, f"left running: {left}\n{self.stderr()[-2000:]}"
            self.assert_nothing_held()
        else:
            print(f"--- stdout\n{self.stdout()[-3000:]}\n--- stderr\n{self.stderr()[-3000:]}")

    def clean_up(self) -> list[int]:
        """Kill what is left, and remove FIFOs and sockets; the pids. For a test that says itself what may be left."""
        left = [pid for pid in marked(self.mark) if self.process is None or pid != self.process.pid]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            gone(pid)
        for path in self.runtime.rglob("*"):
            if path.is_fifo() or path.is_socket():
                path.unlink()
        return left

    def assert_nothing_held(self) -> None:
        """After its end: no socket, no FIFO, no port."""
        left = [str(path) for path in self.runtime.rglob("*") if path.is_fifo() or path.is_socket()]
        assert not left, f"left behind: {left}"
        held = [port for port in self.ports if listened(port)]
        assert not held, f"still held: {held}"

    def stdout(self) -> str:
        """What it printed so far."""
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        """What it logged so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """Its log, line by line."""
        return [json.loads(line) for line in self.stderr().splitlines() if line.startswith("{")]

    # Asking -----------------------------------------------------------------------------------------------

    def cli(self, *argv: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """One command against it."""
        return subprocess.run(
            [sys.executable, "-m", "llm_supervisor.cli", *argv],
            env=self.env, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.folder,
        )  # fmt: skip

    def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """The same within this process: quick, for what only prints and exits."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        environ, folder = dict(os.environ), os.getcwd()
        os.environ.clear()
        os.environ.update(self.env)
        os.chdir(self.folder)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    code = main.main(list(argv))
                except SystemExit as end:
                    code = int(end.code or 0)
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environ)
        said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(list(argv), code, *said)

    def background(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command that goes on; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "llm_supervisor.cli", *argv],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder,
        )  # fmt: skip

    def ask(self, method: str, path: str) -> tuple[int, Any]:
        """One request to its control socket. Raises NoDaemon."""
        return request(self.runtime, method, path)

    @contextmanager
    def posted(self, path: str) -> Iterator[socket.socket]:
        """A request that it has in hand; ``answer_to`` reads what becomes of it."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(str(self.runtime / "control.sock"))
            sock.sendall(f"POST {path} HTTP/1.0\r\n\r\n".encode())
            for _ in range(5):
                self.status()  # whoever came before it is in hand as well
            yield sock

    def status(self) -> dict[str, Any]:
        """What ``status --json`` prints; an empty supervisor while it does not answer."""
        try:
            message: dict[str, Any] = self.ask("GET", "/v1/status")[1]
        except NoDaemon:
            return {"supervisor": None, "endpoint": None, "programs": [], "models": []}
        return message

    def program(self, name: str) -> dict[str, Any]:
        """One program of the status."""
        return next((one for one in self.status()["programs"] if one["name"] == name), {"state": "NONE", "pid": None})

    def wait_for(self, look: Callable[[], Any], what: str, timeout: float = 90) -> Any:
        """What ``look`` returns as soon as it is true. Raises AssertionError when the daemon ends before."""

        def seen() -> Any:
            ended = self.process is not None and self.process.poll() is not None
            found = look()
            assert found or not ended, f"the daemon ended before {what}\n{self.stderr()[-3000:]}"
            return found

        try:
            return until(seen, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status()}\n{self.stderr()[-3000:]}") from None

    def wait(self, name: str, timeout: float = 90, **wanted: Any) -> dict[str, Any]:
        """Wait until the program's status shows these values. Raises AssertionError when it does not."""

        def look() -> dict[str, Any] | None:
            seen = self.program(name)
            return seen if all(key in seen and seen[key] == value for key, value in wanted.items()) else None

        found: dict[str, Any] = self.wait_for(look, f"{name} {wanted}", timeout)
        return found

    def wait_up(self, timeout: float = 90) -> dict[str, Any]:
        """Wait until it answers at all; its status."""

        def look() -> dict[str, Any] | None:
            seen = self.status()
            return seen if seen["supervisor"] else None

        found: dict[str, Any] = self.wait_for(look, "it answered", timeout)
        return found

    def wait_ready(self, timeout: float = 90) -> dict[str, Any]:
        """Wait until ``status`` exits 0; its message."""

        def look() -> dict[str, Any] | None:
            if not (self.status()["supervisor"] or {}).get("ready"):
                return None
            done = self.cli("status", "--json")
            return json.loads(done.stdout) if done.returncode == 0 else None

        found: dict[str, Any] = self.wait_for(look, "all was ready", timeout)
        return found

    def wait_written(self) -> None:
        """Wait until all that the status shows is in the state file: a daemon that is killed now loses nothing."""

        def known(one: dict[str, Any], entry: dict[str, Any] | None) -> bool:
            if not entry or not (state := entry["state"]):
                return False
            same = (state["wanted"], state["restarts"]) == (one["wanted"], one["restarts"])
            runs = (state["phase"] == "running") == (one["state"] == "RUNNING")
            return same and runs and (not one["pid"] or entry["cookie"] == f"{one['name']}/{one['incarnation']}")

        def look() -> bool:
            shown = self.status()["programs"]
            entries = json.loads((self.runtime / "state.json").read_text())["programs"]
            return all(known(one, entries.get(one["name"])) for one in shown)

        self.wait_for(look, "the state file says what the status says", 10)

    # Looking ----------------------------------------------------------------------------------------------

    def tree(self, name: str, incarnation: str | None = None) -> dict[int, str]:
        """Living processes of an incarnation (default: the present one) by cookie: pid to name."""
        uuid = incarnation or self.program(name)["incarnation"]
        found = {}
        for pid in marked(self.mark):
            if cookie_of(pid) == f"{name}/{uuid}":
                try:
                    found[pid] = name_of(pid)
                except OSError:
                    continue
        return found

    def children(self) -> dict[int, str]:
        """Every living process of the daemon's, itself left out: pid to cookie."""
        own = self.process.pid if self.process is not None else 0
        return {pid: cookie_of(pid) for pid in marked(self.mark) if pid not in (own, os.getpid()) and alive(pid)}

    def log(self, name: str) -> bytes:
        """What a program wrote: all of its segments."""
        return b"".join(path.read_bytes() for path in sorted((self.home / "logs" / name).glob("*.log")))


def answer_to(sock: socket.socket) -> dict[str, Any]:
    """What ``Daemon.posted`` is answered with."""
    said = b"".join(iter(lambda: sock.recv(4096), b""))
    answer: dict[str, Any] = json.loads(said.partition(b"\r\n\r\n")[2])
    return answer


def listened(port: int) -> bool:
    """Whether somebody listens on that loopback port, by the kernel's table: asking by connecting would be a visit."""
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in file.read().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    return True
    return False


def died(pidfd: int, timeout: float = 30) -> None:
    """Wait for the death behind a pidfd, and close it."""
    try:
        assert select.select([pidfd], [], [], timeout)[0], "it lives on"
    finally:
        os.close(pidfd)
