"""Can vLLM be forked, with all of its processes, from a process that has imported it, on this machine?

Runs INSIDE vLLM's environment: `python warm_test.py MODEL REQUEST OUTPUT`. Starts the model twice from one fork server,
sends the request (a file that holds a chat completion) to each, kills each; both must give the same answer. Prints one
line of JSON, the last of its output: {"forks": true, "seconds": [4.2, 1.6]} or {"forks": false,
"why": "..."}. What vLLM says goes to the file OUTPUT.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FORK_SERVER = Path(__file__).with_name("fork_server.py")
SERVE = Path(__file__).with_name("vllm_serve.py")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
COOKIE_ROOM = 192
IMPORT_PATIENCE, START_PATIENCE, LEAVING_PATIENCE = 300.0, 150.0, 10.0  # seconds
# Of a GPU that may have other work to do
OPTIONS = ["--max-model-len", "2048", "--enforce-eager", "--dtype", "bfloat16", "--gpu-memory-utilization", "0.05"]


class Failed(Exception):
    """It does not work here; the text says what."""


class Slow(Failed):
    """It took too long: perhaps it does not work, perhaps the machine is busy."""


def environment() -> dict[str, str]:
    """What the engine gets."""
    # what vLLM keeps in temporary folders goes with the trial's own
    more = {"TMPDIR": tempfile.gettempdir(), "VLLM_RPC_BASE_PATH": tempfile.gettempdir()}
    more |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **more, "SPT_NOENV": "1"}


class Server:
    """The fork server, asked as the daemon asks it."""

    def __init__(self, model: str, output: int) -> None:
        # it listens to descriptor 3, which ours may not be
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours, theirs = (fcntl.fcntl(one.detach(), fcntl.F_DUPFD_CLOEXEC, 10) for one in pair)
        self.sock = socket.socket(fileno=ours)
        os.dup2(theirs, 3, inheritable=True)
        env = {**environment(), "LLM_SUPERVISOR_INCARNATION": "." * COOKIE_ROOM}
        argv = [sys.executable, str(FORK_SERVER), "--engine", "vllm", "--model", model]
        self.process = subprocess.Popen(argv, env=env, pass_fds=(3,), stdout=output, stderr=output)
        os.close(theirs)
        os.close(3)
        self.model, self.output = model, output
        self.answer(IMPORT_PATIENCE)

    def answer(self, patience: float) -> dict[str, Any]:
        self.sock.settimeout(patience)
        try:
            said = json.loads(self.sock.recv(65536) or b'{"error": "the fork server died"}')
        except TimeoutError:
            raise Slow(f"the fork server says nothing for {patience:g} s") from None
        if "error" in said:
            raise Failed(str(said["error"]))
        return dict(said)

    def fork(self, port: int) -> int:
        argv = [sys.executable, str(SERVE), self.model, "--served-model-name", "tiny"]
        argv += ["--host", "127.0.0.1", "--port", str(port), *OPTIONS]
        env = {**environment(), "VLLM_WORKER_MULTIPROC_METHOD": "fork"}
        request = json.dumps({"argv": argv, "env": env, "cookie": f"warm-test/{port}", "cwd": None}).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.output]))
        self.sock.sendmsg([request], [rights])
        return int(self.answer(60.0)["pid"])

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()


def ask(url: str, body: bytes | None = None) -> bytes:
    """What comes back; empty while nobody listens."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return bytes(answer.read()) or b"ok"
    except urllib.error.HTTPError as error:
        raise Failed(f"{url} answers {error.code}: {error.read()[:300]!r}") from None
    except OSError:
        return b""


def trial(server: Server, request: bytes) -> tuple[str, float]:
    """One start: its answer, and the seconds until it was there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    pid = server.fork(port)
    try:
        while not ask(f"http://127.0.0.1:{port}/health"):
            if time.monotonic() - began > START_PATIENCE:
                raise Slow(f"it is not up within {START_PATIENCE:g} s")
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise Failed("it died")
            time.sleep(0.05)
        answer = json.loads(ask(f"http://127.0.0.1:{port}/v1/chat/completions", request) or b"{}")
        took = time.monotonic() - began
        if not answer.get("usage", {}).get("completion_tokens"):
            raise Failed(f"no answer: {json.dumps(answer)[:300]}")
        return json.dumps(answer["choices"][0]["message"]), took
    finally:
        end_everything(pid, server.process.pid)


def end_everything(leader: int, but: int) -> None:
    """End the engine, in order where it lets itself: every descendant, and what was left to us as the subreaper, but
    the process ``but``. Nothing of it stays in /dev/shm."""
    import psutil

    me = psutil.Process()

    def living() -> list[psutil.Process]:
        return [one for one in me.children(recursive=True) if one.pid != but]

    shared = set().union(*(shared_memory(one.pid) for one in living()))
    try:
        # A vLLM that is told to leave removes its shared memory within a second; a killed one leaves it for ever.
        psutil.Process(leader).terminate()
        psutil.wait_procs(living(), timeout=LEAVING_PATIENCE)
    except psutil.Error:
        pass
    while rest := living():
        for one in rest:
            try:
                one.kill()
                one.wait(10)
            except psutil.Error:
                continue
    for process in psutil.process_iter():
        shared -= shared_memory(process.pid)
    for name in shared:
        Path("/dev/shm", name).unlink(missing_ok=True)


def shared_memory(pid: int) -> set[str]:
    """Names in /dev/shm that the process has mapped."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
    except OSError:
        return set()
    names = (line.partition(" /dev/shm/")[2] for line in maps.splitlines())
    return {name for name in names if name and not name.endswith(" (deleted)")}


def main() -> None:
    model, file, output = sys.argv[1:]
    request = Path(file).read_bytes()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # not SIGKILL: engines would be left
    log = fcntl.fcntl(os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), fcntl.F_DUPFD_CLOEXEC, 10)
    server = None
    tempfile.tempdir = tempfile.mkdtemp(prefix="llm-supervisor-trial-")
    try:
        server = Server(model, log)
        results = [trial(server, request) for _ in range(2)]
        if results[0][0] != results[1][0]:
            raise Failed(f"two starts give two answers: {results[0][0]} and {results[1][0]}")
        said: dict[str, Any] = {"forks": True, "seconds": [round(took, 2) for _, took in results]}
    except Failed as no:
        said = {"forks": False, "why": str(no), "again": isinstance(no, Slow)}
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
