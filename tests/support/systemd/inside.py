"""Runs where the tested systemd runs, by path and without any package: looks and waits, prints one JSON value.

``inside.py look | whole SECONDS NAME... | install | reset``; each is described at its function.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAME = "llm-supervisor"
CONFIG = Path("/etc/llm-supervisor/supervisor.yaml")
UNIT = Path("/run/systemd/system/llm-supervisor.service")
DROPIN = Path(f"{UNIT}.d/test.conf")
RUNTIME = Path("/run/llm-supervisor")
PLACES = [RUNTIME, Path("/var/lib/llm-supervisor"), Path("/var/log/llm-supervisor"), CONFIG.parent]


def systemctl(*argv: str) -> str:
    """Its output; that it fails is no matter here."""
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True, check=False).stdout


def look() -> dict[str, Any]:
    """What there is of our service.

    ``programs``: living processes by program and incarnation; ``others``: the other processes of its control group;
    ``main``: the daemon; ``left``: state, sockets and FIFOs in the runtime folder; ``listening``: TCP ports.
    """
    programs: dict[str, dict[str, list[int]]] = {}
    others = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if f"/{UNIT.name}" not in Path(f"/proc/{pid}/cgroup").read_text():
                continue
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
        except OSError:
            continue
        said = dict(item.decode().partition("=")[::2] for item in environ)
        if cookie := said.get("LLM_SUPERVISOR_INCARNATION"):
            name, _, uuid = cookie.rpartition("/")
            programs.setdefault(name, {}).setdefault(uuid, []).append(int(pid))
        else:
            others.append(int(pid))
    left = [str(path) for path in RUNTIME.rglob("*") if path.is_socket() or path.is_fifo() or path.name == "state.json"]
    listening = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        listening += [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"]
    main = int(systemctl("show", NAME, "--property=MainPID", "--value") or 0)
    return {"main": main, "programs": programs, "others": others, "left": left, "listening": listening}


def status() -> dict[str, Any]:
    """The daemon's programs by name; empty while nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(str(RUNTIME / "control.sock"))
            client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        return {one["name"]: one for one in json.loads(answer.partition(b"\r\n\r\n")[2])["programs"]}
    except (OSError, ValueError):
        return {}


def whole(seconds: str, *names: str) -> dict[str, Any]:
    """Wait until the daemon says that these programs, and no others, are ready; then the status and a look."""
    ends = time.monotonic() + float(seconds)
    while True:
        said = status()
        ready = {one["name"] for one in said.values() if (one["state"], one["health"]) == ("RUNNING", "ready")}
        if ready == set(said) == set(names) or time.monotonic() > ends:
            return {"ready": sorted(ready), "status": said, **look()}
        time.sleep(0.02)


def install() -> str:
    """Write the files that standard input holds (path to text), reload, and return the journal's cursor."""
    for path, text in json.load(sys.stdin).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    systemctl("daemon-reload")
    argv = ["journalctl", "--no-pager", "-n", "0", "--show-cursor"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.rpartition("cursor: ")[2].strip()


def reset() -> None:
    """Leave nothing of ours, whatever it takes."""
    systemctl("kill", "--kill-whom=all", "--signal=KILL", NAME)
    systemctl("stop", NAME)
    systemctl("reset-failed", NAME)
    seen = look()
    for pid in [*seen["others"], *(pid for tree in seen["programs"].values() for one in tree.values() for pid in one)]:
        os.kill(pid, signal.SIGKILL)
    for place in [*PLACES, DROPIN.parent]:
        shutil.rmtree(place, ignore_errors=True)
    UNIT.unlink(missing_ok=True)
    systemctl("daemon-reload")


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
