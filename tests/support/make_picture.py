"""Record the session that README.md shows: `status`, a killed worker of vLLM, and `status` again (`make picture`).

The session is real. The engines and the tiny model of `make run` are started by a daemon of its own, in a temporary
folder and on free ports, so that nothing else on the machine is touched. The result is docs/status.svg.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from llm_supervisor import paths
from llm_supervisor.engines.environment import environment, is_complete

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "status.svg"
DEMO = ROOT / "configs" / "demo.yaml"
MODEL = "glm-4.1v"
START = 900.0  # seconds; the first start of vLLM on a machine that does other things as well
BACK = 300.0  # seconds; the start after the kill
COLUMNS = 104


def free_port(wanted: int) -> int:
    """The port that is wanted where nobody listens on it, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise OSError("no port is free")


def overlay() -> dict[str, Any]:
    """What differs from the demo: the engines' interpreters, which lie in the user's data folder, and free ports."""
    engines = {}
    for engine in ("vllm", "litellm"):
        env = environment(engine, paths.data_dir(os.environ))
        if not is_complete(env):
            raise SystemExit(f"{engine} is not installed: `make run` installs both engines and makes the tiny model")
        engines[engine] = {"python": str(env.python)}
    return {
        "engines": engines,
        "gateway": {"port": free_port(4000)},
        "models": {MODEL: {"port": free_port(8000)}},
    }


def worker(leader: int) -> int:
    """The pid of vLLM's worker below that process, else of its EngineCore. Raises LookupError."""
    tree = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in tree.splitlines()]
    below = {leader}
    found: dict[str, int] = {}
    for _ in range(4):  # leader, EngineCore, Worker: four passes find every descendant of interest
        for pid, parent, *args in rows:
            if int(parent) in below:
                below.add(int(pid))
                found[(args or [""])[0].split("_")[0].strip()] = int(pid)
    for name, pid in sorted(found.items(), reverse=True):
        if name.startswith(("VLLM::Worker", "VLLM::EngineCore")):
            return pid
    raise LookupError(f"vLLM (pid {leader}) has neither a worker nor an EngineCore: {sorted(found)}")


class Session:
    """A terminal: each command with what it printed. `environ` is what the commands run with."""

    def __init__(self, configs: list[str], environ: Mapping[str, str]) -> None:
        self._configs = configs
        self._environ = dict(environ)
        self.console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115

    def ask(self, *words: str) -> str:
        """What one `llm-supervisor` command prints. It is not shown."""
        command = [sys.executable, "-m", "llm_supervisor.cli", *words, *self._configs]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False).stdout

    def status(self) -> dict[str, Any]:
        """The status as JSON, by which the recording finds its moments."""
        return dict(json.loads(self.ask("status", "--json") or "{}"))

    def show(self, command: str, output: str = "") -> None:
        """Write a command, and what it printed, to the terminal."""
        self.console.print(Text("$ ", style="dim") + Text(command, style="bold"))
        for line in output.rstrip().splitlines():
            text = Text(line)
            text.highlight_regex(r"\bRUNNING +(ready|busy)", "green")
            text.highlight_regex(r"\b(STARTING|STOPPING) +\S+", "yellow")
            text.highlight_regex(r"\b(BACKOFF|FATAL|EXITED) +\S+", "red")
            self.console.print(text)
        self.console.print()

    def record(self, *words: str) -> str:
        """Run one `llm-supervisor` command and show it."""
        output = self.ask(*words)
        self.show("llm-supervisor " + " ".join(words), output)
        return output

    def wait(self, what: str, seconds: float, ready: Any) -> dict[str, Any]:
        """Ask for the status until it is as wanted. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.status()
            if status.get("supervisor") and ready({program["name"]: program for program in status["programs"]}):
                return status
            time.sleep(0.1)
        raise TimeoutError(f"after {seconds:.0f} s it is not so: {what}")


def warm(program: Mapping[str, Any]) -> bool:
    """Whether the program is ready, and whether its fork server is as well, where it has one."""
    server = program["fork_server"]
    is_up = program["state"] == "RUNNING" and program["health"] == "ready"
    return is_up and (server is None or server["state"] in ("ready", "off"))


def play(session: Session) -> None:
    """The session itself."""
    session.wait("both engines are ready", START, lambda found: all(map(warm, found.values())))
    session.record("status")
    status = session.status()
    before = next(program for program in status["programs"] if program["name"] == MODEL)
    victim = worker(before["pid"])
    session.show(f"kill -KILL {victim}     # vLLM's worker process")
    os.kill(victim, signal.SIGKILL)
    session.wait("the death is noticed", 30.0, lambda found: found[MODEL]["pid"] != before["pid"])
    session.record("status", MODEL)
    session.wait(
        "the model answers again",
        BACK,
        lambda found: found[MODEL]["pid"] not in (None, before["pid"]) and found[MODEL]["health"] == "ready",
    )
    session.record("status")
    session.record("events", "-n", "5", MODEL)


def main() -> int:
    """Record the session and write the picture."""
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        place = Path(folder)
        more = place / "overlay.yaml"
        more.write_text(yaml.safe_dump(overlay()))
        environ = {**os.environ, "LITELLM_MASTER_KEY": "sk-" + os.urandom(16).hex()}
        for name in ("LLM_SUPERVISOR_HOME", "RUNTIME_DIRECTORY", "LOGS_DIRECTORY"):
            environ[name] = str(place / name.lower())
        session = Session(["-c", str(DEMO), "-c", str(more)], environ)
        command = [sys.executable, "-m", "llm_supervisor.cli", "run", "-c", str(DEMO), "-c", str(more)]
        with subprocess.Popen(command, env=environ) as daemon:
            try:
                play(session)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(120)
        drawn = session.console.export_svg(title="llm-supervisor", unique_id="status")
    # rich names fonts of a content delivery network; the viewer's own monospace font does
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
