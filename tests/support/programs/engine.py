"""Plays vLLM or LiteLLM, as the daemon starts and asks them: which of the two is told by the command line.

Run by path with any Python, standard library only. With ``--uds`` it is a LiteLLM replica on the inherited listening
socket (descriptor 3) and on a private unix socket, and shows the groups of the file that CONFIG_FILE_PATH names; else
it is a vLLM server. It prints ``serving`` when it serves. With ``SHARED_MEMORY`` in its environment it holds a segment
of that name, and with ``NEVER_READY`` it forks a worker that holds it, too, and goes no further. What ``SAYS`` holds in
its environment it prints before it serves.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARGV = sys.argv[1:]


def after(flag: str) -> str | None:
    """The word behind a flag."""
    return ARGV[ARGV.index(flag) + 1] if flag in ARGV else None


def groups() -> list[dict[str, object]]:
    """The groups of LiteLLM's file, as far as the daemon writes it: found by pattern, for there is no YAML here."""
    with open(os.environ["CONFIG_FILE_PATH"], encoding="utf-8") as file:
        text = file.read()
    found = []
    for entry in text.split("- model_name: ")[1:]:
        vision = re.search(r"supports_vision: (true|false)", entry)
        found.append({"model_group": entry.split()[0], "supports_vision": vision is not None and vision[1] == "true"})
    return found


class Handler(BaseHTTPRequestHandler):
    """Every answer that the daemon asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path in ("/health", "/health/liveliness"):
            self.say({})
        elif self.path == "/v1/models":
            self.say({"data": [{"id": after("--served-model-name")}]})
        elif self.path == "/metrics":
            self.say("vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n")
        elif self.path == "/model_group/info":
            key = os.environ["LITELLM_MASTER_KEY"]
            allowed = self.headers["Authorization"] == f"Bearer {key}"
            self.say({"data": groups()}, 200 if allowed else 401)
        else:
            self.say({}, 404)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"] or 0)
        request = json.loads(self.rfile.read(length))
        message = {"role": "assistant", "content": f"{request['model']} at {os.getpid()}"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "text": "x", "finish_reason": "stop"}
        self.say({"model": request["model"], "choices": [choice], "usage": usage})

    def say(self, what: object, status: int = 200) -> None:
        body = what.encode() if isinstance(what, str) else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """On a socket that exists already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock

    def get_request(self) -> tuple[socket.socket, object]:
        connection, _ = self.socket.accept()
        return connection, ("client", 0)


def private_socket(path: str) -> socket.socket:
    folder = os.open(os.path.dirname(path), os.O_PATH)
    sock = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    sock.listen()
    return sock


def hold_shared_memory(name: str) -> mmap.mmap:
    """A segment in /dev/shm, as a real engine leaves it there when it is killed."""
    with open(f"/dev/shm/{name}", "w+b") as file:
        file.truncate(4096)
        return mmap.mmap(file.fileno(), 4096)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    held = hold_shared_memory(os.environ["SHARED_MEMORY"]) if "SHARED_MEMORY" in os.environ else None
    if held is not None and "NEVER_READY" in os.environ:
        if os.fork() > 0:
            print("loading", flush=True)
        signal.pause()
    uds, port = after("--uds"), after("--port")
    if uds is not None:
        sockets = [socket.socket(fileno=int(after("--listen-fd") or 3)), private_socket(uds)]
    else:
        sockets = [socket.create_server(("127.0.0.1", int(port or 0)))]
    for sock in sockets:
        threading.Thread(target=Server(sock).serve_forever, daemon=True).start()
    if "SAYS" in os.environ:
        print(os.environ["SAYS"], flush=True)
    print(f"serving {os.getpid()}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    if any(word.endswith("fork_server.py") for word in sys.argv):
        sys.exit("this one cannot be forked")
    if any(word.endswith("litellm_dry_run.py") for word in sys.argv):
        sys.exit("this one loads nothing")
    main()
