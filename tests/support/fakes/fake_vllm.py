#!/usr/bin/env python3
"""Not vLLM: started with its argv, it has its processes, its pages and its faults, without its weight.

Standard library only. Three processes, as the real one: this API server, ``VLLM::EngineCore``, and ``VLLM::Worker``,
through which every token goes: a stopped Worker is a hang, a dead one ends EngineCore, and that the API server.

``FAKE_VLLM`` (JSON) and later ``POST /fake`` say how it behaves; what they do not name is as it should be:

    start: 0.1           seconds of loading, with vLLM's lines          exit: STATUS     ends then, instead of serving
    shards: 4            how many it shows                              say: LINE        and says so
    served: [NAME]       what /v1/models lists and requests may name
    health, models, metrics: STATUS | "hang" | "close"                  metrics: "frozen" | "empty"
    chat: STATUS | "hang" | "empty" | "no template"                     image: STATUS    for requests with an image
    hang_after: N        the requests after the first N get no answer   answer_after: SECONDS before the first token
    token: 0.002         seconds a token                                finish: true     no more tokens than one
    core_outlives_worker: 5.0, api_outlives_core: 5.0                   seconds
    ignore_term: false   SIGTERM does nothing
"""

from __future__ import annotations

import ctypes
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

PR_SET_NAME = 15
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
KINDS = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}

scenario: dict[str, Any] = {
    "start": 0.1,
    "shards": 4,
    "token": 0.002,
    "core_outlives_worker": 5.0,
    "api_outlives_core": 5.0,
    **json.loads(os.environ.get("FAKE_VLLM") or "{}"),
}


def say(line: str) -> None:
    """One line of its log."""
    os.write(1, line.encode() + b"\n")


def option(name: str, default: str) -> str:
    """The value of one of vLLM's options."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def rename(name: str) -> None:
    """What ps shows."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


# The processes ----------------------------------------------------------------------------------------------


def worker(link: socket.socket) -> None:
    """A byte in is a token out."""
    rename("VLLM::Worker")
    while got := link.recv(1):
        link.send(got)


def engine_core(link: socket.socket) -> None:
    """Has a Worker, and does not survive it for long."""
    rename("VLLM::EngineCore")
    pid = os.fork()
    if pid == 0:
        worker(link)
        os._exit(0)
    link.close()
    os.waitpid(pid, 0)
    time.sleep(scenario["core_outlives_worker"])
    os._exit(1)


class Engine:
    """What the API server knows of its engine. The counts are those of the last token, as vLLM's are: an engine that
    stands still shows what it did last."""

    def __init__(self) -> None:
        self.link, theirs = socket.socketpair()
        self.core = os.fork()
        if self.core == 0:
            self.link.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            engine_core(theirs)
        theirs.close()
        self.dead = False
        self.generated = self.prompted = self.iterations = self.running = 0
        self._lock = threading.Lock()
        self._requests = 0

    def watch(self) -> None:
        """Until EngineCore dies, and a while longer."""
        os.waitpid(self.core, 0)
        self.dead = True
        time.sleep(scenario["api_outlives_core"])
        say("INFO:     Application shutdown complete.")
        os._exit(0)

    def generate(self, tokens: int) -> bool:
        """So many tokens, one at least is computed; False when the engine died."""
        self._requests += 1
        left = 1
        try:
            for number in range(max(tokens, 1)):
                if self.dead or not self._step(prompted=0 if number else 8, tokens=min(tokens, 1)):
                    return False
                if scenario.get("finish"):
                    break
                time.sleep(scenario["token"])
            left = 0
            return True
        finally:
            self._requests -= 1
            if not left:
                self.running = self._requests

    def _step(self, prompted: int, tokens: int) -> bool:
        with self._lock:
            try:
                self.link.send(b"t")
                if not self.link.recv(1):
                    return False
            except OSError:
                return False
            self.prompted += prompted
            self.generated += tokens
            self.iterations += 1
            self.running = self._requests
        return True


# The pages --------------------------------------------------------------------------------------------------


def metrics_page(engine: Engine, name: str) -> bytes:
    """The five series that matter, between others, as prometheus_client writes them."""
    labels = '{engine="0",model_name="%s"}' % name  # noqa: UP031
    lines = [
        "# HELP python_gc_objects_collected_total Objects collected during gc",
        "# TYPE python_gc_objects_collected_total counter",
        'python_gc_objects_collected_total{generation="0"} 12345.0',
        "# HELP vllm:num_requests_running Number of requests in model execution batches.",
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{labels} {float(engine.running)}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{labels} 0.0",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        f"vllm:kv_cache_usage_perc{labels} 0.0",
        "# TYPE vllm:prompt_tokens_total counter",
        f"vllm:prompt_tokens_total{labels} {float(engine.prompted)}",
        "# TYPE vllm:prompt_tokens_created gauge",
        f"vllm:prompt_tokens_created{labels} 1.7951688e+09",
        "# TYPE vllm:generation_tokens_total counter",
        f"vllm:generation_tokens_total{labels} {float(engine.generated)}",
        "# TYPE vllm:iteration_tokens_total histogram",
        f'vllm:iteration_tokens_total_bucket{{engine="0",le="1.0",model_name="{name}"}} 1.0',
        f'vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf",model_name="{name}"}} 1.0',
        f"vllm:iteration_tokens_total_count{labels} {float(engine.iterations)}",
        f"vllm:iteration_tokens_total_sum{labels} {float(engine.generated)}",
    ]
    return ("\n".join(lines) + "\n").encode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    engine: Engine
    name: str
    key = os.environ.get("VLLM_API_KEY")
    pooling = option("--runner", "generate") == "pooling"
    asked: list[dict[str, Any]] = []  # noqa: RUF012
    frozen: list[bytes] = []  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        """The fake is quiet."""

    def reply(self, status: int, body: object = b"", kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status: int, message: str) -> None:
        kind = KINDS.get(status, "InternalServerError")
        self.reply(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def misbehaves(self, page: str) -> bool:
        """Whether that page does something else than it should; then it is done."""
        wanted = scenario.get(page, 200)
        if wanted == "hang":
            threading.Event().wait()
        if wanted == "close":
            self.close_connection = True
        elif isinstance(wanted, int) and wanted != 200:
            self.fail(wanted, f"the fake was told to answer {wanted}")
        return wanted == "close" or (isinstance(wanted, int) and wanted != 200)

    def refuses(self) -> bool:
        """Whether the key is wrong; then that is said."""
        if not self.key or self.headers.get("Authorization") == f"Bearer {self.key}":
            return False
        self.reply(401, {"error": "Unauthorized"})
        return True

    @property
    def names(self) -> list[str]:
        served: list[str] = scenario.get("served", [self.name])
        return served

    def do_GET(self) -> None:
        if self.path == "/fake":
            self.reply(200, self.asked)
        elif self.path == "/health":
            if self.engine.dead:
                self.reply(503)
            elif not self.misbehaves("health"):
                self.reply(200)
        elif self.path == "/metrics":
            if not self.misbehaves("metrics"):
                self.reply(200, self.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path == "/v1/models":
            if not self.refuses() and not self.misbehaves("models"):
                cards = [{"id": name, "object": "model", "owned_by": "vllm", "root": name} for name in self.names]
                self.reply(200, {"object": "list", "data": cards})
        else:
            self.reply(404, {"detail": "Not Found"})

    def metrics(self) -> bytes:
        if scenario.get("metrics") == "empty":
            return b"# HELP up Nothing of vLLM's.\n"
        page = metrics_page(self.engine, self.name)
        if scenario.get("metrics") == "frozen":
            self.frozen.append(page)
            return self.frozen[0]
        return page

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        if self.path == "/fake":
            scenario.update(body)
            self.frozen.clear()
            self.reply(200, {})
            return
        if self.refuses():
            return
        self.asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
        if len(self.asked) > scenario.get("hang_after", len(self.asked)):
            threading.Event().wait()
        known = ["/v1/embeddings"] if self.pooling else ["/v1/chat/completions", "/v1/completions"]
        images = '"image_url"' in json.dumps(body.get("messages"))
        if self.path not in known:
            self.reply(404, {"detail": "Not Found"})
        elif body.get("model") not in self.names:
            self.fail(404, f"The model `{body.get('model')}` does not exist.")
        elif self.path == "/v1/chat/completions" and scenario.get("chat") == "no template":
            self.fail(400, NO_TEMPLATE)
        elif images and scenario.get("image", 200) != 200:
            self.fail(scenario["image"], "Failed to apply Glm4vProcessor on the image")
        elif not self.misbehaves("chat"):
            self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        """As the real one does, when nothing is wrong."""
        time.sleep(scenario.get("answer_after", 0))
        tokens = 0 if self.pooling or scenario.get("chat") == "empty" else int(body.get("max_tokens") or 16)
        if not self.engine.generate(tokens):
            self.fail(500, ENGINE_DEAD)
            return
        text = "word " * tokens
        answer: dict[str, Any] = {
            "id": "cmpl-1",
            "model": body["model"],
            "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens},
        }
        if self.pooling:
            answer["data"] = [{"index": 0, "object": "embedding", "embedding": [0.25, -0.5, 0.125]}]
        elif self.path == "/v1/completions":
            answer["choices"] = [{"index": 0, "text": text, "finish_reason": "length"}]
        else:
            message = {"role": "assistant", "content": text or None, "reasoning": None}
            answer["choices"] = [{"index": 0, "message": message, "finish_reason": "length"}]
        self.reply(200, answer)


class Server(ThreadingHTTPServer):
    """Many at a time; those that hang do not keep it from ending."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        """Shared, as the real one does; without looking up its own name, which may take its time."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, *_: object) -> None:
        """Somebody did not wait for the answer."""


def load() -> None:
    """The lines by which vLLM shows where its start is."""
    say("INFO 11-20 10:00:00 [api_server.py:1950] vLLM API server version 0.32.0")
    say("INFO 11-20 10:00:00 [gpu_model_runner.py:4200] Starting to load model tiny...")
    shards = scenario["shards"]
    for done in range(shards + 1):
        say(f"Loading safetensors checkpoint shards: {100 * done // max(shards, 1):3}% Completed | {done}/{shards}")
        time.sleep(scenario["start"] / (shards + 1))
    if "say" in scenario:
        say(scenario["say"])
    if "exit" in scenario:
        sys.exit(scenario["exit"])
    say("INFO 11-20 10:00:01 [core.py:282] init engine (profile, create kv cache, warmup model) took 0.10 seconds")


def main() -> None:
    """Load, serve, and end when it is told to or when the engine is dead."""
    obedient = not scenario.get("ignore_term")
    signal.signal(signal.SIGTERM, signal.SIG_DFL if obedient else signal.SIG_IGN)
    load()
    engine = Engine()

    def leave(*_: object) -> None:
        os.kill(engine.core, signal.SIGTERM)  # its Worker sees the end of the link
        os._exit(0)

    if obedient:
        signal.signal(signal.SIGTERM, leave)
    Handler.engine, Handler.name = engine, option("--served-model-name", option("--model", "fake"))
    server = Server((option("--host", "127.0.0.1"), int(option("--port", "8000"))), Handler)
    say(f"INFO:     Started server process [{os.getpid()}]")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 60}, daemon=True).start()
    engine.watch()


if __name__ == "__main__":
    if any(word.endswith("fork_server.py") for word in sys.argv):
        sys.exit("this one cannot be forked")
    main()
