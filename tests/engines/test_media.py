"""What clients may have vLLM fetch and send to it, with the real LiteLLM and the real vLLM; and what vLLM knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_supervisor.engines import canary
from tests.engines.conftest import ALIAS, Engines, cold, config
from tests.support.harness import Daemon, marked

pytestmark = pytest.mark.real

KEYS = {"LITELLM_MASTER_KEY": "sk-of-the-gateway-8d1f0a7c55e94b27", "OPENAI_API_KEY": "sk-proj-of-a-cloud-5a40c98e1f"}


@pytest.fixture(scope="module")
def settings(engines: Engines) -> dict[str, Any]:
    """The demo's, without fork servers, with keys."""
    return cold(dict(config(engines, env_file="keys.env")))


@pytest.fixture(scope="module")
def daemon(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("media")
    keys = folder / "keys.env"
    keys.write_text("".join(f"{name}={value}\n" for name, value in KEYS.items()))
    keys.chmod(0o600)
    with Daemon(folder, settings, env={"ANTHROPIC_API_KEY": "sk-ant-of-the-shell"}) as running:
        running.wait_ready(timeout=300)
        yield running


@contextmanager
def pictures() -> Iterator[tuple[str, list[str]]]:
    """Serves a picture on a loopback address, and sends whoever asks for /moved to it; with the paths that were asked
    for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            picture = b"" if self.path == "/moved" else canary.png()
            self.send_response(200 if picture else 302)
            if not picture:
                self.send_header("Location", "/picture.png")
            self.send_header("Content-Length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def ask(daemon: Daemon, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEYS['LITELLM_MASTER_KEY']}"}
    url = daemon.status()["endpoint"] + path
    return httpx.post(url, json={"model": ALIAS, **body}, headers=headers, timeout=120, trust_env=False)


def ways(url: str) -> dict[str, dict[str, Any]]:
    """A request of each API for the picture at that address."""
    text = {"type": "text", "text": "what is this?"}
    return {
        "/v1/chat/completions": {
            "max_tokens": 4,
            "messages": [{"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": url}}]}],
        },
        "/v1/messages": {
            "max_tokens": 4,
            "messages": [{"role": "user", "content": [text, {"type": "image", "source": {"type": "url", "url": url}}]}],
        },
        "/v1/responses": {
            "max_output_tokens": 16,
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "what is this?"},
                        {"type": "input_image", "image_url": url},
                    ],
                }
            ],
        },
    }


def test_nothing_inside_is_fetched(daemon: Daemon) -> None:
    with pictures() as (address, asked):
        for path, body in ways(f"{address}/picture.png").items():
            answer = ask(daemon, path, body)
            assert answer.status_code == 400, (path, answer.text)
            assert "127.0.0.1 is at a private address, or unknown" in answer.json()["error"]["message"]
        assert asked == []
    inline = ways(canary.image_url())["/v1/chat/completions"]
    assert ask(daemon, "/v1/chat/completions", inline).status_code == 200


def test_a_host_that_is_allowed_is_asked_and_nowhere_else(daemon: Daemon, settings: dict[str, Any]) -> None:
    engine = daemon.program(ALIAS)["pid"]
    media = {"allow_hosts": ["127.0.0.1"], "max_files": 2, "max_body": "64K"}
    daemon.write({**settings, "gateway": {**settings["gateway"], "media": media}})
    assert daemon.cli("reload", timeout=120).returncode == 0
    daemon.wait_ready()
    assert daemon.program(ALIAS)["pid"] == engine, "only the gateway is replaced"
    chat = "/v1/chat/completions"
    with pictures() as (address, asked):
        for path, body in ways(f"{address}/picture.png").items():
            answer = ask(daemon, path, body)
            assert answer.status_code == 200, (path, answer.text)
        assert len(asked) == 3 and set(asked) == {"/picture.png"}
        asked.clear()
        answer = ask(daemon, chat, ways(f"{address}/moved")[chat])
        assert answer.status_code >= 400, answer.text
        assert set(asked) == {"/moved"}, "a redirect is not followed"
        parts = [{"type": "image_url", "image_url": {"url": f"{address}/picture.png"}}] * 3
        answer = ask(daemon, chat, {"messages": [{"role": "user", "content": parts}]})
        assert (answer.status_code, "this gateway takes 2" in answer.text) == (400, True)
    for size in (100_000, 20_000_000):
        answer = ask(daemon, chat, {"messages": [{"role": "user", "content": "x" * size}]})
        assert answer.status_code == 400
        assert "larger than 65536 bytes" in answer.json()["error"]["message"]


def test_vllm_knows_no_key_of_others(daemon: Daemon) -> None:
    seen = []
    for pid in marked(daemon.mark):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"vllm" in words.lower():
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            seen.append(pid)
            assert b"LLM_SUPERVISOR_INCARNATION=" in environ and b"VLLM_MEDIA_URL_ALLOW_REDIRECTS=0" in environ
            for key in (*KEYS.values(), "sk-ant-of-the-shell"):
                assert key.encode() not in environ
    assert len(seen) >= 2, "the API server and its engine"
