"""Not LiteLLM: one replica with its argv, its sockets, its pages and its way to hand requests on, without its weight.

It reads CONFIG_FILE_PATH, serves on the inherited listening socket and on its private one, wants the master key, and
asks the engine behind a group with the group's own key.

``FAKE_LITELLM`` (JSON) and later ``POST /fake`` say how it behaves; what they do not name is as it should be:

    start: 0.1           seconds before it serves            exit: STATUS         ends then, instead of serving
    liveliness: STATUS | "hang"                              groups: STATUS | "hang"
    missing: [NAME]      groups that it does not know        vision: {NAME: BOOL} what it says of them
    chat: STATUS | "hang"                                ignore_term: true
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import yaml

scenario: dict[str, Any] = {"start": 0.1, **json.loads(os.environ.get("FAKE_LITELLM") or "{}")}
ERRORS = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError"}


def resolved(value: Any) -> Any:
    """``os.environ/NAME`` is what that variable holds."""
    if isinstance(value, str) and value.startswith("os.environ/"):
        return os.environ.get(value.removeprefix("os.environ/"), "")
    return value


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    config: dict[str, Any]
    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        """The fake is quiet."""

    def address_string(self) -> str:
        """A unix socket's peer has no address."""
        return "peer"

    def reply(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status: int, message: str) -> None:
        self.reply(status, {"error": {"message": message, "type": "None", "param": "None", "code": str(status)}})

    def misbehaves(self, page: str) -> bool:
        """Whether that page does something else than it should; then it is done."""
        wanted = scenario.get(page, 200)
        if wanted == "hang":
            threading.Event().wait()
        if wanted != 200:
            self.fail(wanted, f"the fake was told to answer {wanted}")
        return bool(wanted != 200)

    def refuses(self) -> bool:
        """Whether the master key is wrong; then that is said."""
        key = resolved(self.config["general_settings"]["master_key"])
        if self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self.fail(400, "Authentication Error, Invalid proxy server token passed.")
        return True

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        entries = self.config.get("model_list") or []
        missing = scenario.get("missing", [])
        return {entry["model_name"]: entry for entry in entries if entry["model_name"] not in missing}

    def do_GET(self) -> None:
        if self.path == "/fake":
            self.reply(200, self.asked)
        elif self.path == "/health/liveliness":
            if not self.misbehaves("liveliness"):
                self.reply(200, "I'm alive!")
        elif self.path == "/model_group/info":
            if not self.refuses() and not self.misbehaves("groups"):
                vision = {
                    name: (one.get("model_info") or {}).get("supports_vision") for name, one in self.groups.items()
                }
                vision |= scenario.get("vision", {})
                shown = [{"model_group": name, "supports_vision": bool(vision[name])} for name in self.groups]
                self.reply(200, {"data": shown})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        if self.path == "/fake":
            scenario.update(body)
            self.reply(200, {})
            return
        if self.refuses():
            return
        self.asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
        group = self.groups.get(body.get("model"))
        if group is None:
            self.fail(400, f"/chat/completions: Invalid model name passed in model={body.get('model')}")
        elif not self.misbehaves("chat"):
            self.hand_on(group, body)

    def hand_on(self, group: dict[str, Any], body: dict[str, Any]) -> None:
        """Ask the engine, and answer what it answers, in LiteLLM's words where it fails."""
        params = group["litellm_params"]
        base = urlsplit(params["api_base"])
        data = json.dumps({**body, "model": params["model"].partition("/")[2]})
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {resolved(params['api_key'])}"}
        connection = http.client.HTTPConnection(base.hostname or "", base.port, timeout=60)
        try:
            connection.request("POST", base.path + self.path.removeprefix("/v1"), data, headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            status, text = 500, f"Connection error: {type(error).__name__}".encode()
        finally:
            connection.close()
        if status == 200:
            self.reply(200, {**json.loads(text), "model": group["model_name"]})
            return
        kind = ERRORS.get(status, "InternalServerError")
        said = f"litellm.{kind}: {kind}: Hosted_vllmException - {text.decode()}"
        self.fail(status, f"{said}. Received Model Group={group['model_name']}")


class Server(ThreadingHTTPServer):
    """One of its two sockets, which is there already."""

    daemon_threads = True

    def __init__(self, sock: socket.socket) -> None:
        socketserver.BaseServer.__init__(self, None, Handler)
        self.socket = sock

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("peer", 0)

    def handle_error(self, *_: object) -> None:
        """Somebody did not wait for the answer."""


def private_socket(path: str) -> socket.socket:
    """Bound through its folder, whatever the length of the path."""
    folder = os.open(os.path.dirname(path), os.O_PATH)
    if os.path.exists(path):
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    os.close(folder)
    return sock


def dry_run() -> None:
    """Say what it makes of a file: it takes every one whose routing strategy is not ``no-such``."""
    strategy = (json.load(sys.stdin)["config"].get("router_settings") or {}).get("routing_strategy")
    where = ["router_settings", "routing_strategy"]
    wrong = {"type": "ValueError", "text": "Invalid: 'no-such'", "at": "", "where": where}
    print(json.dumps({"providers": ["anthropic"], "refused": [wrong] if strategy == "no-such" else [], "said": []}))


def main() -> None:
    """Serve until it is told to end."""
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))  # behind the path of the real replica
    signal.signal(signal.SIGTERM, signal.SIG_IGN if scenario.get("ignore_term") else lambda *_: sys.exit(0))
    with open(os.environ["CONFIG_FILE_PATH"]) as file:
        Handler.config = yaml.safe_load(file)
    time.sleep(scenario["start"])
    if "exit" in scenario:
        sys.exit(scenario["exit"])
    if resolved(Handler.config["general_settings"]["master_key"]) in ("", "sk-1234"):
        sys.exit(3)
    shared, private = socket.socket(fileno=int(options["--listen-fd"])), private_socket(options["--uds"])
    for sock in (shared, private):
        sock.listen(128)
        threading.Thread(target=Server(sock).serve_forever, kwargs={"poll_interval": 60}, daemon=True).start()
    print("INFO:     Application startup complete.", flush=True)
    try:
        while True:
            signal.pause()
    finally:
        os.unlink(options["--uds"])


if __name__ == "__main__":
    if any(word.endswith("fork_server.py") for word in sys.argv):
        sys.exit("this one cannot be forked")
    if any(word.endswith("litellm_dry_run.py") for word in sys.argv):
        dry_run()
        sys.exit()
    main()
